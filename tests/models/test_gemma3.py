"""Tests Gemma 3: a sliding window in most layers, image tokens that attend to each other, line breaks around images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from scramble.models import ModelError, load_vlm
from scramble.trie import TokenRules, pack
from tests.exactness import CASES, SELECTED, assert_exact, assert_generates, make_items


@pytest.mark.parametrize("case", SELECTED)
def test_trie_equals_one_sequence_a_row(
    case: str, tiny: Callable[[str], Path], with_lora: Any, images: list[Image.Image]
) -> None:
    """The window has 12 tokens and an image 16, so that every row is longer than the window."""
    vlm = load_vlm(tiny("gemma3"), dtype="float32")
    model = with_lora(vlm.model, vlm.family.lora_targets)
    marked = {"token_type_ids": [vlm.model.config.image_token_id]}
    assert_exact(model, vlm.family, vlm.processor, CASES[case], images, marked=marked)


def test_images_are_blocks_of_their_own(tiny: Callable[[str], Path], images: list[Image.Image]) -> None:
    vlm = load_vlm(tiny("gemma3"))
    items = make_items(vlm.family, vlm.processor, CASES["two images"], images)
    batch = pack(items, vlm.backbone.token_rules)
    assert batch.block_BL is not None
    assert torch.bincount(batch.block_BL[batch.block_BL >= 0]).tolist() == [16, 16]
    whole = pack(items, TokenRules(vlm.backbone.token_rules.features, block=vlm.backbone.token_rules.block))
    assert whole.block_BL is not None and int(whole.block_BL.max()) == 0


def test_generation_on_a_shared_prefix(tiny: Callable[[str], Path], images: list[Image.Image]) -> None:
    assert_generates(load_vlm(tiny("gemma3"), dtype="float32"), images[:1], 20)


def test_crops_are_refused(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    import shutil

    from transformers import AutoProcessor

    folder = shutil.copytree(tiny("gemma3"), tmp_path / "model")
    processor = AutoProcessor.from_pretrained(folder)
    processor.image_processor.do_pan_and_scan = True
    processor.save_pretrained(folder)
    with pytest.raises(ModelError, match="set do_pan_and_scan to false"):
        load_vlm(folder)


def test_a_processor_without_an_image_token_is_refused(tiny: Callable[[str], Path]) -> None:
    vlm = load_vlm(tiny("gemma3"))
    other = load_vlm(tiny("smolvlm")).processor
    assert getattr(other.tokenizer, "image_token_id", None) is None
    expected = vlm.model.config.image_token_id
    with pytest.raises(
        ModelError, match=f"Idefics3Processor.* has no image token, but the model expects token {expected}, so"
    ):
        vlm.family.check_processor(other, vlm.model.config)
