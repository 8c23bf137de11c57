"""Refinement: drop pairs until text-only classifiers cannot distinguish chosen from rejected.

There are two methods. Both are seeded and balance the pairs within each kind:

* :func:`balance_gaps` is SugarCrepe's and SCRAMBLe's adversarial refinement. Two text models score both sides, and
  pairs are kept such that the distribution of the two score gaps is symmetric about 0 (Hsieh et al. 2023; Mishra et
  al. 2025).
* :func:`refine_text_only` needs no model. N-gram classifiers, cross-fitted on the pairs, replace the text models
  (after AFLite, Le Bras et al. 2020), and the pairs are balanced on their gaps in several rounds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scramble.pairs.audit.text_only import FOLDS, cross_fit, differences, folds, judgeable
from scramble.pairs.base import seeded
from scramble.records import PreferencePair

if TYPE_CHECKING:
    import numpy as np

GRID = 50  # cells per quadrant side, for two gaps in [-1, 1]
LINE = 10  # bins on one gap if the other is exactly 0


def balance_gaps(
    pairs: Sequence[PreferencePair], first: Sequence[float], second: Sequence[float], *, seed: int = 0
) -> list[PreferencePair]:
    """Keep pairs so that both score gaps are symmetric about 0 within each kind.

    The plane of the gaps is divided into ``GRID`` x ``GRID`` cells per quadrant. Cell (i, j) is matched with (-i, -j),
    and pairs of the larger of the two are dropped at random until both have the same number. If one gap is exactly 0,
    the other is divided into ``LINE`` bins per side. Pairs with both gaps 0 are kept.

    Args:
        first, second: score of the chosen minus score of the rejected text, as differences of probabilities in
            [-1, 1]; a gap of exactly 1 belongs to the last cell.
    Raises:
        ValueError: a gap is outside [-1, 1] or NaN; the message names the pair.
    """
    cells: dict[tuple[str, int, int], list[int]] = {}
    for index, (pair, x, y) in enumerate(zip(pairs, first, second, strict=True)):
        if not (-1 <= x <= 1 and -1 <= y <= 1):
            raise ValueError(f"pair {pair.pair_id}: score gaps {x}, {y} are not differences of probabilities")
        bins = GRID if x and y else LINE
        cells.setdefault((pair.kind, _cell(x, bins), _cell(y, bins)), []).append(index)
    keep: list[int] = []
    for (kind, i, j), members in cells.items():
        opposite = cells.get((kind, -i, -j), [])
        count = len(members) if i == j == 0 else min(len(members), len(opposite))
        keep += seeded(seed, kind, i, j).sample(members, count)
    return [pairs[index] for index in sorted(keep)]


def _cell(gap: float, bins: int) -> int:
    """The signed bin of a gap, 1 to ``bins``; 0 for a gap of exactly 0."""
    if gap == 0:
        return 0
    number = min(int(abs(gap) * bins) + 1, bins)
    return number if gap > 0 else -number


@dataclass(frozen=True, slots=True)
class KindGroups:
    """How the kinds of a set of pairs are refined: separately, in one pool, or not at all.

    An accuracy over few pairs is mostly noise, and balancing on noise would drop most of them. Kinds with too few
    pairs (:func:`scramble.pairs.audit.text_only.judgeable`) are therefore pooled. If even the pool has too few pairs,
    these kinds are not refined.
    """

    alone: tuple[str, ...]
    pooled: tuple[str, ...]
    unrefined: tuple[str, ...]

    @property
    def names(self) -> dict[str, str]:
        """The group of each refined kind: its own name, or the names of all pooled kinds."""
        return {kind: kind for kind in self.alone} | dict.fromkeys(self.pooled, " + ".join(self.pooled))


def kind_groups(pairs: Sequence[PreferencePair]) -> KindGroups:
    """Group the kinds of ``pairs`` by whether they have enough pairs to be refined separately."""
    by_kind: dict[str, list[PreferencePair]] = {}
    for pair in pairs:
        by_kind.setdefault(pair.kind, []).append(pair)
    alone = tuple(kind for kind in sorted(by_kind) if judgeable(by_kind[kind]))
    small = tuple(kind for kind in sorted(by_kind) if kind not in alone)
    if judgeable([pair for kind in small for pair in by_kind[kind]]):
        return KindGroups(alone, small, ())
    return KindGroups(alone, (), small)


@dataclass(frozen=True, slots=True)
class Round:
    """One round of refinement of one kind (or of the pooled small kinds): the numbers of pairs before and after, and
    the classifiers' accuracy."""

    kind: str
    number: int
    before: int
    after: int
    accuracy: float


