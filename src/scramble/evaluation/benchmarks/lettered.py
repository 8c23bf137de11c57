"""Check the options of multiple-choice questions, and compute chance levels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from scramble.evaluation.items import EvaluationError, Item
from scramble.records import LETTERS


def listed(name: str, where: str, key: str, value: Any) -> tuple[str, ...]:
    """Return the options in a list of strings or numbers. Raises EvaluationError if the value is not such a list, if it
    has more than 26 options, or if all options are empty.
    """
    if not isinstance(value, (list, tuple)) or not all(map(_is_option, value)):
        raise EvaluationError(
            f"{name}: {where}: {key} is not a list of options ({value!r:.120}): download the data again"
        )
    if len(value) > len(LETTERS):
        raise EvaluationError(
            f"{name}: {where}: {key} has {len(value)} options, but options beyond Z are not supported: remove this row"
        )
    options = tuple(str(option) for option in value)
    if options and not any(option.strip() for option in options):
        raise EvaluationError(
            f"{name}: {where}: all {len(options)} options of {key} are empty: download the data again"
        )
    return options


def _is_option(value: Any) -> bool:
    return isinstance(value, (str, int, float)) and not isinstance(value, bool) and value == value  # False for NaN


def letter(name: str, where: str, answer: str, choices: Sequence[str]) -> str:
    """Return the letter of the right option. Raises EvaluationError if ``answer`` is not the letter of an option."""
    letters = tuple(LETTERS[: len(choices)])
    if (stripped := answer.strip()) in letters:
        return stripped
    shown = ", ".join(letters) or "no options"
    raise EvaluationError(
        f"{name}: {where}: answer is {answer!r:.60}, which is not one of {shown}: download the data again"
    )


def chance(items: Iterable[Item]) -> dict[str, float]:
    """Return the accuracy of randomly chosen letters in percent, overall and for each kind and tag. A question without
    options counts as 0.
    """
    return levels("accuracy", ((item, 100 / len(item.options) if item.options else 0.0) for item in items))


def levels(score: str, values: Iterable[tuple[Item, float]]) -> dict[str, float]:
    """Return a dictionary from score names to the mean values of the items, overall and for each kind and tag."""
    table: defaultdict[str, list[float]] = defaultdict(list)
    for item, value in values:
        for label in {"", item.kind, *item.tags}:
            table[f"{score}/{label}" if label else score].append(value)
    return {name: fmean(listed) for name, listed in table.items()}
