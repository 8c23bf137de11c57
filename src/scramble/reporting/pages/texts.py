"""Marks the changed words in a text. The positions of these words are given as character offsets."""

from __future__ import annotations

from collections.abc import Sequence


def marked(text: str, spans: Sequence[tuple[int, int]]) -> list[str]:
    """Split a text into parts that are alternately unchanged and marked. The first and the last part are unchanged.

    Spaces at the ends of a span are not marked, unless the span contains only spaces.
    """
    parts: list[str] = []
    at = 0
    for start, end in sorted(spans):
        start, end = max(start, at), min(end, len(text))
        if words := text[start:end].strip():
            start = text.index(words, start)
            end = start + len(words)
        if end > start:
            parts += [text[at:start], text[start:end]]
            at = end
    return [*parts, text[at:]]
