"""Compute benchmark metrics with pure functions of scores and outcomes. The metrics are fractions in [0, 1].

Array axes: N items, 2 images (or questions), 2 captions (or images).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

TiePolicy = Literal["wrong", "half", "first"]
TIE_POLICIES: dict[TiePolicy, float] = {"wrong": 0.0, "half": 0.5, "first": 1.0}
"""Value of a tie between the right candidate, which is listed first, and one other candidate, by policy."""
TWO_BY_TWO_CHANCE = {"text": 25.0, "image": 25.0, "group": 100 / 6, "group_match": 50.0}
"""Chance levels of :func:`two_by_two` in percent."""


class MetricError(ValueError):
    """Raised if a metric is not defined for its input. The message names the input and the reason."""


@dataclass(frozen=True, slots=True)
class TwoByTwo:
    """Outcomes (N,) of N 2x2 items. ``ties`` (N,) is the number of ties among the four comparisons of an item.

    ``group_match`` (Zhu et al., arXiv 2510.07632) assigns both captions at once. It is 1 if the sum of the scores of
    the two true pairs is higher than the sum of the scores of the two false pairs. Unlike text, image and group, it
    depends on the differences between scores, not only on their order.
    """

    text: NDArray[np.float64]
    image: NDArray[np.float64]
    group: NDArray[np.float64]
    group_match: NDArray[np.float64]
    ties: NDArray[np.int64]


def two_by_two(scores: ArrayLike, tie_policy: TiePolicy = "wrong") -> TwoByTwo:
    """Return Winoground's text, image and group scores (Thrush et al. 2022, section 3.2, equations 1 to 3), and group
    matching.

    Args:
        scores: (N, 2, 2); ``scores[n, i, c]`` is how well caption ``c`` fits image ``i``.
        tie_policy: ``wrong`` compares strictly, as all published definitions do. ``half`` computes the expected outcome
            if ties are broken at random, so that a constant scorer reaches chance level (1/4, 1/4, 1/6, 1/2). ``first``
            is an argmax that takes the lower index, as in CLIP_benchmark.

    Returns:
        Outcomes in {0, 1}, or fractions if ``tie_policy`` is ``half``. Group is 1 if both text and image are 1.
    Raises:
        MetricError: the shape is wrong, a score is NaN, or the policy is unknown.
    """
    _check_policy(tie_policy)
    scores = _without_nan(scores, "2x2 scores")
    if scores.ndim != 3 or scores.shape[1:] != (2, 2):
        raise MetricError(f"2x2 scores must have shape (N, 2, 2), not {scores.shape}")
    c0_i0, c1_i0, c0_i1, c1_i1 = (scores[:, i, c] for i in (0, 1) for c in (0, 1))
    comparisons = ((c0_i0, c1_i0), (c1_i1, c0_i1), (c0_i0, c0_i1), (c1_i1, c1_i0))
    ties = np.sum([true == false for true, false in comparisons], axis=0)
    paired, swapped = c0_i0 + c1_i1, c0_i1 + c1_i0
    match = np.where(paired == swapped, TIE_POLICIES[tie_policy], paired > swapped)
    if tie_policy == "wrong":
        wins = [true > false for true, false in comparisons]
    elif tie_policy == "first":
        # On a tie, argmax returns index 0, which is right for the first image and caption and wrong for the second.
        wins = [
            true >= false if first else true > false
            for (true, false), first in zip(comparisons, (True, False, True, False), strict=True)
        ]
    else:
        halves = [np.where(true == false, 0.5, true > false) for true, false in comparisons]
        # The two comparisons of the text score have no score in common, so their ties are broken independently. The
        # same holds for the image score.
        group = _group_at_random(np.stack([c0_i0, c1_i1]), np.stack([c1_i0, c0_i1]))
        return TwoByTwo(halves[0] * halves[1], halves[2] * halves[3], group, match, ties)
    text, image = wins[0] & wins[1], wins[2] & wins[3]
    return TwoByTwo(text.astype(float), image.astype(float), (text & image).astype(float), match, ties)


def _group_at_random(true_2N: NDArray[np.float64], false_2N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probability that both true scores exceed both false scores if ties are broken at random."""
    low, high = true_2N.min(axis=0), false_2N.max(axis=0)
    tied_true, tied_false = (true_2N == low).sum(axis=0), (false_2N == high).sum(axis=0)
    orders = np.where((tied_true == 2) & (tied_false == 2), 6, np.where(tied_true + tied_false == 3, 3, 2))
    return np.where(low > high, 1.0, np.where(low == high, 1.0 / orders, 0.0))


ONE_WAY = ("i2t_positive", "i2t_negative", "t2i_positive", "t2i_negative")


def one_way(scores: ArrayLike) -> dict[str, float]:
    """Return the outcomes of BiVLC's four comparisons for one item (Miranda et al. 2024): each image chooses its
    caption (I2T), and each caption chooses its image (T2I). ``scores`` (2, 2) are the scores of the item, as in
    :func:`two_by_two`. Ties count as wrong.
    """
    (c0_i0, c1_i0), (c0_i1, c1_i1) = _without_nan(scores, "2x2 scores")
    wins = (c0_i0 > c1_i0, c1_i1 > c0_i1, c0_i0 > c0_i1, c1_i1 > c1_i0)
    return {name: float(win) for name, win in zip(ONE_WAY, wins, strict=True)}


