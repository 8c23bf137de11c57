"""Generation on a shared prefix against transformers' own ``generate`` on each prompt alone."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from scramble.evaluation.items import Benchmark, Item
from scramble.evaluation.runner import evaluate, identify
from scramble.models.generation import generate_ids, stop_tokens
from scramble.models.prompts import PromptEncoder
from scramble.records import ImageFile, Question

QUESTIONS = ["What colour is the circle?", "Is there a red square? Please answer yes or no.", "How many?", "Count"]


def pictures(count: int) -> list[Image.Image]:
    torch.manual_seed(0)
    return [
        Image.fromarray((torch.rand(48, 48, 3) * 255).to(torch.uint8).numpy()).resize((48, 48)) for _ in range(count)
    ]


@pytest.fixture(scope="module")
def talkative(vlm):
    """The tiny model with a sharper head, so that greedy choices do not hang on rounding."""
    import copy

    model = copy.deepcopy(vlm.model)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    import dataclasses

    return dataclasses.replace(vlm, model=model)


def alone(vlm, prompt, limit: int) -> list[int]:
    ids = torch.tensor([prompt.input_ids])
    out = vlm.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        **prompt.images,
        max_new_tokens=limit,
        do_sample=False,
        eos_token_id=sorted(stop_tokens(vlm)),
    )
    new = out[0, ids.shape[1] :].tolist()
    return new[:-1] if new and new[-1] in stop_tokens(vlm) else new


def test_same_tokens_as_each_prompt_alone(talkative):
    encoder = PromptEncoder(talkative.family, talkative.processor)
    groups = [encoder.prompts(QUESTIONS[: 4 - k], [image]) for k, image in enumerate(pictures(3))]
    limits = [[12, 3, 7, 1][: len(group)] for group in groups]
    together = generate_ids(talkative, groups, limits)
    for group, bounds, found in zip(groups, limits, together, strict=True):
        for prompt, limit, ids in zip(group, bounds, found, strict=True):
            assert ids == alone(talkative, prompt, limit)
    assert len({tuple(ids) for group in together for ids in group}) > 4  # the model says different things


def test_a_stop_token_ends_one_branch_only(talkative):
    """A token that one prompt produces is declared a stop: answers are cut there, and the others do not change."""
    encoder = PromptEncoder(talkative.family, talkative.processor)
    prompts = encoder.prompts(QUESTIONS[:3], pictures(1))
    free = generate_ids(talkative, [prompts], [[8, 8, 8]])[0]
    token = free[0][3]
    config = talkative.backbone.model.generation_config
    before = config.eos_token_id
    config.eos_token_id = [before, token]
    try:
        cut = generate_ids(talkative, [prompts], [[8, 8, 8]])[0]
    finally:
        config.eos_token_id = before
    for whole, part in zip(free, cut, strict=True):
        assert part == (whole[: whole.index(token)] if token in whole else whole)


def test_prompts_are_spliced_as_the_processor_would_write_them(vlm):
    encoder = PromptEncoder(vlm.family, vlm.processor)
    image = pictures(1)
    for prompt, text in zip(encoder.prompts(QUESTIONS, image), QUESTIONS, strict=True):
        whole = vlm.family.encode_prompt(vlm.processor, text, image)
        assert prompt.input_ids == whole.input_ids
        assert all(torch.equal(prompt.images[k], whole.images[k]) for k in whole.images)
    assert encoder._splices


def questions(count: int) -> Benchmark:
    import io

    images = {}
    for k, picture in enumerate(pictures(2)):
        stream = io.BytesIO()
        picture.save(stream, "PNG")
        images[str(k)] = ImageFile(bytes=stream.getvalue())
    items = tuple(
        Item(Question(f"q{k}", (str(k % 2),), f"Is there a {k}?", "yes" if k % 3 else "no", "random"), "yes_no")
        for k in range(count)
    )
    return Benchmark("pope", "test", items, images, "pope")


def test_generated_benchmark_resumes_and_rescores(talkative, model_folder, tmp_path):
    from scramble.evaluation.runner import rescore

    benchmark, identity = questions(9), identify(model_folder)
    first = evaluate(talkative, [benchmark], "standard", tmp_path, model_id=identity, batch_tokens=256)[0]
    assert first.times["scored_now"] == 9
    assert first.self_test["texts_differ"] == 0
    other, outcomes = rescore(
        benchmark, {"name": "standard", "yes_no_parser": "pope_official"}, tmp_path / "pope", model_id=identity
    )
    assert all(o.prediction in ("yes", "no") for o in outcomes)
    assert other.scores["recall"]["value"] >= first.scores["recall"]["value"]
    alone = evaluate(talkative, [benchmark], "standard", tmp_path / "small", model_id=identity, batch_tokens=1)[0]
    assert alone.scores == first.scores


def test_several_images_and_no_image(talkative, model_folder, tmp_path):
    benchmark = questions(2)
    both = Item(Question("both", ("0", "1"), "Same?", "yes", "x"), "yes_no")
    none = Item(Question("none", (), "Is grass green?", "yes", "y"), "yes_no")
    import dataclasses

    wide = dataclasses.replace(benchmark, items=(*benchmark.items, both, none), scoring="plain")
    for protocol in ("standard", "likelihood"):
        result = evaluate(talkative, [wide], protocol, tmp_path / protocol, model_id=identify(model_folder))[0]
        assert result.rates["n"] == 4


def test_items_with_control_tokens_are_named_before_any_work(talkative, model_folder, tmp_path):
    """In a prompt that is not the first on its image, and in a candidate; nothing is asked before."""
    import dataclasses

    from scramble.evaluation.items import EvaluationError

    benchmark = questions(6)
    items = list(benchmark.items)
    for k in (3, 4):
        record = dataclasses.replace(items[k].record, question=f"Is <|im_end|> a {k}?")  # type: ignore[arg-type]
        items[k] = dataclasses.replace(items[k], record=record)
    benchmark = dataclasses.replace(benchmark, items=tuple(items))
    for protocol in ("standard", "scramble"):
        with pytest.raises(EvaluationError, match=r"item q3\b.*'<\|im_end\|>'.*; and \d+ more"):
            evaluate(talkative, [benchmark], protocol, tmp_path, model_id=identify(model_folder))
    assert not list(tmp_path.rglob("responses*.jsonl"))
