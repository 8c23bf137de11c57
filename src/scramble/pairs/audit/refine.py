"""Refine pairs: select the pairs that text-only classifiers cannot predict.

:class:`TextOnlyOdds` and :func:`select` need no pretrained model, and their results depend on a seed. Each candidate is
scored by classifiers that were fitted on the candidates in the other folds. The candidates are selected by rejection
sampling: the higher the odds that the classifiers recognise the chosen text, the lower the probability that the
candidate is selected. AFLite (Le Bras et al. 2020), in contrast, fits classifiers again on the selected candidates.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scramble.pairs.audit.text_only import CLASSIFIERS, FOLDS, MIN_PAIRS, Scorer, fit_linear, group_of, position_of
from scramble.pairs.base import CandidateSet, seeded
from scramble.records import PreferencePair

if TYPE_CHECKING:
    import numpy as np

EXPONENT = 2.0
# A family with fewer than FEW expected draws has FOLDS_OF_FEW folds. Its classifiers are then fitted on 95 % of the
# pairs instead of 80 %, which lowers the transfer accuracy of refined swaps by one percentage point. Larger
# families have enough pairs with FOLDS folds.
FEW, FOLDS_OF_FEW = 5_000, 20
MAX_CANDIDATES = 200_000  # maximum number of candidates, from a random sample of the images, for fitting classifiers


def kind_family(kind: str) -> str:
    """Return the family of a kind, for example ``swap`` for ``swap-object``."""
    return kind.split("-")[0]


@dataclass(frozen=True, slots=True)
class KindGroups:
    """The kinds, grouped by the classifiers that score their pairs.

    Classifiers are fitted on each family of kinds that has enough pairs. A family or a kind has enough pairs if it has
    at least :data:`~scramble.pairs.audit.text_only.MIN_PAIRS` expected draws and at least
    :data:`~scramble.pairs.audit.text_only.FOLDS` images.

    Attributes:
        alone: kinds that have enough pairs themselves, so that classifiers are also fitted on each of them.
        pooled: kinds with fewer pairs, which are scored only by the classifiers of their family.
        unrefined: kinds of families with too few pairs. These kinds are not refined.
    """

    alone: tuple[str, ...]
    pooled: tuple[str, ...]
    unrefined: tuple[str, ...]


def kind_groups(pairs: Sequence[PreferencePair], draws: Sequence[float]) -> KindGroups:
    """Group the kinds by the number of their expected draws and the number of their images."""
    total: dict[str, float] = {}
    images: dict[str, set[str]] = {}
    for pair, weight in zip(pairs, draws, strict=True):
        for group in {pair.kind, f"{kind_family(pair.kind)}-"}:  # a kind may have the name of its family
            total[group] = total.get(group, 0.0) + weight
            images.setdefault(group, set()).add(group_of(pair))

    def enough(group: str) -> bool:
        return total[group] >= MIN_PAIRS - 1e-6 and len(images[group]) >= FOLDS

    kinds = sorted({pair.kind for pair in pairs})
    refined = [kind for kind in kinds if enough(f"{kind_family(kind)}-")]
    alone = tuple(kind for kind in refined if enough(kind))
    pooled = tuple(kind for kind in refined if kind not in alone)
    return KindGroups(alone, pooled, tuple(kind for kind in kinds if kind not in refined))


def _fold_counts(pairs: Sequence[PreferencePair], draws: Sequence[float]) -> dict[str, int]:
    """Return the number of folds of each family."""
    total: defaultdict[str, float] = defaultdict(float)
    for pair, weight in zip(pairs, draws, strict=True):
        total[kind_family(pair.kind)] += weight
    return {family: FOLDS if number >= FEW else FOLDS_OF_FEW for family, number in total.items()}


class TextOnlyOdds:
    """The log-odds that text-only classifiers recognise the chosen text of a pair.

    For each family and each kind with enough pairs, n-gram classifiers are fitted on its candidates, weighted by their
    expected draws. A language model is fitted on the chosen texts. Images are divided into folds by a hash, so that new
    images also have a fold. A pair is scored by the classifiers that were not fitted on its fold. A linear classifier
    per family combines the scores into calibrated log-odds. No classifier is fitted on selected pairs. Such a
    classifier would learn the patterns that earlier classifiers missed in this particular selection, and these patterns
    do not transfer to other images.

    Args:
        pairs: all candidates of the images on which the classifiers are fitted.
        draws: the expected number of draws of each candidate, in [0, 1].
        seed: seed of the folds.
    Attributes:
        fitted: the log-odds of ``pairs`` (n,).
        groups: the kinds, grouped by the classifiers that score them.
    """

    NGRAMS = ("trigram", "character")

    def __init__(self, pairs: Sequence[PreferencePair], draws: Sequence[float], *, seed: int = 0) -> None:
        import numpy as np

        self._seed = seed
        self.groups = kind_groups(pairs, draws)
        self._num_folds = _fold_counts(pairs, draws)
        self._scorers: dict[tuple[str, str, int], Scorer] = {}
        self._calibration: dict[str, Scorer] = {}
        self.fitted = np.zeros(len(pairs))
        refined = {*self.groups.alone, *self.groups.pooled}
        rows = [i for i, pair in enumerate(pairs) if pair.kind in refined]
        if not rows:
            return
        used, weights = [pairs[i] for i in rows], np.asarray(draws, dtype=float)[rows]
        features, positions = self._features(used), self._positions(used)
        families = np.array([kind_family(pair.kind) for pair in used])
        for (name, group), members in self._members(used).items():
            fold = self._folds(positions, group)
            for number in range(fold.max() + 1):
                train = np.flatnonzero((fold != number) & members)
                if len(train) >= 2:
                    fit = CLASSIFIERS[name].fit
                    self._scorers[name, group, number] = fit(features[name][train], weights[train])
        scores = self._scores(used, features, positions)
        for family in np.unique(families):
            members = np.flatnonzero(families == family)
            self._calibration[family] = fit_linear(scores[members], weights[members])
            self.fitted[np.asarray(rows)[members]] = self._calibration[family](scores[members])

    def __call__(self, pairs: Sequence[PreferencePair]) -> np.ndarray:
        """Return calibrated log-odds (n,), which are positive if the chosen text is recognised.

        The log-odds of pairs of unrefined kinds are 0.
        """
        import numpy as np

        odds = np.zeros(len(pairs))
        families = np.array([kind_family(p.kind) if p.kind not in self.groups.unrefined else "" for p in pairs])
        if not self._calibration or not pairs:
            return odds
        scores = self._scores(pairs, self._features(pairs), self._positions(pairs))
        for family, calibrate in self._calibration.items():
            members = np.flatnonzero(families == family)
            if len(members):
                odds[members] = calibrate(scores[members])
        return odds

    def _positions(self, pairs: Sequence[PreferencePair]) -> np.ndarray:
        """Return the hashes of the pairs' images as numbers in [0, 1), with shape (n,)."""
        import numpy as np

        return np.array([position_of(group_of(pair), self._seed) for pair in pairs])

    def _folds(self, positions: np.ndarray, group: str) -> np.ndarray:
        """Return the folds (n,) of images for the classifiers of a group, from the images' positions (n,)."""
        return (self._num_folds.get(kind_family(group), FOLDS) * positions).astype(int)

    def _features(self, pairs: Sequence[PreferencePair]) -> dict[str, Any]:
        return {name: CLASSIFIERS[name].features(pairs) for name in (*self.NGRAMS, "language model")}

    def _members(self, pairs: Sequence[PreferencePair]) -> dict[tuple[str, str], np.ndarray]:
        """Return a mask (n,) of the pairs for each classifier and group (a family, a kind, or "" for all pairs)."""
        import numpy as np

        kinds = np.array([pair.kind for pair in pairs])
        families = np.array([kind_family(kind) for kind in kinds])
        members: dict[tuple[str, str], np.ndarray] = {("language model", ""): np.ones(len(pairs), bool)}
        for name in self.NGRAMS:
            members |= {(name, f"{family}-"): families == family for family in np.unique(families)}
            members |= {(name, kind): kinds == kind for kind in self.groups.alone}
        return members

    def _scores(self, pairs: Sequence[PreferencePair], features: dict[str, Any], positions: np.ndarray) -> np.ndarray:
        """Return the scores (n, 5) of the pairs by five classifiers that were not fitted on the image of the pair."""
        import numpy as np

        columns = {(name, level): np.zeros(len(pairs)) for name in self.NGRAMS for level in ("family", "kind")}
        columns["language model", ""] = np.zeros(len(pairs))
        for (name, group), members in self._members(pairs).items():
            level = "" if not group else "family" if group.endswith("-") else "kind"
            fold = self._folds(positions, group)
            for number in np.unique(fold[members]):
                rows = np.flatnonzero(members & (fold == number))
                scorer = self._scorers.get((name, group, number))
                if scorer is not None and len(rows):
                    columns[name, level][rows] = scorer(features[name][rows])
        return np.stack(list(columns.values()), axis=1)


