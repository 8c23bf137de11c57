"""Tests models without a trie: one row per sequence equals transformers' own forward, and every refusal is one line."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

import scramble
from scramble.evaluation.items import Query
from scramble.evaluation.prompts import QueryEncoder, score_queries
from scramble.models import VLM, ModelError, load_vlm
from scramble.models.chat import answer
from scramble.models.families.any_model import AnyModel
from scramble.models.generation import generate_row, stop_tokens
from scramble.models.loading import empty_model
from scramble.models.preflight import preflight
from scramble.trie import NonFiniteError

QUESTIONS = ("describe the image", "is there a red circle in this image of many shapes")
ANSWERS = ("a red circle", "a blue square above a green circle", "no")


def own_logps(vlm: VLM, question: str, reply: str, image: Image.Image) -> list[float]:
    """Return the log-probabilities of a reply's tokens in transformers' forward on the processor's inputs for the whole
    text.

    PaliGemma's processor takes the reply as ``suffix``, Mllama's as the assistant's turn.
    """
    processor = vlm.processor
    count = len(vlm.family.encode_completion(processor, reply))
    if vlm.family.name == "paligemma":
        inputs = processor(images=image, text="<image>" + question, suffix=reply, return_tensors="pt")
        assert int((inputs.pop("labels") != -100).sum()) == count
    else:
        user = [{"type": "image"}, {"type": "text", "text": question}]
        turns = [{"role": "user", "content": user}, {"role": "assistant", "content": [{"type": "text", "text": reply}]}]
        text = processor.apply_chat_template(turns, tokenize=False)
        inputs = processor(images=[image], text=text, return_tensors="pt", add_special_tokens=False)
    ids = inputs["input_ids"][0]
    with torch.inference_mode():
        logps = vlm.model(**inputs).logits[0, :-1].float().log_softmax(-1)
    return logps.gather(-1, ids[1:, None])[-count:, 0].tolist()


def queries(score_end: bool = True) -> list[Query]:
    return [Query(f"item {n}", (), text, ANSWERS, score_end=score_end) for n, text in enumerate(QUESTIONS)]


def scores(vlm: VLM, groups: Sequence[tuple[list[Query], list[Image.Image]]], batch_tokens: int) -> Any:
    encoder = QueryEncoder(vlm.family, vlm.processor)
    return [[s.tokens for s in group] for group in score_queries(vlm, encoder, groups, batch_tokens=batch_tokens)]


@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_scores_equal_transformers_own_forward(
    without_trie: Path, images: list[Image.Image], batch_tokens: int
) -> None:
    """Two prompts and three answers of different lengths per image have equal scores alone and as six padded rows of
    one batch.
    """
    vlm = load_vlm(without_trie)
    groups = [(queries(), [image]) for image in images[:3]]
    values: set[float] = set()
    for image, group in zip(images, scores(vlm, groups, batch_tokens), strict=False):
        expected = [own_logps(vlm, question, reply, image) for question in QUESTIONS for reply in ANSWERS]
        for one, other in zip(group, expected, strict=True):
            torch.testing.assert_close(list(one), other, atol=1e-5, rtol=0)
        values.update(round(sum(one), 6) for one in group)
    assert len(values) == 18, "prompt, answer and image change the score"


def test_the_end_of_turn_is_scored_only_if_requested(without_trie: Path, images: list[Image.Image]) -> None:
    vlm = load_vlm(without_trie)
    ((with_end, *_),) = scores(vlm, [(queries(), images[:1])], 4096)
    ((without_end, *_),) = scores(vlm, [(queries(score_end=False), images[:1])], 4096)
    torch.testing.assert_close(with_end[: len(without_end)], without_end)
    assert len(with_end) == len(without_end) + 1


def test_an_adapter_changes_the_scores(without_trie: Path, images: list[Image.Image], with_lora: Any) -> None:
    vlm = load_vlm(without_trie)
    before = scramble.score(vlm, images[0], QUESTIONS[0], ANSWERS)
    vlm.model = with_lora(vlm.model, vlm.family.lora_targets).eval()
    assert vlm.has_adapter
    after = scramble.score(vlm, images[0], QUESTIONS[0], ANSWERS)
    expected = [sum(own_logps(vlm, QUESTIONS[0], reply, images[0])) for reply in ANSWERS]
    torch.testing.assert_close(after, expected, atol=1e-4, rtol=0)
    assert all(abs(a - b) > 1e-3 for a, b in zip(before, after, strict=True))


def test_a_log_probability_that_is_not_finite_is_refused(without_trie: Path, images: list[Image.Image]) -> None:
    vlm = load_vlm(without_trie)
    with torch.no_grad():
        vlm.backbone.head.weight[5] = float("nan")
    with pytest.raises(NonFiniteError, match="item 0: a log-probability is NaN"):
        scores(vlm, [(queries(), images[:1])], 4096)


def test_inputs_of_an_answer_are_those_of_generate(without_trie: Path, images: list[Image.Image]) -> None:
    from transformers.utils import ModelOutput

    from scramble.models.rows import PER_TOKEN, extend

    vlm = load_vlm(without_trie)
    prompt = vlm.family.encode_prompt(vlm.processor, QUESTIONS[1], images[:1])
    expected = dict(prompt.images or {})
    for _ in range(3):
        model: Any = vlm.model
        expected = model._update_model_kwargs_for_generation(ModelOutput(), expected, False, num_new_tokens=1)
    actual = extend(vlm.family, prompt, [5, 6, 7])
    assert actual.input_ids == [*prompt.input_ids, 5, 6, 7]
    assert actual.images is not None and actual.images.keys() == expected.keys()
    assert PER_TOKEN & expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in actual.images.items())


def test_generated_tokens_are_the_most_likely_ones(without_trie: Path, images: list[Image.Image]) -> None:
    """Each new token is the argmax of a forward pass without a cache; the checkpoint's penalties are not used."""
    from scramble.models.rows import extend

    vlm = load_vlm(without_trie)
    vlm.model.generation_config.repetition_penalty = 5.0
    prompt = vlm.family.encode_prompt(vlm.processor, QUESTIONS[1], images[:1])
    expected: list[int] = []
    for _ in range(6):
        inputs = vlm.family.generation_inputs(extend(vlm.family, prompt, expected), vlm.model)
        with torch.inference_mode():
            expected.append(int(vlm.model(**inputs).logits[0, -1].argmax()))
        if expected[-1] in stop_tokens(vlm):
            expected.pop()
            break
    assert generate_row(vlm, prompt, 6) == expected
    text = answer(vlm, QUESTIONS[1], images[:1], max_new_tokens=6)
    assert isinstance(text, str)


