"""Refine the pairs of any method: select training pairs that text-only classifiers cannot predict."""

from __future__ import annotations

import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from scramble.pairs.audit.refine import EXPONENT, MAX_CANDIDATES, TextOnlyOdds, select
from scramble.pairs.audit.text_only import ImageSample, group_of
from scramble.pairs.base import CandidateSet, Skip
from scramble.pairs.method import DerivedMethod, PairMethod
from scramble.records import PreferencePair
from scramble.storage.tables import open_table, read_table

CHUNK = 2_000  # number of captions scored at a time


class RefinedPairs(DerivedMethod):
    """A pair method that refines the training pairs of another method. Other splits are unchanged.

    The candidates are stored in a temporary file in the split's folder, so that memory is bounded. If there are more
    than :data:`~scramble.pairs.audit.refine.MAX_CANDIDATES` candidates, the classifiers are fitted on the candidates
    of a random sample of the images.

    Args:
        method: the method that creates the pairs.
        exponent: see :func:`scramble.pairs.audit.refine.select`. A larger value selects fewer pairs.
    """

    def __init__(self, method: PairMethod, *, exponent: float = EXPONENT) -> None:
        super().__init__(method)
        self._exponent = exponent
        self._counts: dict[str, Any] = {}

    def pairs(self, split: Path) -> Iterator[PreferencePair | Skip]:
        if split.name != "train":
            yield from self._method.pairs(split)
            return
        sample = ImageSample[CandidateSet](
            MAX_CANDIDATES, self.seed + 1, group=lambda item: group_of(item.pairs[0]), size=lambda item: len(item.pairs)
        )
        shapes = array("I")  # for each caption, the number of candidates and the number of pairs to select
        sizes: Counter[str] = Counter()  # number of drawn pairs for each kind
        with tempfile.TemporaryDirectory(prefix=".candidates.", dir=split) as folder:
            with open_table(folder, PreferencePair) as table:
                for item in self._method.candidates(split):
                    if isinstance(item, Skip):
                        yield item
                        continue
                    shapes.extend((len(item.pairs), item.count))
                    sizes.update(pair.kind for pair in item.pairs[: item.count])
                    sample.add(item)
                    for pair in item.pairs:
                        table.write(pair)
            odds = TextOnlyOdds(
                [pair for item in sample.items for pair in item.pairs],
                [draw for item in sample.items for draw in item.draws],
                seed=self.seed,
            )
            self._counts = {"pairs_before_refinement": sum(sizes.values())}
            small = {"refined_together": odds.groups.pooled, "not_refined": odds.groups.unrefined}
            self._counts |= {key: {kind: sizes[kind] for kind in kinds} for key, kinds in small.items() if kinds}
            if sample.share < 1:
                self._counts["classifiers_fitted_on"] = sum(len(item.pairs) for item in sample.items)
            sample.items.clear()
            for selected in self._selected(Path(folder), shapes, odds):
                yield from self._method.expand(selected)

    def _selected(self, folder: Path, shapes: array[int], odds: TextOnlyOdds) -> Iterator[PreferencePair]:
        rows, captions = read_table(folder, PreferencePair), zip(shapes[::2], shapes[1::2], strict=True)
        while chunk := list(islice(captions, CHUNK)):
            pairs = list(islice(rows, sum(size for size, _ in chunk)))
            values, start = odds(pairs).tolist(), 0
            for size, count in chunk:
                end = start + size
                item = CandidateSet(tuple(pairs[start:end]), (), count)
                yield from select(item, values[start:end], seed=self.seed, exponent=self._exponent)
                start = end

    def totals(self) -> dict[str, Any]:
        """Return the totals of the method, the number of pairs before refinement, and the kinds with too few pairs."""
        return self._counts | self._method.totals()
