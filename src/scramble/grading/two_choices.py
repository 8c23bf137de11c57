"""Parse replies to the questions "which caption fits this image?" and "which image fits this caption?".

Each rule returns the labels that a reply chooses. The labels are ``A`` and ``B`` for captions, and ``First`` and
``Second`` for images. The result is a list, because VisMin's rule can match both labels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

Labels = tuple[str, str]
CAPTION_LABELS: Labels = ("A", "B")
IMAGE_LABELS: Labels = ("First", "Second")


def vismin(text: str, labels: Labels, captions: Sequence[str]) -> list[str]:
    """Apply VisMin's rule: a label counts if it is a word of the normalised reply, so "A dog" is read as A.

    The normalised reply is the first line without punctuation. If the reply has parentheses, only the text in the first
    pair of parentheses is used. If a letter precedes a right parenthesis (``B)``), only this letter is used.
    """
    if inside := re.search(r"\((.*?)\)", text):
        text = inside.group(1)
    if letter := re.search(r"([A-Za-z])\)", text):
        text = letter.group(1)
    words = re.sub(r"[^\w\s]", "", text.split("\n")[0]).lower().split()
    return [label for label in labels if label.lower() in words]


def colorswap(text: str, labels: Labels, captions: Sequence[str]) -> list[str]:
    """Apply ColorSwap's rules: a label counts if one of several phrases names it. If phrases name both labels, neither
    label counts."""
    if labels == IMAGE_LABELS:
        named = [label for label, other in (labels, labels[::-1]) if _names_image(text.lower(), label, other)]
    else:
        rows = zip((labels, labels[::-1]), (tuple(captions), tuple(captions)[::-1]), strict=True)
        named = [pair[0] for pair, texts in rows if _names_caption(text, pair, (texts[0], texts[1]))]
    return named if len(named) == 1 else []


def _names_image(text: str, label: str, other: str) -> bool:
    label, other = label.lower(), other.lower()
    phrases = (f"{label} image better aligns", f"{label} image aligns better", f"the {label} image is more relevant")
    return (label in text and other not in text) or any(phrase in text for phrase in phrases)


_CAPTION_PHRASES = (
    "image presents ({})",
    "image presents option ({})",
    "image presents option {}",
    "it would imply ({})",
    "it could metaphorically represent ({})",
    "it is ({})",
)


def _names_caption(text: str, labels: Labels, captions: tuple[str, str]) -> bool:
    label, lowered = labels[0], text.lower()
    own, other = (caption.lower() for caption in captions)
    mark, against = (name.lower() for name in labels)
    if own in lowered and other not in lowered:
        return True
    if any(phrase.format(mark) in lowered for phrase in _CAPTION_PHRASES) or f"this image presents {own}" in lowered:
        return True
    if text == label or text.startswith((f"{label})", f"({label})", f"Option {label}", f"Option ({label})")):
        return True
    if any(f"option {form}" in lowered for form in (mark, f"({mark})")) and f"{against})" not in lowered:
        return True
    short, short_own, short_other = (_without_little_words(part) for part in (text, *captions))
    return short_own in short and short_other not in short


def _without_little_words(text: str) -> str:
    """Return the text in lower case without articles, "with" and "and".

    Only words that are written in lower case are removed. The words are removed in a fixed order, because the order
    affects the result.
    """
    for word in ("a", "an", "the", "with", "and"):
        text = text.replace(f" {word} ", " ")
    for word in ("a ", "an ", "the "):
        text = text.removeprefix(word)
    return text.lower()


READERS: dict[str, Callable[[str, Labels, Sequence[str]], list[str]]] = {"vismin": vismin, "colorswap": colorswap}