def test_lora_targets_are_the_linear_layers_of_the_language_model(without_trie: Path) -> None:
    vlm = load_vlm(without_trie)
    hit = {name for name, _ in vlm.model.named_modules() if re.fullmatch(vlm.family.lora_targets, name)}
    decoder = vlm.backbone.decoder
    assert {id(vlm.model.get_submodule(name)) for name in hit} == {
        id(module) for module in decoder.modules() if isinstance(module, nn.Linear)
    }
    layers = [n for part in vlm.backbone.vision for n, m in part.named_modules() if isinstance(m, nn.Linear)]
    assert layers and vlm.backbone.head is vlm.model.get_output_embeddings()
    parameters = {id(p) for part in (decoder, vlm.backbone.head, *vlm.backbone.vision) for p in part.parameters()}
    assert parameters == {id(p) for p in vlm.model.parameters()}


@pytest.mark.parametrize(
    "model_type", ["aria", "gemma3", "idefics2", "kosmos-2", "llama4", "llava_next", "mistral3", "ovis2", "qwen3_5"]
)
def test_parts_are_found_in_released_architectures(model_type: str) -> None:
    from transformers import AutoConfig

    family = AnyModel(model_type)
    model = empty_model(AutoConfig.for_model(model_type))
    family.find_parts(model)
    hit = [name for name, _ in model.named_modules() if re.fullmatch(family.lora_targets, name)]
    assert len(hit) > 50 and all(name.startswith(family.language_model) for name in hit) and family.head not in hit
    assert family.vision and not any(path.startswith(f"{family.language_model}.") for path in family.vision)


