"""Tests LLaVA-Interleave, LLaVA-NeXT and LLaVA-OneVision: prompts of the released templates, tokens of odd
image sizes.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaNextConfig, LlavaOnevisionConfig
from transformers.utils import is_torchvision_available

from scramble.models import ModelError, load_vlm
from scramble.models.families.llava import SYSTEM
from scramble.models.families.registry import family_named

IMAGES = "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
TEXTS = "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
# Chat templates of released checkpoints, copied from transformers' own tests and the conversion scripts.
VICUNA = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'][0]['text'] }}{% else %}"
    "{{ message['role'].upper() + ': '}}{% endif %}"
    + IMAGES
    + r"{{ '<image>\n' }}{% endfor %}"
    + TEXTS
    + "{{ content['text'] + ' '}}{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
YI = (
    r"{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}"
    + IMAGES
    + r"{{ '<image>\n' }}{% endfor %}"
    + TEXTS
    + r"{{ content['text'] }}{% endfor %}{{'<|im_end|>' + '\n'}}{% endfor %}"
    r"{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ONEVISION = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}"
    + IMAGES
    + "{{ '<image>' }}{% endfor %}"
    + TEXTS
    + r"{{ '\n' + content['text'] }}{% endfor %}{{'<|im_end|>'}}{% endfor %}"
    r"{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.mark.parametrize(
    ("name", "template", "prompt", "completion"),
    [
        ("llava_next", None, "<s>[INST] <image>\nwhat is it [/INST]", "a circle</s>"),
        ("llava_next", VICUNA, f"<s>{SYSTEM}USER: <image>\nwhat is it ASSISTANT:", "a circle</s>"),
        (
            "llava_onevision",
            YI,
            "<|im_start|>user\n<image>\nwhat is it<|im_end|>\n<|im_start|>assistant\n",
            "a circle<|im_end|>\n",
        ),
        (
            "llava_onevision",
            ONEVISION,
            "<|im_start|>user <image>\nwhat is it<|im_end|><|im_start|>assistant\n",
            "a circle<|im_end|>",
        ),
    ],
    ids=["mistral", "vicuna", "yi", "onevision"],
)
def test_prompts_of_released_templates(
    name: str, template: str | None, prompt: str, completion: str, tiny: Callable[[str], Path]
) -> None:
    """A prompt has BOS once. The answer follows the generation prompt and ends with the end of turn."""
    vlm = load_vlm(tiny(name))
    vlm.processor.chat_template = template or vlm.processor.chat_template
    assert vlm.family.render_prompt(vlm.processor, "what is it", 1) == prompt
    assert vlm.family.render_completion(vlm.processor, "a circle") == completion
    ids = vlm.family.encode_completion(vlm.processor, "a circle")
    assert {vlm.processor.tokenizer.eos_token_id} < set(ids)


def test_interleave_uses_its_own_template(tiny: Callable[[str], Path]) -> None:
    """LLaVA-Interleave has the class and the family of LLaVA-1.5, but a ChatML template and no BOS."""
    vlm = load_vlm(tiny("llava"))
    vlm.processor.chat_template = ONEVISION
    vlm.processor.tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    expected = "<|im_start|>user <image>\nwhat is it<|im_end|><|im_start|>assistant\n"
    assert vlm.family.render_prompt(vlm.processor, "what is it", 1) == expected
    assert vlm.family.render_completion(vlm.processor, "a circle") == "a circle<|im_end|>"


def sizes() -> list[tuple[int, int]]:
    """Return (height, width) pairs: sizes one pixel off the boundaries of tiles, extreme shapes, and random sizes."""
    draw = random.Random(0)
    edges = [n for side in (336, 384, 672, 1152) for n in (side - 1, side, side + 1)]
    extreme = [(4, 4), (4, 20000), (20000, 4), (5, 300), (2304, 2305), (30, 20000), (7000, 5000)]
    return (
        extreme
        + [(draw.choice(edges), draw.choice(edges)) for _ in range(40)]
        + [(draw.randint(4, 3000), draw.randint(4, 3000)) for _ in range(150)]
    )


@pytest.mark.parametrize("name", ["llava_next", "llava_onevision"])
def test_features_of_odd_sizes_at_released_scale(name: str, tiny: Callable[[str], Path]) -> None:
    """With released tile and patch sizes and grids, the model makes one feature per token for any image size.

    The model arranges given features of tiles itself (``pack_image_features``), so no tower of this size runs.
    """
    vlm = load_vlm(tiny(name))
    side = {"llava_next": 336, "llava_onevision": 384}[name]
    released: Any = {"llava_next": LlavaNextConfig, "llava_onevision": LlavaOnevisionConfig}[name]()
    model, processor = vlm.model.model, vlm.processor
    config = model.config
    config.image_grid_pinpoints = processor.image_processor.image_grid_pinpoints = released.image_grid_pinpoints
    config.vision_config.image_size, config.vision_config.patch_size = side, 14
    per_tile = (side // 14) ** 2
    if name == "llava_next":
        processor.patch_size, processor.image_processor.size = 14, {"shortest_edge": side}
        options: dict[str, Any] = {"vision_feature_select_strategy": "default"}
    else:
        processor.num_image_tokens, processor.vision_aspect_ratio = per_tile, released.vision_aspect_ratio
        processor.image_processor.size = {"height": side, "width": side}
        options = {"vision_aspect_ratio": released.vision_aspect_ratio}
    import importlib

    modeling = importlib.import_module(type(model).__module__)
    counts = set()
    for size in sizes():
        tiles = modeling.image_size_to_num_patches(list(size), released.image_grid_pinpoints, side)
        features = [torch.zeros(tiles, per_tile, 1)]
        packed, _ = model.pack_image_features(features, [list(size)], image_newline=torch.zeros(1), **options)
        assert vlm.family.image_lengths(processor, [size]) == [len(packed[0])], size
        counts.add(len(packed[0]))
    assert len(counts) > 20


@pytest.mark.parametrize("name", ["llava_next", "llava_onevision"])
def test_prompts_with_different_numbers_of_tiles_in_one_pass(name: str, tiny: Callable[[str], Path]) -> None:
    """The tower runs once over images with different numbers of tiles, and the features are those of each prompt."""
    vlm = load_vlm(tiny(name), dtype="float32")
    generator = torch.Generator().manual_seed(0)

    def picture(height: int, width: int) -> Image.Image:
        return Image.fromarray(torch.randint(256, (height, width, 3), generator=generator).byte().numpy())

    groups = [[picture(20, 90)], [picture(30, 30), picture(80, 61)], [picture(101, 99)], [picture(64, 20)]]
    inputs = [vlm.family.encode_prompt(vlm.processor, "describe", group).images for group in groups]
    assert len({i["pixel_values"].shape[1] for i in inputs}) > 1
    calls = []
    handle = vlm.backbone.vision[0].register_forward_hook(lambda *_: calls.append(1))
    together = vlm.backbone.encode_images(inputs)
    handle.remove()
    assert len(calls) == 1
    for one, features in zip(inputs, together, strict=True):
        alone = vlm.model.get_image_features(**one, return_dict=True).pooler_output
        torch.testing.assert_close(features, torch.cat(alone), atol=1e-5, rtol=0)


def test_images_of_a_prompt_with_several_have_one_view(tiny: Callable[[str], Path]) -> None:
    """As in transformers, each of several images has one view of 16 tokens and the vector that ends a row; a single
    image has tiles."""
    vlm = load_vlm(tiny("llava_onevision"))
    image = Image.new("RGB", (60, 60), "red")
    one, two = (vlm.family.encode_prompt(vlm.processor, "compare", [image] * n) for n in (1, 2))
    token = vlm.processor.image_token_id
    assert two.input_ids.count(token) == 2 * 17
    assert one.input_ids.count(token) > 80
    nested = vlm.processor(images=[[image, image]], text=["<image><image>"], return_tensors="pt")
    assert nested["input_ids"][0].tolist().count(token) == 2 * 17


def test_bad_input(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"llava_next has fixed grids of tiles .* remove model.max_tiles=2"):
        load_vlm(tiny("llava_next"), max_tiles=2)
    config = load_vlm(tiny("llava_onevision")).model.config
    with pytest.raises(ModelError, match="use the processor saved with the model"):
        family_named("llava_onevision").check_processor(load_vlm(tiny("llava_next")).processor, config)
    processor = load_vlm(tiny("llava_onevision")).processor
    processor.image_processor.image_grid_pinpoints = [[28, 28]]
    with pytest.raises(
        ModelError, match=r"1 grids of tiles .* from \[28, 28\] to \[28, 28\], but the model has 16 from"
    ):
        family_named("llava_onevision").check_processor(processor, config)


def test_saved_onevision_processor_loads_everywhere(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    """The folder names the video part of the native class and no class of this project."""
    vlm = load_vlm(tiny("llava_onevision"))
    vlm.processor.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(vlm.model.config.to_json_string())
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    assert saved["video_processor"]["video_processor_type"] == "LlavaOnevisionVideoProcessor"
    assert saved["num_image_tokens"] == 16 and saved["vision_aspect_ratio"] == "anyres_max_4"
    assert not any("scramble" in file.read_text() for file in tmp_path.glob("*.json"))
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded, type(vlm.processor))
    assert hasattr(loaded, "video_processor") == is_torchvision_available()
    image = Image.linear_gradient("L").convert("RGB").resize((90, 31))
    for one in (loaded, vlm.processor):
        ids = one(images=[[image]], text=["<image>"], return_tensors="pt")["input_ids"]
        assert ids.tolist() == vlm.processor(images=[image], text="<image>", return_tensors="pt")["input_ids"].tolist()
