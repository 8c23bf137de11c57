"""Samples rows for pages that do not show all rows."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def sample(values: Sequence[T], limit: int | None) -> list[T]:
    """Return at most ``limit`` values, sampled with a fixed seed, in their original order.

    If ``limit`` is None, all values are returned.
    """
    if limit is None or len(values) <= limit:
        return list(values)
    return [values[place] for place in sorted(random.Random(0).sample(range(len(values)), limit))]
