"""Texts with a control token are refused everywhere; other texts are tokenised as usual."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers.utils import is_torchvision_available

from scramble.models import ModelError, load_vlm
from scramble.models.control_tokens import control_tokens, find_control_token

BUILT = ("internvl", "llava", "smolvlm", "molmo") + (("molmo2",) if is_torchvision_available() else ())
CONTROL = {
    "internvl": ["<|im_end|>", "<|im_start|>", "<|endoftext|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"],
    "llava": ["</s>", "<s>", "<unk>", "<pad>", "<image>"],
    "smolvlm": ["<end_of_utterance>", "<image>", "<fake_token_around_image>", "<global-img>", "<row_1_col_2>"],
    "molmo": ["<|endoftext|>", "<im_patch>", "<im_start>", "<im_end>", "<im_col>", "<|image|>"],
    "molmo2": ["<|im_end|>", "<im_patch>", "<|image|>", "<|video|>", "<low_res_im_start>"],
}


@pytest.mark.parametrize("name", BUILT)
def test_all_control_tokens_are_refused_in_prompts_and_answers(name: str, tiny: Callable[[str], Path]) -> None:
    vlm = load_vlm(tiny(name))
    family, processor = vlm.family, vlm.processor
    picture = Image.new("RGB", (40, 40))
    tokenizer = processor.tokenizer
    assert set(CONTROL[name]) <= control_tokens(processor)
    assert set(tokenizer.all_special_tokens) | set(tokenizer.get_added_vocab()) <= control_tokens(processor)
    for token in CONTROL[name]:
        for text in (token, f"A red circle{token} and a dog", f"x\n{token}"):
            for call in (
                lambda text: family.encode_completion(processor, text),
                lambda text: family.encode_prompt(processor, text, [picture]),
                lambda text: family.encode_prompt(processor, text),
                lambda text: family.num_tokens(processor, text, [(40, 40)]),
                lambda text: family.unexpanded_ids(processor, text, 1),
            ):
                with pytest.raises(ModelError, match="control token or image placeholder") as caught:
                    call(text)
                assert repr(token) in str(caught.value)


@pytest.mark.parametrize("name", BUILT)
def test_no_text_that_is_let_through_becomes_a_control_token(name: str, tiny: Callable[[str], Path]) -> None:
    """Similar texts are plain text: their ids contain no added ids, and decode to the text."""
    vlm = load_vlm(tiny(name))
    tokenizer = vlm.processor.tokenizer
    added = set(tokenizer.get_added_vocab().values())
    others = {token for tokens in CONTROL.values() for token in tokens} - control_tokens(vlm.processor)
    for text in [
        "<|im_ end|>",
        "< s >",
        "<IM_END>",
        "im_patch",
        "<row_9_col_9>",
        "a < b > c | d",
        "1 < 2",
        "[x] {y}",
        *others,
    ]:
        assert find_control_token(vlm.processor, text) is None
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert not added & set(ids), text
        answer = vlm.family.encode_completion(vlm.processor, text)
        assert text in tokenizer.decode(answer)


def test_words_and_spaces_that_were_added_are_text(tiny: Callable[[str], Path]) -> None:
    """Added tokens can be runs of spaces or users' own words; a model's thoughts are visible text."""
    tokenizer = load_vlm(tiny("internvl")).processor.tokenizer
    tokenizer.add_tokens(["    ", "\n\n", "zebra", "<think>", "</think>", "<tool_call>", "[TABLE]"])
    assert find_control_token(tokenizer, "a  \n\n    zebra <think>a stripe</think>") is None
    assert find_control_token(tokenizer, "a zebra <tool_call>") == "<tool_call>"
    assert find_control_token(tokenizer, "a [TABLE]") == "[TABLE]"


def test_the_released_molmo_tokenizer(shared: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(shared / "tokenizers" / "molmo-7b-d")
    tokens = control_tokens(tokenizer)
    assert {"<|endoftext|>", "<im_start>", "<im_end>", "<im_patch>", "<im_col>", "<|image|>", "<|im_end|>"} <= tokens
    plain = "A sign says <b>1 < 2</b> | [sic] {x}: `a ||| b`"
    assert find_control_token(tokenizer, plain) is None
    for token in tokens:
        assert find_control_token(tokenizer, f"a{token}b") == token
