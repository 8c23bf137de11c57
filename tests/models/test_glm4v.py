"""Tests GLM-4.1V, GLM-4.5V and GLM-4.6V: positions on three axes, prompts without thinking, ends of turns."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from scramble.models import ModelError, load_vlm
from scramble.models.generation import stop_tokens
from scramble.storage.files import read_json, write_json
from tests.exactness import CASES, SELECTED, assert_exact, assert_generates

NAMES = ("glm4v", "glm4v_moe", "glm46v")


@pytest.fixture(scope="module")
def tiny_glm(tiny: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a tiny model. The model type ``glm46v`` has the same weights as ``glm4v``."""

    def folder(name: str) -> Path:
        if name != "glm46v":
            return tiny(name)
        copy = tmp_path_factory.mktemp("glm") / name
        shutil.copytree(tiny("glm4v"), copy)
        config = read_json(copy / "config.json")
        config |= {"model_type": "glm46v", "architectures": ["Glm46VForConditionalGeneration"]}
        write_json(copy / "config.json", config)
        return copy

    return folder


@pytest.mark.parametrize("case", SELECTED)
@pytest.mark.parametrize("name", NAMES)
def test_trie_equals_one_sequence_a_row(
    name: str, case: str, tiny_glm: Callable[[str], Path], with_lora: Any, images: list[Image.Image]
) -> None:
    vlm = load_vlm(tiny_glm(name), dtype="float32")
    assert vlm.model.config.model_type == name
    model = with_lora(vlm.model, vlm.family.lora_targets)
    marked = {"mm_token_type_ids": [vlm.model.config.image_token_id]}
    assert_exact(model, vlm.family, vlm.processor, CASES[case], images, marked=marked)


@pytest.mark.parametrize("sizes", [[], [(90, 60)], [(40, 120), (64, 64)], [(500, 130)]])
def test_positions_are_those_of_transformers(sizes: list[tuple[int, int]], tiny_glm: Callable[[str], Path]) -> None:
    vlm = load_vlm(tiny_glm("glm4v"))
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
def test_generation_on_a_shared_prefix(name: str, tiny_glm: Callable[[str], Path], images: list[Image.Image]) -> None:
    assert_generates(load_vlm(tiny_glm(name), dtype="float32"), images[:2], enable_thinking=False)


@pytest.mark.parametrize(
    ("name", "prompt", "completion"),
    [
        ("glm4v", "two circles<|assistant|>\n", "yes<|user|>"),
        ("glm4v_moe", "two circles/nothink<|assistant|>\n<think></think>", "\nyes<|user|>"),
    ],
)
def test_prompt_without_thinking_and_end_of_turn(
    name: str, prompt: str, completion: str, tiny: Callable[[str], Path]
) -> None:
    vlm = load_vlm(tiny(name))
    assert vlm.family.render_prompt(vlm.processor, "two circles", 0) == "[gMASK]<sop><|user|>\n" + prompt
    assert vlm.family.render_completion(vlm.processor, "yes") == completion
    assert {vlm.family.encode_completion(vlm.processor, "yes")[-1]} < stop_tokens(vlm)


def test_adapters_of_a_mixture_of_experts(tiny: Callable[[str], Path], with_lora: Any) -> None:
    """Only attention layers have an adapter; the class of the family explains why."""
    vlm = load_vlm(tiny("glm4v_moe"))
    model = with_lora(vlm.model, vlm.family.lora_targets)
    adapted = {name.split(".lora_A")[0] for name, _ in model.named_parameters() if ".lora_A" in name}
    assert len(adapted) == 4 * vlm.model.config.text_config.num_hidden_layers
    assert all(".self_attn." in name for name in adapted)


def test_max_pixels(tiny: Callable[[str], Path]) -> None:
    picture = Image.new("RGB", (128, 128), "red")
    lengths = []
    for max_pixels in (None, 32 * 32):
        vlm = load_vlm(tiny("glm4v"), max_pixels=max_pixels)
        prompt = vlm.family.encode_prompt(vlm.processor, "describe the image", [picture])
        assert vlm.family.num_tokens(vlm.processor, "describe the image", [(128, 128)]) == len(prompt.input_ids)
        lengths.append(prompt.input_ids.count(vlm.model.config.image_token_id))
    assert lengths == [16, 4]
    # The limit is for one image, although the processor counts two frames.
    with pytest.raises(
        ModelError, match=r"max_pixels must be at least 256, not 200, because each image token represents 16 x 16 px"
    ):
        load_vlm(tiny("glm4v"), max_pixels=200)


def test_saved_folder_loads_without_the_project(tiny: Callable[[str], Path]) -> None:
    from transformers import AutoModelForImageTextToText

    folder = tiny("glm4v")
    AutoModelForImageTextToText.from_pretrained(folder)
    assert "ImageOnly" not in (folder / "processor_config.json").read_text()
