"""Text that a tokenizer would not read as text: end of turn, role markers, image placeholders.

A tokenizer turns the characters ``<|im_end|>`` into the one id that ends a turn, wherever they stand. In an answer that
is an end of turn in mid-answer, in a question a forged turn. No option of the tokenizers makes plain text of all of
them, so such texts are refused.
"""

from __future__ import annotations

import re
from typing import Any
from weakref import WeakKeyDictionary

# Reasoning models write these two themselves, as text that is shown; tokenizers list them as added, not as special.
REASONING = frozenset({"<think>", "</think>"})
# Added tokens that are no special ones may be ordinary words or runs of spaces (Gemma, OLMo): only markup is control.
MARKUP = re.compile(r"[<>\[\]{}|]")

_PATTERNS: WeakKeyDictionary[Any, re.Pattern[str] | None] = WeakKeyDictionary()


def control_tokens(processor: Any) -> frozenset[str]:
    """Texts of all control tokens: the tokenizer's special and added tokens, and the processor's placeholders.

    Args:
        processor: a processor, or a tokenizer alone.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    special = set(tokenizer.all_special_tokens)
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    special.update(str(token) for token in added if token.special)
    found = special | {str(token) for token in added if MARKUP.search(str(token)) and str(token) not in REASONING}
    # A processor replaces its placeholders in the string, whether or not they are tokens.
    named = vars(processor) if processor is not tokenizer else {}
    found.update(str(value) for name, value in named.items() if name.endswith(("_token", "_tag")) and value)
    return frozenset(token for token in found if token.strip())


def find_control_token(processor: Any, text: str) -> str | None:
    """The first control token in a text, the longest of those that begin there; None if there is none."""
    if processor not in _PATTERNS:
        tokens = sorted(control_tokens(processor), key=len, reverse=True)
        _PATTERNS[processor] = re.compile("|".join(map(re.escape, tokens))) if tokens else None
    pattern = _PATTERNS[processor]
    match = pattern.search(text) if pattern else None
    return match.group() if match else None
