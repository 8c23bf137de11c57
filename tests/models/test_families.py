"""Tests properties of every family: exact tries, token counts from image sizes, LoRA only on the language model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers.utils import is_torchvision_available

from scramble.models import ModelError, load_vlm
from scramble.models.backbone import FamilyBackbone
from tests.exactness import CASES, SELECTED, assert_exact, continuation

# Families whose tries are tested only in this file, and those among them whose processor needs torchvision.
TESTED = ("llava", "llava_next", "llava_onevision", "ovis2", "aya_vision", "smolvlm")
TORCHVISION = ("mistral3", "cohere2_vision") if is_torchvision_available() else ()
# Tiny models whose processor can be built here: Molmo2's needs torchvision.
QWEN_VL = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "glm4v")
BUILT: tuple[str, ...] = ("internvl", *TESTED, "molmo", "gemma3", "gemma4", *QWEN_VL, *TORCHVISION)
BUILT += ("molmo2",) if is_torchvision_available() else ()
# Sizes (height, width) below the minimum of a family's tiny model.
REFUSED = {"mistral3": {(1, 1), (2, 2), (3, 200), (200, 3), (30, 20000)}}
VARIANTS = ("internvl_moe", "aya_vision_windows", *(("ministral3",) if is_torchvision_available() else ()))


@pytest.mark.parametrize("case", SELECTED)
@pytest.mark.parametrize("name", [*TESTED, *TORCHVISION, *VARIANTS])
def test_trie_equals_one_sequence_a_row(
    name: str, case: str, tiny: Callable[[str], Path], with_lora: Any, images: list[Image.Image]
) -> None:
    vlm = load_vlm(tiny(name), dtype="float32")
    model = with_lora(vlm.model, vlm.family.lora_targets)
    assert_exact(model, vlm.family, vlm.processor, CASES[case], images)


SIZES = [(48, 48), (1, 1), (3, 200), (200, 3), (37, 61), (2, 2), (500, 130), (30, 20000)]  # height and width in pixels


@pytest.mark.parametrize("name", BUILT)
def test_length_is_known_from_the_size_alone(name: str, tiny: Callable[[str], Path]) -> None:
    vlm, text = load_vlm(tiny(name)), "describe the image"
    assert vlm.family.num_tokens(vlm.processor, text, []) == len(
        vlm.family.encode_prompt(vlm.processor, text).input_ids
    )
    for size in SIZES:
        if name in QWEN_VL and max(size) > 200 * min(size):
            continue  # refused, see test_very_long_image_is_refused
        picture = Image.new("RGB", (size[1], size[0]), "red")
        for count in (1, 2) if size == SIZES[0] else (1,):
            if size in REFUSED.get(name, ()):
                complaint = f"{size[1]} x {size[0]} px is too small or too narrow for {name}"
                with pytest.raises(ModelError, match=complaint):
                    vlm.family.encode_prompt(vlm.processor, text, [picture] * count)
                with pytest.raises(ModelError, match=complaint):
                    vlm.family.num_tokens(vlm.processor, text, [size] * count)
                continue
            prompt = vlm.family.encode_prompt(vlm.processor, text, [picture] * count)
            assert vlm.family.num_tokens(vlm.processor, text, [size] * count) == len(prompt.input_ids), size
            (features,) = vlm.backbone.encode_images([prompt.images])
            assert len(features) == sum(i in vlm.backbone.token_rules.features for i in prompt.input_ids), size


@pytest.mark.parametrize("name", BUILT)
def test_odd_images(name: str, tiny: Callable[[str], Path]) -> None:
    """Images of any mode are converted to RGB; an EXIF-rotated image equals the upright one."""
    vlm = load_vlm(tiny(name))
    key = "images" if name == "molmo" else "pixel_values"

    def pixels(image: Image.Image) -> torch.Tensor:
        return vlm.family.encode_prompt(vlm.processor, "describe", [image]).images[key]

    grey = Image.linear_gradient("L").resize((60, 40))
    expected = pixels(grey.convert("RGB"))
    for image in (grey, grey.convert("RGBA"), grey.convert("LA"), grey.convert("P")):
        torch.testing.assert_close(pixels(image), expected)
    assert pixels(grey.convert("CMYK")).shape == expected.shape
    assert pixels(grey.convert("1")).shape == expected.shape
    rotated = grey.convert("RGB").transpose(Image.Transpose.ROTATE_90)
    rotated.getexif()[0x0112] = 6  # "turn clockwise to view"
    torch.testing.assert_close(pixels(rotated), expected)


@pytest.mark.parametrize("name", BUILT)
def test_image_placeholder_in_text_is_refused(name: str, tiny: Callable[[str], Path]) -> None:
    vlm = load_vlm(tiny(name))
    with pytest.raises(ModelError, match="placeholder"):
        vlm.family.encode_completion(vlm.processor, f"a {vlm.processor.image_token} in a caption")


@pytest.mark.parametrize("name", BUILT)
def test_square_padding_and_resizing(name: str, tiny: Callable[[str], Path]) -> None:
    with pytest.raises(ValueError, match="square_padding=true and resize=336 exclude each other"):
        load_vlm(tiny(name), square_padding=True, resize=336)
    wide = Image.new("RGB", (90, 30), "red")
    vlm = load_vlm(tiny(name), square_padding=True)
    padded = vlm.family.image_options.apply(wide)
    assert padded.size == (90, 90)
    assert padded.getpixel((45, 5)) == (122, 116, 104)
    assert padded.getpixel((45, 45)) == (255, 0, 0)
    assert vlm.family.image_options.apply(Image.new("RGB", (20000, 500))).size == (4096, 4096)
    assert vlm.family.image_options.size((500, 20000)) == (4096, 4096)
    vlm = load_vlm(tiny(name), resize=336)
    assert vlm.family.image_options.apply(wide).size == (336, 336)
    prompt = vlm.family.encode_prompt(vlm.processor, "describe", [wide])
    assert vlm.family.num_tokens(vlm.processor, "describe", [(30, 90)]) == len(prompt.input_ids)


def test_llava_prompt(tiny: Callable[[str], Path]) -> None:
    """BOS is first, EOS is last, and separately encoded prompt and completion equal the whole conversation."""
    vlm = load_vlm(tiny("llava"))
    family, processor, tokenizer = vlm.family, vlm.processor, vlm.processor.tokenizer
    prompt = family.encode_prompt(processor, "describe the image", [Image.new("RGB", (56, 56))])
    completion = family.encode_completion(processor, "a red circle")
    assert prompt.input_ids[0] == tokenizer.bos_token_id
    assert prompt.input_ids.count(tokenizer.bos_token_id) == 1
    assert completion[-1] == tokenizer.eos_token_id
    whole = family.render_prompt(processor, "describe the image", 0) + " a red circle" + tokenizer.eos_token
    assert (
        family.encode_prompt(processor, "describe the image").input_ids + completion
        == tokenizer(whole, add_special_tokens=False).input_ids
    )
    assert tokenizer.decode(prompt.input_ids).endswith("<image> \ndescribe the image ASSISTANT:")


@pytest.mark.parametrize("name", ["internvl", "internvl_moe", *TESTED])
def test_gradient_checkpointing_changes_no_gradient(
    name: str, tiny: Callable[[str], Path], with_lora: Any, images: list[Image.Image]
) -> None:
    vlm = load_vlm(tiny(name))
    model = with_lora(vlm.model, vlm.family.lora_targets).train()
    backbone = FamilyBackbone(vlm.family, model)
    ids = torch.tensor([vlm.family.encode_completion(vlm.processor, "a red circle above a square")])
    length = ids.shape[1]
    mask = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
    trained = [p for p in model.parameters() if p.requires_grad]

    def gradients() -> list[torch.Tensor]:
        embeddings = backbone.embed_tokens(ids).detach().requires_grad_()
        hidden = backbone.decode(embeddings, {"full_attention": mask}, torch.arange(length)[None, None])
        loss = backbone.head(hidden).logsumexp(-1).sum()
        return list(torch.autograd.grad(loss, trained))

    plain = gradients()
    decoder: Any = backbone.decoder
    decoder.gradient_checkpointing_enable({"use_reentrant": False})
    assert any(getattr(module, "gradient_checkpointing", False) for module in backbone.decoder.modules())
    for one, other in zip(plain, gradients(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["internvl", "internvl_moe", "llava"])
def test_a_batch_of_two_equals_each_alone(name: str, tiny: Callable[[str], Path], images: list[Image.Image]) -> None:
    """The greedy answers of a left-padded batch are those of each prompt alone."""
    vlm = load_vlm(tiny(name))
    family, processor, model = vlm.family, vlm.processor, vlm.model
    texts = ["describe the image", "is there a circle in this image of many shapes"]
    prompts = [family.encode_prompt(processor, text, [image]) for text, image in zip(texts, images, strict=False)]
    options = {"do_sample": False, "max_new_tokens": 10, "eos_token_id": None, "pad_token_id": 0}
    with torch.inference_mode():
        alone = [
            model.generate(**family.generation_inputs(prompt, model), **options)[0, len(prompt.input_ids) :]
            for prompt in prompts
        ]
        length = max(len(prompt.input_ids) for prompt in prompts)
        padding = [length - len(prompt.input_ids) for prompt in prompts]
        both = model.generate(
            input_ids=torch.tensor([[0] * n + prompt.input_ids for n, prompt in zip(padding, prompts, strict=True)]),
            attention_mask=torch.tensor([[0] * n + [1] * (length - n) for n in padding]),
            pixel_values=torch.cat([prompt.images["pixel_values"] for prompt in prompts]),
            **options,
        )[:, length:]
    assert padding[0] > 0
    assert torch.equal(both, torch.stack(alone))


@pytest.mark.parametrize(
    "name", ["internvl_moe", "llava_next", "llava_onevision", "ovis2", "aya_vision_windows", *TORCHVISION]
)
def test_generation_on_a_shared_prefix_equals_each_prompt_alone(
    name: str, tiny: Callable[[str], Path], images: list[Image.Image]
) -> None:
    from scramble.models.generation import generate_ids
    from scramble.models.prompts import PromptEncoder

    vlm = load_vlm(tiny(name), dtype="float32")
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in vlm.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)  # so that greedy choices do not depend on rounding
    encoder = PromptEncoder(vlm.family, vlm.processor)
    groups = [encoder.prompts(["describe the image", "is there a circle", "name a shape"], [image]) for image in images]
    together = generate_ids(vlm, groups, [[8, 8, 8]] * len(groups))
    for group, texts in zip(groups, together, strict=True):
        for prompt, ids in zip(group, texts, strict=True):
            assert ids == continuation(vlm, vlm.family.generation_inputs(prompt, vlm.model), 8)
    assert len({tuple(ids) for texts in together for ids in texts}) > 4


@pytest.mark.parametrize("name", BUILT)
def test_patches_are_counted(name: str, tiny: Callable[[str], Path]) -> None:
    """The limit ``trainer.tower_tokens`` needs the number of patches of any prompt."""
    vlm = load_vlm(tiny(name))
    picture = Image.new("RGB", (64, 64), "red")
    one, two = (vlm.family.encode_prompt(vlm.processor, "describe", [picture] * count).images for count in (1, 2))
    assert one is not None and two is not None
    assert vlm.backbone.num_patches(one) > 0
    if name not in ("llava_onevision", "ovis2"):  # several images have one view each
        assert vlm.backbone.num_patches(two) == 2 * vlm.backbone.num_patches(one)
