"""Compares tries in one pass with one sequence per row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from scramble.models.backbone import FamilyBackbone
from scramble.models.molmo import MolmoForCausalLM, MolmoProcessor
from scramble.models.molmo.family import Molmo
from scramble.models.molmo.tiny import save_tiny_molmo
from tests.exactness import CASES, assert_exact


@pytest.mark.parametrize(
    ("name", "attention"), [*((name, "sdpa") for name in CASES), ("one pair", "eager"), ("rows and padding", "eager")]
)
def test_tries_are_exact(
    name: str,
    attention: str,
    tiny: Callable[[str], Path],
    with_lora: Callable[[Any, str], Any],
    processor: MolmoProcessor,
    images: list[Image.Image],
) -> None:
    model = MolmoForCausalLM.from_pretrained(tiny("molmo"), attn_implementation=attention).eval()
    assert_exact(with_lora(model, Molmo.lora_targets), Molmo(), processor, CASES[name], images)


@pytest.mark.parametrize("name", ["five captions", "several images in a row"])
def test_tries_are_exact_with_the_switches_of_7b_o(
    name: str, tmp_path: Path, with_lora: Callable[[Any, str], Any], images: list[Image.Image]
) -> None:
    folder = save_tiny_molmo(tmp_path, ["describe the image", "a red circle above a blue square"], like_7b_o=True)
    model = with_lora(MolmoForCausalLM.from_pretrained(folder).eval(), Molmo.lora_targets)
    assert_exact(model, Molmo(), MolmoProcessor.from_pretrained(folder), CASES[name], images)


def test_tower_and_projector_can_be_trained_through_the_trie(
    tiny: Callable[[str], Path], processor: MolmoProcessor, images: list[Image.Image]
) -> None:
    """All weights except those on which no output depends: the tower's last block and embeddings of absent tokens."""
    model = MolmoForCausalLM.from_pretrained(tiny("molmo")).train()
    model.model.vision_backbone.image_vit.transformer.resblocks[-1].requires_grad_(False)
    assert_exact(model, Molmo(), processor, CASES["rows and padding"], images)
    assert model.model.vision_backbone.pad_embed.requires_grad


def test_features_of_a_batch_are_those_of_each_alone(
    lively: MolmoForCausalLM, processor: MolmoProcessor, images: list[Image.Image]
) -> None:
    backbone = FamilyBackbone(Molmo(), lively)
    prompts = [Molmo().encode_prompt(processor, "x", [image]) for image in images]
    with torch.no_grad():
        together = backbone.encode_images([prompt.images for prompt in prompts if prompt.images])
        for prompt, features in zip(prompts, together, strict=True):
            assert prompt.images is not None
            (alone,) = backbone.encode_images([prompt.images])
            torch.testing.assert_close(features, alone, atol=1e-5, rtol=1e-5)
            assert len(features) == prompt.input_ids.count(processor.image_patch_token_id)
