"""Tests in-process engines with a tiny random model: encoding, sampling and reports."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import pytest
import torch

from scramble.engines import EngineError, Message, Reply, ReplyStore, Request, open_engine
from scramble.engines.sampling import RowSampler
from scramble.engines.transformers_local import TransformersEngine
from scramble.models import Prompt
from scramble.records import ImageFile


def picture(color: str) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (48, 48), color).save(buffer, "PNG")
    return buffer.getvalue()


def ask(text: str, *images: bytes, **settings: object) -> Request:
    return Request((Message("user", text, images),), max_tokens=8, **settings)  # type: ignore[arg-type]


def test_greedy_is_the_argmax_of_the_model(text_model: Path) -> None:
    engine = TransformersEngine(text_model, batch_size=2)
    texts = ["A red circle.", "a small yellow star above the green triangle"]
    replies = list(engine.generate([ask(text) for text in texts]))
    for text, reply in zip(texts, replies, strict=True):
        ids = engine._tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=True
        )["input_ids"]
        prompt = len(ids)
        for _ in range(8):
            with torch.inference_mode():
                logits = engine._model(torch.tensor([ids], device=engine._model.device)).logits
            ids = [*ids, int(logits[0, -1].argmax())]
        assert reply.text == engine._tokenizer.decode(ids[prompt:], skip_special_tokens=True).strip()
        assert reply.prompt_tokens == prompt and reply.completion_tokens == 8 and reply.finish_reason == "length"


@pytest.mark.parametrize("kind", ["text", "vision"])
def test_the_default_device_is_the_gpu(
    kind: str, text_model: Path, vision_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scramble.engines.transformers_local.device_or_gpu", lambda device: device or "meta")
    path = text_model if kind == "text" else vision_model
    assert TransformersEngine(path)._model.device.type == "meta"
    assert TransformersEngine(path, device="cpu")._model.device.type == "cpu"


def test_a_sample_does_not_depend_on_its_batch(text_model: Path) -> None:
    texts = ["A red circle.", "A blue square is left of a red circle.", "What is above the green triangle?"]
    requests = [ask(text, temperature=1.0, top_p=0.9, sample=i) for text in texts for i in range(3)]
    together = list(TransformersEngine(text_model, batch_size=9).generate(requests))
    alone = list(TransformersEngine(text_model, batch_size=1).generate(requests))
    assert together == alone and len({reply.text for reply in together}) > 3


def test_row_sampler_draws_from_the_nucleus() -> None:
    """Of the probabilities .5, .3, .15 and .05, top-p .9 at T = 1 excludes the last; the others become .526, .316 and
    .158.
    """
    count = 4000
    logits = torch.log(torch.tensor([0.05, 0.5, 0.15, 0.3])).expand(count, 4)
    sampler = RowSampler(range(count), temperature=1.0, top_p=0.9)
    drawn = sampler(torch.empty(0), logits).argmax(-1)
    share = torch.bincount(drawn, minlength=4) / count
    assert share[0] == 0
    assert torch.allclose(share[1:], torch.tensor([0.5, 0.15, 0.3]) / 0.95, atol=0.025)  # three standard errors
    sharp = RowSampler(range(count), temperature=0.1, top_p=1.0)(torch.empty(0), logits).argmax(-1)
    assert (sharp == 1).float().mean() > 0.98  # (.5 / .3) ** 10 = 165


def test_images_reach_the_model(vision_model: Path, tmp_path: Path) -> None:
    with open_engine("transformers", path=vision_model, batch_size=4) as engine, ReplyStore(tmp_path) as store:
        requests = [ask("what", picture(color)) for color in ("red", "blue", "red")] + [ask("what")]
        replies = list(engine.generate(requests, store))
        assert len(store) == 3 and replies[0] == replies[2]
        assert replies[0].prompt_tokens - replies[3].prompt_tokens >= 16
        model = engine._model  # type: ignore[attr-defined]
        encoded = engine._encode([requests[0], requests[1]])  # type: ignore[attr-defined]
        logits = model(**encoded).logits[:, -1]
        assert not torch.allclose(logits[0], logits[1])


def test_refusals_are_replies(text_model: Path, vision_model: Path) -> None:
    engine = TransformersEngine(text_model, batch_size=3)
    fine, long, with_image = engine.generate([ask("A red circle."), ask("red " * 400), ask("what", picture("red"))])
    assert (
        not fine.error
        and long.error.startswith("context overflow")
        and with_image.error == "this model does not accept images: use a vision-language model"
    )


def test_a_prompt_that_cannot_be_encoded_is_a_reply(vision_model: Path) -> None:
    """A text with the image placeholder and bytes that are not an image do not affect other requests of the batch."""
    engine = TransformersEngine(vision_model, batch_size=4)
    token = engine._processor.image_token
    image = picture("red")
    turns = (
        Message("user", "what", (image,)),
        Message("assistant", "a dog"),
        Message("user", f"is {token} it?"),
    )
    spoilt = [Request(turns, max_tokens=4), Request((*turns[:2], Message("user", "sure?")), max_tokens=4)]
    replies = list(engine.generate([ask("what", image), ask(f"a {token}", image), ask("what", b"no image"), *spoilt]))
    assert [bool(reply.error) for reply in replies] == [False, True, True, True, False]
    assert all(reply.error.startswith("refused") for reply in replies[1:4])


def test_unusable_models_are_named(tmp_path: Path, text_model: Path) -> None:
    with pytest.raises(EngineError, match=r"cannot load .*nowhere"):
        TransformersEngine(tmp_path / "nowhere")
    with pytest.raises(EngineError, match="unknown engine 'vlm': choose one of openai, transformers, vllm"):
        open_engine("vlm")
    (text_model / "chat_template.jinja").rename(tmp_path / "kept")
    try:
        with pytest.raises(EngineError, match="no chat template"):
            TransformersEngine(text_model)
    finally:
        (tmp_path / "kept").rename(text_model / "chat_template.jinja")


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_missing_vllm_is_reported() -> None:
    with pytest.raises(EngineError, match="pip install vllm"):
        open_engine("vllm", path="some/model")


def test_stop_words_end_the_text(text_model: Path) -> None:
    engine = TransformersEngine(text_model)
    (complete,) = engine.generate([ask("A red circle.")])
    word = complete.text[3:6]
    (stopped,) = engine.generate([ask("A red circle.", stop=(word,))])
    assert stopped == Reply(
        complete.text[: complete.text.find(word)].strip(), "stop", complete.prompt_tokens, stopped.completion_tokens
    )


def test_row_sampler_keeps_the_most_likely_tokens() -> None:
    """Of the probabilities .5, .3, .15 and .05, top-k 2 samples only the first two, with the probabilities .625 and
    .375.
    """
    count = 4000
    logits = torch.log(torch.tensor([0.05, 0.5, 0.15, 0.3])).expand(count, 4)
    drawn = RowSampler(range(count), temperature=1.0, top_p=1.0, top_k=2)(None, logits).argmax(-1)
    share = torch.bincount(drawn, minlength=4) / count
    assert torch.allclose(share, torch.tensor([0.0, 0.625, 0.0, 0.375]), atol=0.025)  # three standard errors


def test_samples_of_a_question_share_its_image(vision_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tower encodes one image for eight samples, and each sample equals that of a separate request."""
    requests = [ask("what", picture("red"), temperature=1.0, top_k=50, sample=i) for i in range(8)]
    engine = TransformersEngine(vision_model, batch_size=8)
    tower = engine._loaded.backbone.model.get_submodule("model.vision_tower")
    image_counts: list[int] = []
    tower.register_forward_pre_hook(
        lambda _, args, kwargs: image_counts.append(len(kwargs.get("pixel_values", args[0] if args else ()))),
        with_kwargs=True,
    )
    together = list(engine.generate(requests))
    assert image_counts == [1]
    alone = list(TransformersEngine(vision_model, batch_size=1).generate(requests))
    assert together == alone and len({reply.text for reply in together}) == 8


