"""Tests Gemma 4: image blocks in some types of layers, embeddings in every layer, shared keys and values, bounded
logits.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from scramble.models import ModelError, load_vlm
from scramble.models.backbone import FamilyBackbone
from scramble.models.families.registry import FAMILIES
from scramble.models.family import Family
from scramble.models.generation import generate_ids
from scramble.trie import pack
from scramble.trie.mask import attention_masks
from tests.exactness import CASES, SELECTED, assert_exact, assert_generates, make_items

NAMES = ("gemma4", "gemma4_moe", "gemma4_e2b")


@pytest.mark.parametrize("case", SELECTED)
@pytest.mark.parametrize("name", NAMES)
def test_trie_equals_one_sequence_a_row(
    name: str, case: str, tiny: Callable[[str], Path], with_lora: Any, images: list[Image.Image]
) -> None:
    """The window has 24 tokens and an image up to 70.

    In float32 the gradients of one sequence per row differ from those in float64 by about 1e-5 of their norm.
    """
    vlm = load_vlm(tiny(name), dtype="float32")
    model = with_lora(vlm.model, vlm.family.lora_targets)
    marked = {"mm_token_type_ids": [vlm.model.config.image_token_id]}
    assert_exact(model, vlm.family, vlm.processor, CASES[case], images, marked=marked, float32_rtol=1e-5)


def test_images_are_blocks_in_layers_with_a_window(tiny: Callable[[str], Path], images: list[Image.Image]) -> None:
    vlm = load_vlm(tiny("gemma4"))
    backbone = vlm.backbone
    batch = pack(make_items(vlm.family, vlm.processor, CASES["two images"], images), backbone.token_rules)
    masks: dict[str, Any] = attention_masks(batch, backbone.attention_windows, backbone.block_layers)
    assert not masks["full_attention"].triu(1).any()
    assert masks["sliding_attention"].triu(1).any()
    assert not load_vlm(tiny("gemma4_e2b")).backbone.token_rules.block


@pytest.mark.parametrize("name", NAMES)
def test_generation_on_a_shared_prefix(name: str, tiny: Callable[[str], Path], images: list[Image.Image]) -> None:
    assert_generates(load_vlm(tiny(name), dtype="float32"), images[:1], 20)


def test_sampling_uses_the_bounded_logits(tiny: Callable[[str], Path], images: list[Image.Image]) -> None:
    vlm = load_vlm(tiny("gemma4"), dtype="float32")
    prompt = vlm.family.encode_prompt(vlm.processor, "describe the image", images[:1])
    seen: list[torch.Tensor] = []

    def pick(logits_BQV: torch.Tensor) -> torch.Tensor:
        seen.append(logits_BQV)
        return logits_BQV.argmax(-1)

    generate_ids(vlm, [[prompt]], [[1]], pick)
    with torch.no_grad():
        logits = vlm.model(**vlm.family.generation_inputs(prompt, vlm.model)).logits[0, -1]
    torch.testing.assert_close(seen[0][0, 0], logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_ignores_a_bound_or_scale_of_its_logits(family: type[Family]) -> None:
    """The engine applies the head itself, so a family must declare what its class does to the head's logits."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    for kind in family.model_types:
        if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
            continue  # Molmo v1, whose class is in this project
        cls = getattr(transformers, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[kind])
        changed = set(re.findall("final_logit_softcapping|logit_scale|logits_scaling", inspect.getsource(cls.forward)))
        declared = {"final_logit_softcapping"} if family.logit_softcap is not Family.logit_softcap else set()
        assert changed == declared, f"{family.name}: {cls.__name__}.forward uses {changed}"


def test_max_pixels(tiny: Callable[[str], Path]) -> None:
    """A token has 8 x 8 px."""
    vlm = load_vlm(tiny("gemma4"), max_pixels=140 * 64)
    assert vlm.processor.image_processor.max_soft_tokens == 70
    vlm.processor.image_processor.max_soft_tokens = 1120
    vlm.family.set_max_pixels(vlm.processor, 300 * 64)
    assert vlm.processor.image_processor.max_soft_tokens == 280
    prompt = vlm.family.encode_prompt(vlm.processor, "describe", [Image.new("RGB", (160, 112))])
    assert prompt.input_ids.count(vlm.model.config.image_token_id) == 20 * 14
    with pytest.raises(ModelError, match=r"max_pixels must be at least 4480, not 1000, because gemma4 uses at least"):
        load_vlm(tiny("gemma4"), max_pixels=1000)


def test_decoder_without_generation_is_refused(tiny: Callable[[str], Path]) -> None:
    vlm = load_vlm(tiny("gemma4"))
    vlm.model.config.text_config.use_bidirectional_attention = "all"
    with pytest.raises(ModelError, match="use_bidirectional_attention=all"):
        FamilyBackbone(vlm.family, vlm.model)
