"""Tests conversations: a prompt with the turns before it has the tokens of the whole conversation in the chat
template.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from scramble.models import ModelError, load_vlm
from scramble.records import Turn
from tests.models.test_families import BUILT
from tests.models.test_llava import ONEVISION

HISTORY = (Turn("user", "what is it", 1), Turn("assistant", "a red circle"))
FEW = ("internvl", "qwen2_5_vl", "llava", "gemma3")
OTHERS = tuple(pytest.param(name, marks=pytest.mark.full) for name in BUILT if name not in FEW)


def messages() -> list[dict[str, Any]]:
    image: dict[str, Any] = {"type": "image"}
    texts: tuple[tuple[str, str, list[dict[str, Any]]], ...] = (
        ("user", "what is it", [image]),
        ("assistant", "a red circle", []),
        ("user", "and this", [image]),
    )
    return [{"role": role, "content": [*images, {"type": "text", "text": text}]} for role, text, images in texts]


@pytest.mark.parametrize("name", [*FEW, *OTHERS])
def test_a_conversation_is_tokenised_as_a_whole(name: str, tiny: Callable[[str], Path]) -> None:
    vlm = load_vlm(tiny(name))
    family, processor = vlm.family, vlm.processor
    pictures = [Image.new("RGB", (40, 40), "red"), Image.new("RGB", (50, 30), "blue")]
    prompt = family.encode_prompt(processor, "and this", pictures, HISTORY)
    sizes = [(image.height, image.width) for image in pictures]
    assert family.num_tokens(processor, "and this", sizes, HISTORY) == len(prompt.input_ids)
    rendered = family.render_prompt(processor, "and this", 2, HISTORY)
    template = processor.apply_chat_template(
        messages(), tokenize=False, add_generation_prompt=True, **family.template_options
    )
    if "USER:" not in rendered and name not in ("glm4v", "llava_next"):  # their templates are completed by the family
        assert rendered.endswith(template)
    # The conversation begins with its first prompt, the answer and the answer's end. Tokens may join at the boundary.
    first = family.encode_prompt(processor, "what is it", pictures[:1]).input_ids
    answer = family.encode_completion(processor, "a red circle")
    # Image tokens are not compared: LLaVA-OneVision divides an image into tiles only if it is the only one.
    whole, beginning = (
        "".join(processor.tokenizer.decode(ids).replace(processor.image_token, "").split())
        for ids in (prompt.input_ids, first + answer)
    )
    assert whole.startswith(beginning)
    if vlm.family.has_trie:
        (features,) = vlm.backbone.encode_images([prompt.images])
        assert len(features) == sum(token in vlm.backbone.token_rules.features for token in prompt.input_ids)


def test_turns_that_a_template_refuses_or_drops_are_errors(tiny: Callable[[str], Path]) -> None:
    vlm = load_vlm(tiny("molmo"))
    system = (Turn("system", "be brief"),)
    with pytest.raises(ModelError, match=r"the chat template of molmo does not accept the conversation .*system"):
        vlm.family.num_tokens(vlm.processor, "what is it", (), system)
    vlm = load_vlm(tiny("qwen2_5_vl"))
    vlm.processor.chat_template = "{{ messages[-1]['content'][0]['text'] }}"
    with pytest.raises(ModelError, match="omits the system turn 'be brief'"):
        vlm.family.encode_prompt(vlm.processor, "what is it", (), system)
    with pytest.raises(ModelError, match="control token or image placeholder"):
        vlm.family.encode_prompt(vlm.processor, "what is it", (), (Turn("user", vlm.processor.image_token),))


def test_vicunas_conversation(tiny: Callable[[str], Path]) -> None:
    """LLaVA-1.5's conversation has one system message, and EOS after each answer."""
    vlm = load_vlm(tiny("llava"))
    rendered = vlm.family.render_prompt(vlm.processor, "and this", 2, (Turn("system", "Be brief."), *HISTORY))
    assert rendered == (
        "<s>Be brief. USER: <image>\nwhat is it ASSISTANT: a red circle</s>USER: <image>\nand this ASSISTANT:"
    )
    vlm.processor.chat_template = ONEVISION
    rendered = vlm.family.render_prompt(vlm.processor, "and this", 1, HISTORY)
    assert rendered.count("<|im_end|>") == 3 and rendered.endswith("and this<|im_end|><|im_start|>assistant\n")
