"""Tests Qwen3.5: what differs from the other Qwen-VL models, which ``test_qwen_vl.py`` covers: recurrent layers,
thinking.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from scramble.models import load_vlm
from scramble.models.backbone import FamilyBackbone
from scramble.models.generation import generate_ids
from scramble.trie import enable_gradient_checkpointing, logprobs, pack
from tests.exactness import CASES, continuation, make_items

NAMES = ("qwen3_5", "qwen3_5_moe")


@pytest.mark.parametrize("name", NAMES)
def test_gradient_checkpointing_changes_no_gradient(
    name: str, tiny: Callable[[str], Path], with_lora: Any, images: list[Image.Image]
) -> None:
    vlm = load_vlm(tiny(name), dtype="float32")
    model = with_lora(vlm.model, vlm.family.lora_targets).train()
    backbone = FamilyBackbone(vlm.family, model)
    batch = pack(make_items(vlm.family, vlm.processor, CASES["five captions"], images), backbone.token_rules)
    trained = [p for p in model.parameters() if p.requires_grad]
    modules = [m for n, m in backbone.decoder.named_modules() if n.endswith("linear_attn")]
    shapes: list[torch.Size] = []
    for module in modules:
        module.in_proj_qkv.register_forward_hook(lambda module, args, output: shapes.append(output.shape[:2]))

    def gradients() -> list[torch.Tensor]:
        sums = logprobs(backbone, batch).sums_Q
        return list(torch.autograd.grad((sums * torch.linspace(1, 2, len(sums))).sum(), trained))

    wanted = gradients()
    assert len(shapes) == len(modules) == 3
    enable_gradient_checkpointing(backbone)
    actual = gradients()
    assert len(shapes) == 3 * len(modules)  # once without checkpointing, then forward and recomputed
    assert len(set(shapes)) == 1
    assert all(torch.equal(a, w) for a, w in zip(actual, wanted, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_generation_of_unequal_groups(name: str, tiny: Callable[[str], Path], images: list[Image.Image]) -> None:
    """There are groups of different sizes, equal prompts, a prompt that is a prefix of another, and prompts without an
    image.
    """
    vlm = load_vlm(tiny(name), dtype="float32")
    shared = vlm.family.encode_prompt(vlm.processor, "describe the image", [images[0]])
    longer = type(shared)([*shared.input_ids, *vlm.family.encode_completion(vlm.processor, "a red")], shared.images)
    plain = vlm.family.encode_prompt(vlm.processor, "name a shape")
    groups, limits = [[longer, shared, shared, longer], [plain]], [[10, 10, 3, 10], [12]]
    for group, lengths, results in zip(groups, limits, generate_ids(vlm, groups, limits), strict=True):
        for prompt, length, actual in zip(group, lengths, results, strict=True):
            assert actual == continuation(vlm, vlm.family.generation_inputs(prompt, vlm.model), length)


def test_plain_forward_is_not_changed_by_the_hooks(tiny: Callable[[str], Path]) -> None:
    folder = tiny("qwen3_5")
    vlm = load_vlm(folder, dtype="float32")
    from transformers import AutoModelForImageTextToText

    native = AutoModelForImageTextToText.from_pretrained(folder)
    ids = torch.arange(40, 70).view(2, 15)
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    assert vlm.backbone.token_rules.recurrent
    with torch.no_grad():
        for attention_mask in (None, mask):
            wanted = native.eval()(input_ids=ids, attention_mask=attention_mask).logits
            assert torch.equal(vlm.model(input_ids=ids, attention_mask=attention_mask).logits, wanted)


@pytest.mark.parametrize("template", ["qwen3_5_think", "qwen3_5_nothink", "qwen3_6"])
def test_answers_follow_an_empty_thinking_block(template: str, tiny: Callable[[str], Path]) -> None:
    """The released templates, which TRL contains, are used for both modes of Qwen3.5 and the only mode of Qwen3.6."""
    import trl

    vlm = load_vlm(tiny("qwen3_5"))
    folder = Path(trl.__file__).parent / "chat_templates"
    vlm.processor.chat_template = (folder / f"{template}.jinja").read_text()
    prompt = vlm.family.render_prompt(vlm.processor, "What is this?", 1)
    assert prompt == (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What is this?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert vlm.family.render_completion(vlm.processor, "a circle") == "a circle<|im_end|>\n"
