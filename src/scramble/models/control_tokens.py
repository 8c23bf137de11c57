"""Finds control tokens in texts, such as ends of turns, role markers and image placeholders.

For example, a ChatML tokenizer converts the characters ``<|im_end|>`` in a text into the id that ends a turn. In an
answer, this id would end the turn early. In a question, it would insert a false turn. Tokenizers have no option to
treat all such tokens as plain text, so texts that contain them are rejected.
"""

from __future__ import annotations

import re
from typing import Any
from weakref import WeakKeyDictionary

# Reasoning models write these two tokens as visible text. Tokenizers list them as added tokens, but not as special
# tokens.
REASONING = frozenset({"<think>", "</think>"})
# Added tokens that are not special can be ordinary words or runs of spaces (Gemma, OLMo), so only added tokens with
# markup characters count as control tokens.
MARKUP = re.compile(r"[<>\[\]{}|]")

_PATTERNS: WeakKeyDictionary[Any, re.Pattern[str] | None] = WeakKeyDictionary()


def control_tokens(processor: Any) -> frozenset[str]:
    """Return the texts of all control tokens.

    Control tokens are the tokenizer's special tokens, its added tokens with markup characters (except ``<think>`` and
    ``</think>``), and the processor's placeholders.

    Args:
        processor: a processor or a tokenizer.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    special = set(tokenizer.all_special_tokens)
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    special.update(str(token) for token in added if token.special)
    tokens = special | {str(token) for token in added if MARKUP.search(str(token)) and str(token) not in REASONING}
    # A processor replaces its placeholders in the string even if they are not tokens.
    attributes = vars(processor) if processor is not tokenizer else {}
    tokens.update(str(value) for name, value in attributes.items() if name.endswith(("_token", "_tag")) and value)
    return frozenset(token for token in tokens if token.strip())


def find_control_token(processor: Any, text: str) -> str | None:
    """Return the first control token in a text (the longest one at its position), or None if there is none."""
    if processor not in _PATTERNS:
        tokens = sorted(control_tokens(processor), key=len, reverse=True)
        _PATTERNS[processor] = re.compile("|".join(map(re.escape, tokens))) if tokens else None
    pattern = _PATTERNS[processor]
    match = pattern.search(text) if pattern else None
    return match.group() if match else None
