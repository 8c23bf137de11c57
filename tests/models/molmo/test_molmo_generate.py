"""Tests greedy generation: with and without a cache, alone and in a batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from scramble.models.molmo import MolmoForCausalLM, MolmoProcessor

PROMPTS = (" User: describe the image Assistant:", " User: is there a circle in this image of many shapes Assistant:")


def answers(model: Any, batch: Any, **options: Any) -> list[list[int]]:
    length = batch["input_ids"].shape[1]
    ids = model.generate(**batch, do_sample=False, max_new_tokens=12, eos_token_id=None, pad_token_id=0, **options)
    return ids[:, length:].tolist()


def test_answers_vary(lively: MolmoForCausalLM, processor: MolmoProcessor, images: list[Image.Image]) -> None:
    """If all answers were equal, the comparisons below would be meaningless."""
    first = answers(lively, processor(images=images[0], text=PROMPTS[0]))[0]
    assert len(set(first)) > 4
    assert answers(lively, processor(images=images[1], text=PROMPTS[0]))[0] != first
    assert answers(lively, processor(images=images[0], text=PROMPTS[1]))[0] != first


@pytest.mark.parametrize("num_images", [0, 1])
def test_cache_changes_no_token(
    num_images: int, lively: MolmoForCausalLM, processor: MolmoProcessor, images: list[Image.Image]
) -> None:
    batch = processor(images=images[3] if num_images else None, text=PROMPTS[0])
    assert answers(lively, batch, use_cache=True) == answers(lively, batch, use_cache=False)


def test_images_are_encoded_once_with_a_cache(
    lively: MolmoForCausalLM, processor: MolmoProcessor, images: list[Image.Image]
) -> None:
    calls = []
    handle = lively.model.vision_backbone.register_forward_hook(lambda *args: calls.append(1))
    try:
        answers(lively, processor(images=images[0], text=PROMPTS[0]))
    finally:
        handle.remove()
    assert len(calls) == 1


def test_a_batch_of_two_equals_each_alone(
    lively: MolmoForCausalLM, processor: MolmoProcessor, images: list[Image.Image]
) -> None:
    """The texts have different lengths, the images have different numbers of crops, and the batch is padded on the
    left.
    """
    pair = [images[0], images[3]]
    batch = processor(images=pair, text=list(PROMPTS), padding_side="left")
    alone = [processor(images=image, text=text) for image, text in zip(pair, PROMPTS, strict=True)]
    assert len({one["images"].shape for one in alone}) == 2
    assert answers(lively, batch) == [answers(lively, one)[0] for one in alone]


def test_a_row_without_image_in_a_batch(
    lively: MolmoForCausalLM, processor: MolmoProcessor, images: list[Image.Image]
) -> None:
    batch = processor(images=[[images[0]], []], text=list(PROMPTS), padding_side="left")
    alone = [processor(images=images[0], text=PROMPTS[0]), processor(text=PROMPTS[1])]
    assert answers(lively, batch) == [answers(lively, one)[0] for one in alone]


def test_beams_and_static_cache(lively: MolmoForCausalLM, processor: MolmoProcessor, images: list[Image.Image]) -> None:
    batch = processor(images=images[0], text=PROMPTS[0])
    assert len(answers(lively, batch, num_beams=3, num_return_sequences=2)) == 2
    assert answers(lively, batch, cache_implementation="static", disable_compile=True) == answers(lively, batch)


def test_embeddings_can_start_a_generation(
    lively: MolmoForCausalLM, processor: MolmoProcessor, images: list[Image.Image]
) -> None:
    batch = processor(images=images[0], text=PROMPTS[0])
    with torch.no_grad():
        features = lively.get_image_features(batch["images"], batch["image_masks"])
        embeds = lively.get_input_embeddings()(batch["input_ids"])
        embeds = lively.model.add_image_features(embeds, features, batch["image_input_idx"])
    generator: Any = lively
    ids = generator.generate(
        inputs_embeds=embeds,
        attention_mask=batch["attention_mask"],
        do_sample=False,
        max_new_tokens=12,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert ids.tolist() == answers(lively, batch)
