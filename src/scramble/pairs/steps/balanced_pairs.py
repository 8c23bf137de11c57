"""Provide SugarCrepe's and SCRAMBLe's adversarial refinement as a step, which balances two score gaps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from scramble.pairs.audit.refine import balance_gaps
from scramble.pairs.base import Skip
from scramble.pairs.filters import column_value
from scramble.pairs.method import PairMethod, PairMethodError, collect
from scramble.pairs.steps.pair_step import PairStep
from scramble.records import PreferencePair


class BalancedPairs(PairStep):
    """A step that balances training pairs on the gaps of two scores. Other splits are unchanged.

    The training pairs are held in memory. See :func:`scramble.pairs.audit.refine.balance_gaps`.

    Args:
        method: the method that creates the pairs.
        gaps: the names of two scores that are probabilities (``grammar``, ``plausibility``).
    """

    name = "balanced"

    def __init__(self, method: PairMethod, gaps: tuple[str, str] = ("grammar", "plausibility")) -> None:
        super().__init__(method)
        self._gaps = gaps

    def process(self, stream: Iterator[PreferencePair | Skip], split: Path) -> Iterator[PreferencePair | Skip]:
        if split.name != "train":
            yield from stream
            return
        pairs, skips = collect(stream)
        yield from skips
        first, second = ([column_value(pair, f"{name}.gap") for pair in pairs] for name in self._gaps)
        try:
            yield from balance_gaps(pairs, first, second, seed=self.seed)
        except ValueError as error:
            raise PairMethodError(f"pairs.balance.gaps=[{','.join(self._gaps)}]: {error}") from error
