"""Score descriptions of an image by rule: compare the objects that a description mentions with the objects in the
image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any

from scramble.evaluation.items import Item
from scramble.grading import amber as amber_rule
from scramble.grading import objects

Measured = tuple[dict[str, float], dict[str, Any]]
"""Values and details of an outcome."""


def of_mentions(mentions: Sequence[objects.Mention], truth: Collection[str]) -> Measured:
    """Return the values and details of an outcome. The value is 1 if the mentions contain a hallucination, else 0. The
    details are the counts (:class:`scramble.grading.objects.Counts`) and the list of hallucinated words.
    """
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
"""Functions that score the reply to an item, by the item's rule (``details["rule"]``)."""