def test_loading_says_that_tries_are_not_supported(without_trie: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "scramble"):
        vlm = load_vlm(without_trie)
    lines = [record.message for record in caplog.records if "separate row" in record.message]
    assert len(lines) == 1 and vlm.family.name in lines[0] and not vlm.family.has_trie


def test_tries_are_refused(without_trie: Path, images: list[Image.Image]) -> None:
    from scramble.trie.score import score

    vlm = load_vlm(without_trie)
    item = QueryEncoder(vlm.family, vlm.processor).trie_item(queries(), images[:1])
    with pytest.raises(ModelError, match=r"trainer\.backend=trl"):
        score(vlm.backbone, [item])


def test_length_and_preflight(without_trie: Path) -> None:
    vlm = load_vlm(without_trie)
    image = Image.new("RGB", (90, 60))
    prompt = vlm.family.encode_prompt(vlm.processor, QUESTIONS[0], [image])
    assert vlm.family.num_tokens(vlm.processor, QUESTIONS[0], [(60, 90)]) == len(prompt.input_ids)
    estimate = preflight(str(without_trie), available=1e12)
    assert estimate.parameters == sum(p.numel() for p in vlm.model.parameters()) and estimate.trained > 0
    estimate.check()


# ------------------------------------------------------------------------------------------------------------- refusals


def edited(folder: Path, tmp_path: Path, **values: Any) -> Path:
    """Return a copy of a model with other values in its config.json."""
    copy = Path(shutil.copytree(folder, tmp_path / "model"))
    file = copy / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    return copy


def refused(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_vlm(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_model_type_of_a_newer_transformers(without_trie: Path, tmp_path: Path) -> None:
    message = refused(edited(without_trie, tmp_path, model_type="quokka_vl", transformers_version="6.1.0"))
    assert "quokka_vl" in message and "6.1.0" in message and "pip install -U transformers" in message


@pytest.mark.parametrize(
    ("model_type", "native"),
    [
        ("qwen", "Qwen/Qwen2.5-VL-7B-Instruct"),
        ("minicpmv", "openbmb/MiniCPM-V-4.6"),
        ("internvl_chat", "OpenGVLab/InternVL3-8B-hf"),
        ("kimi_vl", "moonshotai/Kimi-K2.6"),
        ("ovis2_5", "thisisiron/Ovis2-2B-hf"),
        ("quokka_vl", "-hf"),
    ],
)
def test_a_model_with_remote_code(without_trie: Path, tmp_path: Path, model_type: str, native: str) -> None:
    message = refused(edited(without_trie, tmp_path, model_type=model_type, auto_map={"AutoModel": "modeling.Model"}))
    assert "code from its repository" in message and native in message


def test_an_encoder_decoder(without_trie: Path, tmp_path: Path) -> None:
    message = refused(edited(without_trie, tmp_path, model_type="florence2", text_config={}, vision_config={}))
    assert "florence2 is an encoder-decoder" in message


def test_a_processor_of_another_model(without_trie: Path, tmp_path: Path, tiny: Any) -> None:
    copy = Path(shutil.copytree(without_trie, tmp_path / "model"))
    for file in tiny("smolvlm").iterdir():
        if file.suffix != ".safetensors" and file.name not in ("config.json", "generation_config.json"):
            shutil.copyfile(file, copy / file.name)
    message = refused(copy)
    assert "belongs to another model: use the processor saved with the model" in message


def test_a_processor_without_a_chat_template(tmp_path: Path) -> None:
    from tests.models.without_trie import save_tiny_mllama

    folder = save_tiny_mllama(tmp_path / "mllama", QUESTIONS)
    for file in folder.glob("chat_template*"):
        file.unlink()
    assert "has no chat template" in refused(folder)


def test_paligemma_needs_an_image(tmp_path: Path) -> None:
    from tests.models.without_trie import save_tiny_paligemma

    vlm = load_vlm(save_tiny_paligemma(tmp_path / "paligemma", QUESTIONS))
    with pytest.raises(ModelError, match="supports only prompts with an image"):
        scramble.score(vlm, None, QUESTIONS[0], ANSWERS)
