"""Parse the scores in replies of the judges of MMHal-Bench, LLaVA-Bench and HallusionBench."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

Pair = tuple[float, float]
"""Scores of the reference answer and of the model's answer."""


def mmhal_rating(text: str) -> int | None:
    """Apply MMHal-Bench's rule: return the only digit from 0 to 6 that follows ``rating: ``, regardless of case.

    Return None if no digit or several different digits from 0 to 6 follow ``rating: ``. ``Rating: 13`` is read as 1.
    ``**Rating:** 3`` and ``Rating:3`` cannot be parsed.
    """
    ratings = [rating for rating in range(7) if f"rating: {rating}" in text.lower()]
    return ratings[0] if len(ratings) == 1 else None


def llava_pair(text: str) -> Pair | None:
    """Apply LLaVA's rule: return the two numbers of the first line, which one blank or comma must separate."""
    parts = text.split("\n")[0].replace(",", " ").split(" ")
    try:
        pair = tuple(float(part) for part in parts)
    except ValueError:
        return None
    return _pair(pair) if len(pair) == 2 else None


def lmms_eval_pair(text: str) -> Pair | None:
    """Apply lmms-eval's rule: return the first two numbers of the first line with text.

    Numbers in names count as well. For example, the first number in "Assistant 1: 8" is 1.
    """
    numbers = re.findall(r"-?\d+(?:\.\d+)?", text.strip().split("\n")[0])
    return _pair(tuple(float(number) for number in numbers[:2])) if len(numbers) > 1 else None


def _pair(pair: tuple[float, ...]) -> Pair | None:
    """Return the pair, or None if a score is not finite or both scores are -1.

    LLaVA's code and lmms-eval return -1 for both scores of a reply that they cannot parse.
    """
    first, second = pair
    return None if not math.isfinite(first + second) or pair == (-1, -1) else (first, second)


LLAVA_PAIRS: dict[str, Callable[[str], Pair | None]] = {"llava": llava_pair, "lmms_eval": lmms_eval_pair}

VERDICTS = {"correct": 1, "incorrect": 0, "unclear": 2}


def hallusion_verdict(text: str) -> int | None:
    """Return HallusionBench's label for the verdict in a reply: 1 for ``correct``, 0 for ``incorrect``, 2 for
    ``unclear``. Return None unless exactly one of these words occurs."""
    labels = {word for word in re.findall(r"[a-z]+", text.lower()) if word in VERDICTS}
    return VERDICTS[labels.pop()] if len(labels) == 1 else None