def two_true_captions(scores: Sequence[float], tie_policy: TiePolicy = "wrong") -> tuple[dict[str, float], int]:
    """Return SugarCrepe++'s image-to-text outcomes (Dumpala et al. 2024) for the scores of two true captions and one
    false caption.

    Returns:
        The outcomes and the number of ties. ``itt`` is 1 if both true captions score above the false caption.
        ``first_caption`` (``second_caption``) is 1 if the first (second) true caption scores above the false caption.
        Under the tie policy ``half``, the outcomes are the expected outcomes if ties are broken at random.
    """
    first, second, false = _without_nan(scores, "scores of two true captions and a false one")
    _check_policy(tie_policy)
    one, two = (float(true > false) if true != false else TIE_POLICIES[tie_policy] for true in (first, second))
    both = 1 / 3 if tie_policy == "half" and first == second == false else one * two
    ties = int(first == false) + int(second == false)
    return {"itt": both, "first_caption": one, "second_caption": two}, ties


def choice(scores: Sequence[float], target: int, tie_policy: TiePolicy = "wrong") -> tuple[float, bool]:
    """Return the outcome of candidate ``target`` (1 if it has the highest of ``scores``, 0 if another candidate scores
    higher), and whether it is tied with another candidate for the highest score.

    If ``target`` is tied, the outcome depends on the tie policy. Under ``wrong``, it is 0 (SugarCrepe's strict ``>``).
    Under ``half``, it is 1 divided by the number of tied candidates. Under ``first``, it is 1 if ``target`` has the
    lowest index of the tied candidates, and 0 otherwise.
    """
    _check_policy(tie_policy)
    values = _without_nan(scores, "choice scores")
    if values.ndim != 1 or len(values) < 2 or not 0 <= target < len(values):
        raise MetricError(
            "a choice needs at least two scores and the index of one of them, not scores of shape "
            f"{values.shape} and the index {target}"
        )
    winners = np.flatnonzero(values == values.max())
    if target not in winners:
        return 0.0, False
    if len(winners) == 1:
        return 1.0, False
    return {"wrong": 0.0, "half": 1.0 / len(winners), "first": float(winners[0] == target)}[tie_policy], True


def natural_bench(correct: ArrayLike) -> dict[str, NDArray[np.float64]]:
    """Return NaturalBench's accuracies (Li et al. 2024, section 3).

    Args:
        correct: (N, 2 questions, 2 images); 1 for a right answer and 0 for a wrong answer.

    Returns:
        ``acc`` (4N,) for each answer, ``q_acc`` (2N,) for each question (right on both images), ``i_acc`` (2N,) for
        each image (right on both questions), and ``g_acc`` (N,) for each group (all four right). The values of a group
        are adjacent in each array.
    """
    values = _without_nan(correct, "NaturalBench outcomes")
    if values.ndim != 3 or values.shape[1:] != (2, 2):
        raise MetricError(f"NaturalBench outcomes must have shape (N, 2, 2), not {values.shape}")
    return {
        "acc": values.reshape(-1),
        "q_acc": values.min(axis=2).reshape(-1),
        "i_acc": values.min(axis=1).reshape(-1),
        "g_acc": values.min(axis=(1, 2)),
    }


def all_right(correct: Sequence[float], groups: Sequence[Hashable]) -> NDArray[np.float64]:
    """Return for each group, in order of first appearance, the lowest outcome of its members, which is 1 if all members
    are right (MMVP pairs, CircularEval).
    """
    if len(correct) != len(groups):
        raise MetricError(
            f"the number of group labels must equal the number of outcomes ({len(correct)}), but is {len(groups)}: "
            "pass one label per outcome"
        )
    lowest: dict[Hashable, float] = {}
    for value, group in zip(correct, groups, strict=True):
        lowest[group] = min(lowest.get(group, 1.0), float(value))
    return np.array(list(lowest.values()))


def four_dimensions(steps: Sequence[bool], problem: bool) -> dict[str, float]:
    """Return for each of We-Math's dimensions (arXiv 2407.01284) whether it applies to a problem (1 or 0), given the
    outcomes of the steps and of the problem itself. The returned values ``score_*`` are 1 for mastery, 0.5 for
    inadequate generalization, and 0 for all other problems.

    Strict mastery requires right answers to the problem and to all of its steps. Loose mastery requires right answers
    to the problem and to at least one step. All other problems with a right answer count as rote memorization.
    """
    if not steps:
        raise MetricError("a problem needs at least one step: pass the outcomes of its steps")
    every, some = all(steps), any(steps)
    inadequate = every and not problem
    values = {
        "score_strict": (every and problem) + 0.5 * inadequate,
        "score_loose": (some and problem) + 0.5 * inadequate,
        "insufficient_knowledge": not every and not problem,
        "inadequate_generalization": inadequate,
        "complete_mastery_strict": every and problem,
        "complete_mastery_loose": some and problem,
        "rote_memorization_strict": problem and not every,
        "rote_memorization_loose": problem and not some,
    }
    return {name: float(value) for name, value in values.items()}


def _check_policy(tie_policy: TiePolicy) -> None:
    if tie_policy not in TIE_POLICIES:
        raise MetricError(f"protocol.tie_policy={tie_policy!r} is unknown: choose one of {', '.join(TIE_POLICIES)}")


def _without_nan(values: ArrayLike, what: str) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise MetricError(f"{what}: there are no items to score: pass at least one item")
    if np.isnan(array).any():
        rows = sorted({int(index[0]) for index in np.argwhere(np.isnan(array))})
        raise MetricError(f"{what} contain NaN. Number of affected items: {len(rows)}, index of the first: {rows[0]}")
    return array