@pytest.mark.parametrize("sees", [False, True], ids=["text", "vision-text"])
def test_the_beginning_of_an_answer_is_continued(text_model: Path, vision_model: Path, sees: bool) -> None:
    """With greedy decoding, the reply is the model's continuation of the prompt and the answer's first words."""
    engine = TransformersEngine(vision_model if sees else text_model)
    text, begun, tokenizer = "What is above?", "a small yellow", engine._tokenizer
    images = (picture("red"),) if sees else ()
    first = tokenizer(begun, add_special_tokens=False)["input_ids"]
    if engine._loaded is not None:
        prompt = engine._loaded.family.encode_prompt(
            engine._processor, text, [ImageFile(image).open() for image in images]
        )
        inputs = engine._loaded.family.generation_inputs(
            Prompt([*prompt.input_ids, *first], prompt.images), engine._model
        )
    else:
        turns = [{"role": "user", "content": text}, {"role": "assistant", "content": begun}]
        ids = tokenizer.apply_chat_template(turns, continue_final_message=True, return_dict=True)["input_ids"]
        inputs = {"input_ids": torch.tensor([ids])}
    with torch.inference_mode():
        whole = engine._model.generate(**inputs, max_new_tokens=8, do_sample=False)[0]
    new = whole[inputs["input_ids"].shape[1] :].tolist()
    (rest,) = engine.generate([Request((Message("user", text, images), Message("assistant", begun)), max_tokens=8)])
    assert rest.prompt_tokens == inputs["input_ids"].shape[1]
    assert begun + rest.text == tokenizer.decode([*first, *new], skip_special_tokens=True).strip()


