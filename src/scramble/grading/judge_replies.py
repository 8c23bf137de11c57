"""Scores in the replies of the judges of MMHal-Bench, LLaVA-Bench and HallusionBench."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

Pair = tuple[float, float]
"""Scores of the reference answer and of the model's answer."""


def mmhal_rating(text: str) -> int | None:
    """MMHal-Bench's rule: ``rating: s`` with exactly one of the digits 0 to 6, in any case; else None.

    ``Rating: 13`` is 1, and ``**Rating:** 3`` or ``Rating:3`` are not read.
    """
    found = [rating for rating in range(7) if f"rating: {rating}" in text.lower()]
    return found[0] if len(found) == 1 else None


def llava_pair(text: str) -> Pair | None:
    """LLaVA's rule: the first line is two numbers separated by one blank or comma; else None."""
    parts = text.split("\n")[0].replace(",", " ").split(" ")
    try:
        pair = tuple(float(part) for part in parts)
    except ValueError:
        return None
    return _pair(pair) if len(pair) == 2 else None


def lmms_eval_pair(text: str) -> Pair | None:
    """lmms-eval's rule: the first two numbers of the first line that has any text, "Assistant 1: 8" included."""
    numbers = re.findall(r"-?\d+(?:\.\d+)?", text.strip().split("\n")[0])
    return _pair(tuple(float(number) for number in numbers[:2])) if len(numbers) > 1 else None


def _pair(pair: tuple[float, ...]) -> Pair | None:
    """Return the pair; None for "nan" and "inf", and for -1 -1, which the originals write for pairs that cannot be
    read.
    """
    first, second = pair
    return None if not math.isfinite(first + second) or pair == (-1, -1) else (first, second)


LLAVA_PAIRS: dict[str, Callable[[str], Pair | None]] = {"llava": llava_pair, "lmms_eval": lmms_eval_pair}

VERDICTS = {"correct": 1, "incorrect": 0, "unclear": 2}


def hallusion_verdict(text: str) -> int | None:
    """HallusionBench's labels: 1 correct, 0 incorrect, 2 unclear; None unless exactly one of the words occurs."""
    found = {word for word in re.findall(r"[a-z]+", text.lower()) if word in VERDICTS}
    return VERDICTS[found.pop()] if len(found) == 1 else None
