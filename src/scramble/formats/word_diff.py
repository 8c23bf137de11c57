"""Finds the words that differ between two texts. In scripts without spaces, each character is a word."""

from __future__ import annotations

import difflib
import re

from scramble.language.scripts import SPACED_WORD, UNSPACED
from scramble.records import Edit

_TOKEN = re.compile(rf"[{UNSPACED}]|{SPACED_WORD}|\W")
_LONG = 2000  # tokens; the exact diff of longer texts takes up to seconds


def word_edits(chosen: str, rejected: str) -> tuple[Edit, ...]:
    """Return the spans that differ between two texts, found with a word-level diff."""
    first, second = list(_TOKEN.finditer(chosen)), list(_TOKEN.finditer(rejected))
    # With autojunk, matches do not begin at frequent tokens such as blanks, which saves most of the time.
    is_long = max(len(first), len(second)) > _LONG
    matcher = difflib.SequenceMatcher(a=[t[0] for t in first], b=[t[0] for t in second], autojunk=is_long)

    def span(tokens: list[re.Match[str]], i: int, j: int, size: int) -> tuple[int, int]:
        start = tokens[i].start() if i < len(tokens) else size
        return start, (tokens[j - 1].end() if j > i else start)

    return tuple(
        Edit(span(first, i1, i2, len(chosen)), span(second, j1, j2, len(rejected)))
        for tag, i1, i2, j1, j2 in matcher.get_opcodes()
        if tag != "equal"
    )
