"""Tests Qwen2-VL, Qwen2.5-VL and Qwen3-VL: positions on three axes, features of later layers, images of any aspect
ratio.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers.utils import is_torchvision_available

from scramble.models import ModelError, load_vlm
from scramble.models.chat import answer
from tests.exactness import CASES, SELECTED, assert_exact, assert_generates

NAMES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")


@pytest.mark.parametrize("case", SELECTED)
@pytest.mark.parametrize("name", NAMES)
def test_trie_equals_one_sequence_a_row(
    name: str, case: str, tiny: Callable[[str], Path], with_lora: Any, images: list[Image.Image]
) -> None:
    vlm = load_vlm(tiny(name), dtype="float32")
    model = with_lora(vlm.model, vlm.family.lora_targets)
    marked = {"mm_token_type_ids": [vlm.model.config.image_token_id]}
    assert_exact(model, vlm.family, vlm.processor, CASES[case], images, marked=marked)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_lora_on_the_tower(name: str, tiny: Callable[[str], Path], images: list[Image.Image]) -> None:
    """Gradients of an adapter in tower and projector equal those of one sequence per row, also with DeepStack."""
    from scramble.training.trainable import add_lora

    vlm = load_vlm(tiny(name), dtype="float32")
    model = add_lora(vlm, {"r": 4}, vision=True)
    for weight_name, weight in model.named_parameters():
        if "lora_B" in weight_name:
            torch.nn.init.normal_(weight, std=0.05)
    assert any("visual.blocks" in name for name, weight in model.named_parameters() if weight.requires_grad)
    marked = {"mm_token_type_ids": [vlm.model.config.image_token_id]}
    assert_exact(model, vlm.family, vlm.processor, CASES["five captions"], images, marked=marked)


@pytest.mark.parametrize("sizes", [[], [(90, 60)], [(40, 120), (64, 64)], [(500, 130)]])
@pytest.mark.parametrize("name", NAMES)
def test_positions_are_those_of_transformers(
    name: str, sizes: list[tuple[int, int]], tiny: Callable[[str], Path]
) -> None:
    vlm = load_vlm(tiny(name))
    pictures = [Image.new("RGB", size, "red") for size in sizes]
    prompt = vlm.family.encode_prompt(vlm.processor, "describe the image", pictures)
    ids = torch.tensor([prompt.input_ids])
    grids = None if prompt.images is None else prompt.images["image_grid_thw"]
    types = (ids == vlm.model.config.image_token_id).long()
    wanted, _ = vlm.model.model.get_rope_index(ids, mm_token_type_ids=types, image_grid_thw=grids)
    positions = vlm.backbone.token_rules.positions
    assert positions is not None
    assert positions(prompt.input_ids, prompt.images).tolist() == wanted[:, 0].tolist()


@pytest.mark.parametrize("name", NAMES)
def test_generation_on_a_shared_prefix(name: str, tiny: Callable[[str], Path], images: list[Image.Image]) -> None:
    assert_generates(load_vlm(tiny(name), dtype="float32"), images[:2])


@pytest.mark.parametrize("name", NAMES[:3])
def test_max_pixels(name: str, tiny: Callable[[str], Path]) -> None:
    picture = Image.new("RGB", (128, 128), "red")
    lengths = []
    for max_pixels in (None, 32 * 32):
        vlm = load_vlm(tiny(name), max_pixels=max_pixels)
        prompt = vlm.family.encode_prompt(vlm.processor, "describe the image", [picture])
        assert vlm.family.num_tokens(vlm.processor, "describe the image", [(128, 128)]) == len(prompt.input_ids)
        lengths.append(prompt.input_ids.count(vlm.model.config.image_token_id))
    assert lengths == [16, 4]
    with pytest.raises(
        ModelError, match=r"llava does not support a limit on the pixels per image: remove model\.max_pixels=500"
    ):
        load_vlm(tiny("llava"), max_pixels=500)
    with pytest.raises(
        ModelError, match=r"max_pixels must be at least 256, not 100, because each image token represents 16 x 16 px"
    ):
        load_vlm(tiny("qwen2_vl"), max_pixels=100)


def test_very_long_image_is_refused(tiny: Callable[[str], Path]) -> None:
    vlm = load_vlm(tiny("qwen2_5_vl"))
    with pytest.raises(
        ModelError, match=r"1000 x 4 px is too elongated, because qwen2_5_vl accepts aspect ratios up to 200"
    ):
        vlm.family.encode_prompt(vlm.processor, "describe", [Image.new("RGB", (1000, 4))])
    with pytest.raises(ModelError, match="up to 200"):
        vlm.family.num_tokens(vlm.processor, "describe", [(4, 1000)])


@pytest.mark.parametrize("name", NAMES[:3])
def test_saved_folder_loads_without_the_project(name: str, tiny: Callable[[str], Path]) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = tiny(name)
    AutoModelForImageTextToText.from_pretrained(folder)
    if is_torchvision_available():
        AutoProcessor.from_pretrained(folder)
    else:
        assert "ImageOnly" not in (folder / "processor_config.json").read_text()


def test_chat(tiny: Callable[[str], Path]) -> None:
    vlm = load_vlm(tiny("qwen2_5_vl"))
    image = Image.linear_gradient("L").resize((90, 60))
    first = answer(vlm, "describe the image", [image], max_new_tokens=8)
    vlm.model.generation_config.use_cache = False
    assert answer(vlm, "describe the image", [image], max_new_tokens=8) == first
