"""Check the items of a benchmark when the benchmark is loaded."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable

from scramble.evaluation.items import EvaluationError, Item
from scramble.evaluation.scoring.answer_rules import check_rule
from scramble.records import Question, TwoByTwoItem

log = logging.getLogger(__name__)


def check_items(name: str, items: Iterable[Item], group_size: int | None = None) -> tuple[Item, ...]:
    """Return the items as a tuple. Log a warning if some items cannot be answered correctly by any model.

    Raises:
        EvaluationError: there are no items, an item has an unknown style or rule, an id occurs twice, or a group does
            not have ``group_size`` items. The message names the first faulty items.
    """
    items = tuple(items)
    if not items:
        raise EvaluationError(f"{name}: the benchmark has no items: check benchmark.{name}.root and the split")
    seen: set[str] = set()
    for item in items:
        try:
            check_rule(item)
        except EvaluationError as error:
            raise EvaluationError(f"{name}: {error}") from error
        if item.item_id in seen:
            raise EvaluationError(
                f"{name}: item id {item.item_id!r} appears twice, because the data is damaged or was concatenated with "
                "itself: download the data again"
            )
        seen.add(item.item_id)
    if unusable := [item.item_id for item in items if _has_equal_sides(item)]:
        log.warning(
            f"{name}: {len(unusable)} of {len(items)} items have two equal captions or images (first: "
            f"{unusable[0]!r}), so no model can answer these items correctly: download the data again"
        )
    if group_size:
        sizes = Counter(item.group for item in items)
        if bad := [group for group, size in sizes.items() if size != group_size]:
            raise EvaluationError(
                f"{name}: {len(bad)} of {len(sizes)} groups do not have {group_size} items "
                f"(first: {', '.join(map(repr, bad[:3]))}): download the data again"
            )
    return items


def _has_equal_sides(item: Item) -> bool:
    """Return whether an item has two equal captions or images, so that no model can distinguish them."""
    if isinstance(item.record, Question):
        return False
    captions = [" ".join(caption.split()) for caption in item.record.captions]
    true = item.details.get("true_captions", 1)  # two true captions may be equal
    has_equal = bool(set(captions[:true]) & set(captions[true:])) if true > 1 else len(set(captions)) < len(captions)
    # A conversation may show an image twice.
    return has_equal or (isinstance(item.record, TwoByTwoItem) and len(set(item.image_ids)) < len(item.image_ids))
