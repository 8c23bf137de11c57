"""Compare generation on a shared prefix with transformers' own ``generate`` on each prompt separately."""

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


def draw_images(count: int) -> list[Image.Image]:
    torch.manual_seed(0)
    return [
        Image.fromarray((torch.rand(48, 48, 3) * 255).to(torch.uint8).numpy()).resize((48, 48)) for _ in range(count)
    ]


@pytest.fixture(scope="module")
def sharp_vlm(vlm):
    """Return the tiny model with a sharper head, so that greedy choices do not depend on rounding."""
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


def test_same_tokens_as_each_prompt_alone(sharp_vlm):
    encoder = PromptEncoder(sharp_vlm.family, sharp_vlm.processor)
    groups = [encoder.prompts(QUESTIONS[: 4 - k], [image]) for k, image in enumerate(draw_images(3))]
    limits = [[12, 3, 7, 1][: len(group)] for group in groups]
    together = generate_ids(sharp_vlm, groups, limits)
    for group, bounds, replies in zip(groups, limits, together, strict=True):
        for prompt, limit, ids in zip(group, bounds, replies, strict=True):
            assert ids == alone(sharp_vlm, prompt, limit)
    assert len({tuple(ids) for group in together for ids in group}) > 4  # the replies differ


def test_a_stop_token_ends_one_branch_only(sharp_vlm):
    """A token of one prompt's reply becomes a stop token: that reply ends there, and the others do not change."""
    encoder = PromptEncoder(sharp_vlm.family, sharp_vlm.processor)
    prompts = encoder.prompts(QUESTIONS[:3], draw_images(1))
    unlimited = generate_ids(sharp_vlm, [prompts], [[8, 8, 8]])[0]
    token = unlimited[0][3]
    config = sharp_vlm.backbone.model.generation_config
    before = config.eos_token_id
    config.eos_token_id = [before, token]
    try:
        stopped = generate_ids(sharp_vlm, [prompts], [[8, 8, 8]])[0]
    finally:
        config.eos_token_id = before
    for complete, part in zip(unlimited, stopped, strict=True):
        assert part == (complete[: complete.index(token)] if token in complete else complete)


def test_prompts_are_spliced_as_the_processor_would_write_them(vlm):
    encoder = PromptEncoder(vlm.family, vlm.processor)
    image = draw_images(1)
    for prompt, text in zip(encoder.prompts(QUESTIONS, image), QUESTIONS, strict=True):
        complete = vlm.family.encode_prompt(vlm.processor, text, image)
        assert prompt.input_ids == complete.input_ids
        assert all(torch.equal(prompt.images[k], complete.images[k]) for k in complete.images)
    assert encoder._can_insert


def questions(count: int) -> Benchmark:
    import io

    images = {}
    for k, picture in enumerate(draw_images(2)):
        stream = io.BytesIO()
        picture.save(stream, "PNG")
        images[str(k)] = ImageFile(bytes=stream.getvalue())
    items = tuple(
        Item(Question(f"q{k}", (str(k % 2),), f"Is there a {k}?", "yes" if k % 3 else "no", "random"), "yes_no")
        for k in range(count)
    )
    return Benchmark("pope", "test", items, images, "pope")


def test_a_generated_benchmark_resumes_and_its_replies_are_scored_again(sharp_vlm, model_folder, tmp_path):
    from scramble.evaluation.runner import score_replies

    benchmark, identity = questions(9), identify(model_folder)
    first = evaluate(sharp_vlm, [benchmark], "standard", tmp_path, model_id=identity, batch_tokens=256)[0]
    assert first.times["scored_now"] == 9
    assert first.self_test["texts_differ"] == 0
    other, outcomes = score_replies(
        benchmark, {"name": "standard", "yes_no_parser": "pope_official"}, tmp_path / "pope", model_id=identity
    )
    assert all(o.prediction in ("yes", "no") for o in outcomes)
    assert other.scores["recall"]["value"] >= first.scores["recall"]["value"]
    alone = evaluate(sharp_vlm, [benchmark], "standard", tmp_path / "small", model_id=identity, batch_tokens=1)[0]
    assert alone.scores == first.scores


def test_several_images_and_no_image(sharp_vlm, model_folder, tmp_path):
    benchmark = questions(2)
    both = Item(Question("both", ("0", "1"), "Same?", "yes", "x"), "yes_no")
    none = Item(Question("none", (), "Is grass green?", "yes", "y"), "yes_no")
    import dataclasses

    wide = dataclasses.replace(benchmark, items=(*benchmark.items, both, none), scoring="plain")
    for protocol in ("standard", "likelihood"):
        result = evaluate(sharp_vlm, [wide], protocol, tmp_path / protocol, model_id=identify(model_folder))[0]
        assert result.rates["n"] == 4


def test_items_with_control_tokens_are_named_before_any_work(sharp_vlm, model_folder, tmp_path):
    """The error is raised before any query is answered, for a prompt that is not the first on its image and for a
    candidate."""
    import dataclasses

    from scramble.evaluation.items import EvaluationError

    benchmark = questions(6)
    items = list(benchmark.items)
    for k in (3, 4):
        record = dataclasses.replace(items[k].record, question=f"Is <|im_end|> a {k}?")  # type: ignore[arg-type]
        items[k] = dataclasses.replace(items[k], record=record)
    benchmark = dataclasses.replace(benchmark, items=tuple(items))
    for protocol in ("standard", "scramble"):
        with pytest.raises(EvaluationError, match=r"item q3\b.*'<\|im_end\|>'.*\(number of affected queries: \d+\)"):
            evaluate(sharp_vlm, [benchmark], protocol, tmp_path, model_id=identify(model_folder))
    assert not list(tmp_path.rglob("responses*.jsonl"))