def refine_text_only(
    pairs: Sequence[PreferencePair],
    *,
    seed: int = 0,
    rounds: int = 4,
    target: float = 52.0,
    slack: float = 0.15,
    least: float = 0.0,
    on_round: Callable[[Round], None] | None = None,
) -> list[PreferencePair]:
    """Keep pairs that n-gram classifiers, fitted on the pairs of other images, cannot distinguish, kind by kind.

    Each round fits unigram, bigram and trigram classifiers out of fold (with new folds), both on the kind and on all
    pairs. At each level of confidence it keeps equal numbers of correctly and incorrectly classified pairs, plus a
    share ``slack`` of correctly classified pairs: with equal numbers the next classifier would be *below* chance. A
    kind is finished when the classifiers are at ``target`` percent or below, or when less than the share ``least`` of
    its pairs would remain. Small kinds are pooled or not refined (:func:`kind_groups`). ``on_round`` is called after
    each round.
    """
    names = kind_groups(pairs).names
    remaining = list(pairs)
    total = Counter(names[pair.kind] for pair in pairs if pair.kind in names)
    done: set[str] = set()
    for number in range(rounds):
        if done == set(total):
            break
        gaps = _gaps(remaining, names, seed + 101 * number)
        staying = [i for i, pair in enumerate(remaining) if names.get(pair.kind) not in total.keys() - done]
        for group in sorted(total.keys() - done):
            members = [i for i, pair in enumerate(remaining) if names.get(pair.kind) == group]
            if not members:  # earlier rounds dropped all of them
                done.add(group)
                continue
            balanced = _balance(members, gaps, slack, seeded(seed, group, number).random())
            right = _accuracy(gaps[members])
            if right <= target or len(balanced) < least * total[group]:
                done.add(group)
                balanced = members
            elif on_round is not None:
                on_round(Round(group, number, len(members), len(balanced), right))
            staying += balanced
        if len(staying) == len(remaining):
            break
        remaining = [remaining[i] for i in sorted(staying)]
    return remaining


def _accuracy(gaps: np.ndarray) -> float:
    return float(100 * ((gaps > 0).mean() + (gaps == 0).mean() / 2))


def _gaps(pairs: Sequence[PreferencePair], names: Mapping[str, str], seed: int) -> np.ndarray:
    """Out-of-fold log-odds (n,), summed over the classifiers, each fitted on all pairs and on each group of kinds."""
    import numpy as np

    gaps = np.zeros(len(pairs))
    groups: dict[str, list[int]] = {}
    for index, pair in enumerate(pairs):
        if pair.kind in names:
            groups.setdefault(names[pair.kind], []).append(index)
    for place, classifier in enumerate(("unigram", "bigram", "trigram")):
        table, fold = differences(pairs, classifier), folds(pairs, FOLDS, seed + place)
        gaps += cross_fit(table, fold)
        for members in groups.values():
            gaps[members] += cross_fit(table[members], fold[members])
    return gaps


def _balance(members: Sequence[int], gaps: np.ndarray, slack: float, draw: float) -> list[int]:
    """Balance positive and negative gaps of similar size, with the share ``slack`` more of either; keep gaps of 0."""
    import numpy as np

    index = np.asarray(members)
    sizes = np.abs(gaps[index])
    keep = list(index[sizes == 0])
    inside = sizes > 0
    if not inside.any():
        return [int(i) for i in keep]
    edges = np.quantile(sizes[inside], np.linspace(0, 1, max(2, min(20, int(inside.sum() / 20)) + 1))[1:-1])
    cells = np.digitize(sizes, edges)
    rng = np.random.default_rng(int(draw * 2**32))
    for cell in np.unique(cells[inside]):
        up = index[inside & (cells == cell) & (gaps[index] > 0)]
        down = index[inside & (cells == cell) & (gaps[index] < 0)]
        keep += list(rng.permutation(up)[: round(len(down) * (1 + slack))])
        keep += list(rng.permutation(down)[: round(len(up) * (1 + slack))])
    return sorted(int(i) for i in keep)