def test_top_k_is_part_of_the_key_where_it_is_given() -> None:
    assert ask("a").key("m") == ask("a", top_k=0).key("m") != ask("a", top_k=50).key("m")


@pytest.fixture(scope="module", params=["mllama", "paligemma"])
def rows_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny model of a family without a trie."""
    from tests.models.without_trie import MAKERS

    return MAKERS[request.param](tmp_path_factory.mktemp("models") / request.param, ["a red circle", "Yes", "No"])


def test_a_model_without_a_trie_answers_each_request_alone(rows_model: Path) -> None:
    """A greedy reply is that of ``model.generate``. A sample depends only on its own seed. Begun answers are
    continued.
    """
    from scramble.models.generation import generate_row

    red, blue = picture("red"), picture("blue")
    requests = [
        ask("A red circle?", red),
        ask("No?", blue, temperature=1.0),
        ask("No?", blue, temperature=1.0, sample=1),
    ]
    engine = TransformersEngine(rows_model, batch_size=4)
    together = list(engine.generate(requests))
    assert together == [next(iter(TransformersEngine(rows_model).generate([request]))) for request in requests]
    assert together[1].text != together[2].text and not any(reply.error for reply in together)
    vlm = engine._loaded
    assert vlm is not None
    prompt = vlm.family.encode_prompt(vlm.processor, "A red circle?", [ImageFile(red).open()])
    ids = generate_row(vlm, prompt, 8)
    assert together[0].text == vlm.processor.tokenizer.decode(ids, skip_special_tokens=True).strip()
    assert together[0].prompt_tokens == len(prompt.input_ids)
    begun = Request((Message("user", "A red circle?", (red,)), Message("assistant", "a red")), max_tokens=8)
    assert begun.continues
    (continued,) = engine.generate([begun])
    assert not continued.error and continued.prompt_tokens > len(prompt.input_ids)


def test_a_chat_with_a_system_turn_without_a_trie(tmp_path: Path) -> None:
    from tests.models.without_trie import save_tiny_mllama

    engine = TransformersEngine(save_tiny_mllama(tmp_path / "mllama", ["a red circle"]))
    turns = (Message("system", "a circle"), Message("user", "a red circle", (picture("red"),)))
    (reply,) = engine.generate([Request(turns, max_tokens=4)])
    assert not reply.error and reply.completion_tokens > 0
