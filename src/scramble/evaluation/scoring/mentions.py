"""Rules for descriptions of an image: the objects that they mention, compared with those in the image."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any

from scramble.evaluation.items import Item
from scramble.grading import amber as amber_rule
from scramble.grading import objects

Measured = tuple[dict[str, float], dict[str, Any]]
"""Values of an outcome, and its details."""


def of_mentions(mentions: Sequence[objects.Mention], truth: Collection[str]) -> Measured:
    """Return whether mentions contain a hallucination; their counts, and the hallucinated words."""
    counts = objects.count(mentions, truth)
    wrong = [word for word, category in mentions if category not in truth]
    details = {"objects": list(dataclasses.astuple(counts)), "hallucinated": wrong}
    return {"chair_s": float(counts.hallucinated > 0)}, details


def _chair(item: Item, text: str) -> Measured:
    return of_mentions(objects.chair().mentions(text), item.details["truth"])


def _object_halbench(item: Item, text: str) -> Measured:
    return of_mentions(objects.object_halbench().mentions(text), item.details["truth"])


def _amber(item: Item, text: str) -> Measured:
    details = item.details
    nouns = amber_rule.nouns(text, details["pipeline"], details["lexicon"])
    similar = amber_rule.similar(details["pipeline"])
    counts = amber_rule.count(nouns, details["truth"], details["likely"], details["lexicon"], similar)
    return {"hal": float(counts.hallucinated > 0)}, {"amber": list(dataclasses.astuple(counts)), "nouns": nouns}


RULES: dict[str, Callable[[Item, str], Measured]] = {
    "chair": _chair,
    "object_halbench_plain": _object_halbench,
    "amber": _amber,
}
"""Rule of a description (``details["rule"]``) -> its function of item and reply."""
