"""Define the base class of steps that change or drop the pairs of another method."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from scramble.pairs.base import Skip
from scramble.pairs.method import DerivedMethod, PairMethod
from scramble.records import PreferencePair


class PairStep(DerivedMethod):
    """A pair method that changes or drops the pairs of another method. Skipped items are unchanged.

    ``name`` is the key of the step in the summary's section ``steps``, which lists the number of pairs after each step.
    """

    name: ClassVar[str]

    def __init__(self, method: PairMethod) -> None:
        super().__init__(method)
        self._received = self._passed = 0

    @abstractmethod
    def process(self, stream: Iterator[PreferencePair | Skip], split: Path) -> Iterator[PreferencePair | Skip]:
        """Yield the pairs that remain, and a :class:`Skip` for each skipped item and each dropped pair."""

    def pairs(self, split: Path) -> Iterator[PreferencePair | Skip]:
        for pair_or_skip in self.process(self._counted(split), split):
            self._passed += isinstance(pair_or_skip, PreferencePair)
            yield pair_or_skip
        self.num_items = self._method.num_items

    def totals(self) -> dict[str, Any]:
        """Return the totals of the method, and the number of pairs after this step."""
        totals = self._method.totals()
        steps = totals.get("steps") or {"pairs": self._received}
        return totals | {"steps": {**steps, self.name: self._passed}}

    def _counted(self, split: Path) -> Iterator[PreferencePair | Skip]:
        for pair_or_skip in self._method.pairs(split):
            self._received += isinstance(pair_or_skip, PreferencePair)
            yield pair_or_skip
