"""Compute scores that are functions of sums over clusters of items: quotients, F1, means over categories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scramble.evaluation.scoring.outcomes import Outcome

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Ratio:
    """A score of ``n`` items that is not a mean over items. ``value`` maps weights (R, C) of the clusters to scores
    (R,) in [0, 1].
    """

    clusters: tuple[str, ...]
    value: Callable[[Array], Array]
    n: int


def divide(top: Array, bottom: Array) -> Array:
    """Return the quotient, or 0 where the divisor is 0."""
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)


def of_sums(outcomes: Sequence[Outcome], rows: Sequence[Sequence[float]], formula: Callable[[Array], Array]) -> Ratio:
    """Return the score that ``formula`` computes from the sums (R, K) of ``rows``, which have K numbers per outcome.
    Outcomes whose numbers are all 0 are not included in ``n``.
    """
    rows_NK = np.array(rows, dtype=np.float64)
    clusters = {name: k for k, name in enumerate(dict.fromkeys(o.cluster for o in outcomes))}
    sums_CK = np.zeros((len(clusters), rows_NK.shape[1]))
    np.add.at(sums_CK, [clusters[o.cluster] for o in outcomes], rows_NK)
    return Ratio(tuple(clusters), lambda w: formula(w @ sums_CK), int(rows_NK.any(axis=1).sum()))


def average(ratios: Sequence[Ratio]) -> Ratio:
    """Return the mean of scores of disjoint sets of items, such as the F1 of several categories."""
    n = sum(ratio.n for ratio in ratios)
    return Ratio(ratios[0].clusters, lambda w: np.mean([ratio.value(w) for ratio in ratios], axis=0), n)


def mean_over(outcomes: Sequence[Outcome], labels: Sequence[str]) -> Ratio:
    """Return the mean over labels of the accuracy of the items with each label. A label without items in a resample is
    skipped.
    """
    names = list(dict.fromkeys(labels))
    rows = []
    for o, label in zip(outcomes, labels, strict=True):
        member = [float(label == name) for name in names]
        rows.append([o.values["accuracy"] * m for m in member] + member)

    def mean(sums: Array) -> Array:
        right, count = sums[:, : len(names)], sums[:, len(names) :]
        return divide(divide(right, count).sum(axis=1), (count > 0).sum(axis=1, dtype=np.float64))

    return of_sums(outcomes, rows, mean)


def summed_ratio(outcomes: Sequence[Outcome], rows: Sequence[tuple[float, float]]) -> Ratio:
    """Return the sum of the first numbers of ``rows`` divided by the sum of the second numbers."""
    return of_sums(outcomes, rows, lambda sums: divide(sums[:, 0], sums[:, 1]))
