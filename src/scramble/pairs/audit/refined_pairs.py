"""Refine any method's pairs: drop training pairs that text-only classifiers get right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from scramble.pairs.audit.refine import kind_groups, refine_text_only
from scramble.pairs.base import Skip
from scramble.pairs.method import PairMethod, collect
from scramble.records import PreferencePair


class RefinedPairs(PairMethod):
    """The refined training pairs of a method; other splits are unchanged. The training pairs are held in memory.

    Args:
        method: the method that makes the pairs.
        options: see :func:`scramble.pairs.audit.refine.refine_text_only`.
    """

    def __init__(self, method: PairMethod, **options: Any) -> None:
        super().__init__(seed=method.seed, shard=method.shard)
        self._method, self._options = self._stack.enter_context(method), options
        self._counts: dict[str, Any] = {}

    @property
    def asks_model(self) -> bool:
        return self._method.asks_model

    def pairs(self, split: Path) -> Iterator[PreferencePair | Skip]:
        stream = self._method.pairs(split)
        if split.name != "train":
            yield from stream
            return
        pairs, skips = collect(stream)
        yield from skips
        groups, sizes = kind_groups(pairs), Counter(pair.kind for pair in pairs)
        small = {
            "refined_together": {kind: sizes[kind] for kind in groups.pooled},
            "not_refined": {kind: sizes[kind] for kind in groups.unrefined},
        }
        self._counts = {"pairs_before_refinement": len(pairs), **{key: kinds for key, kinds in small.items() if kinds}}
        yield from refine_text_only(pairs, seed=self.seed, **self._options)

    def totals(self) -> dict[str, Any]:
        """The number of pairs before refinement, the kinds too small to refine separately, and the method's totals."""
        return self._counts | self._method.totals()

    def prepare(self) -> None:
        self._method.prepare()

    def exclude(self, image_ids: AbstractSet[str]) -> None:
        self._method.exclude(image_ids)

    def store_replies(self, split: Path) -> int:
        return self._method.store_replies(split)