def select(
    candidates: CandidateSet, odds: Sequence[float], *, seed: int = 0, exponent: float = EXPONENT
) -> list[PreferencePair]:
    """Accept each candidate in turn with probability min(1, exp(-exponent * log-odds)).

    The selection ends when ``candidates.count`` candidates are used. A rejected swap does not count as used, and the
    next candidate replaces it. Any other rejected candidate counts as used. Otherwise one of the many replacements of
    a caption would nearly always be accepted, even if the classifiers recognise all of them.

    Args:
        odds: log-odds of each candidate (:class:`TextOnlyOdds`). Each decision depends only on the odds, the seed and
            the pair's texts and image.
    """
    selected: list[PreferencePair] = []
    left = candidates.count
    for pair, value in zip(candidates.pairs, odds, strict=True):
        if not left:
            break
        draw = seeded(seed, "refine", group_of(pair), pair.chosen, pair.rejected).random()
        if draw < math.exp(min(0.0, -exponent * value)):
            selected.append(pair)
            left -= 1
        elif kind_family(pair.kind) != "swap":
            left -= 1
    return selected


def refine(candidates: Sequence[CandidateSet], *, seed: int = 0, exponent: float = EXPONENT) -> list[PreferencePair]:
    """Refine candidates that are all in memory with :class:`TextOnlyOdds` and :func:`select`."""
    pairs = [pair for item in candidates for pair in item.pairs]
    odds = TextOnlyOdds(pairs, [draw for item in candidates for draw in item.draws], seed=seed).fitted
    selected, start = [], 0
    for item in candidates:
        end = start + len(item.pairs)
        selected += select(item, odds[start:end].tolist(), seed=seed, exponent=exponent)
        start = end
    return selected
