"""Balance two score gaps (the adversarial refinement of SugarCrepe and SCRAMBLe).

Two text models score both sides of each pair. Pairs are selected so that the distribution of the two score gaps is
symmetric about 0 (Hsieh et al. 2023; Mishra et al. 2025).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from scramble.pairs.base import Skip, seeded
from scramble.pairs.filters import column_value
from scramble.pairs.method import PairMethod, PairMethodError, collect
from scramble.pairs.steps.pair_step import PairStep
from scramble.records import PreferencePair

GRID = 50  # cells per side of a quadrant, for two gaps in [-1, 1]
LINE = 10  # bins of one gap if the other gap is exactly 0


class BalancedPairs(PairStep):
    """A step that balances training pairs on the gaps of two scores. Other splits are unchanged.

    The training pairs are held in memory. See :func:`balance_gaps`.

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


def balance_gaps(
    pairs: Sequence[PreferencePair], first: Sequence[float], second: Sequence[float], *, seed: int = 0
) -> list[PreferencePair]:
    """Select pairs so that the distribution of the two score gaps is symmetric about 0 within each kind.

    The plane of the gaps is divided into ``GRID`` x ``GRID`` cells per quadrant. Cell (i, j) is matched with (-i, -j),
    and pairs of the larger cell are dropped at random until both cells have the same number of pairs. If one gap is
    exactly 0, the other gap is divided into ``LINE`` bins per side. If both gaps are 0, the pair is kept.

    Args:
        first, second: the two gaps of each pair, which are the score of the chosen text minus the score of the rejected
            text. The scores are probabilities, so a gap is in [-1, 1]. A gap of exactly 1 or -1 belongs to the
            outermost cell.
    Raises:
        ValueError: a gap is outside [-1, 1] or NaN. The message names the pair.
    """
    cells: dict[tuple[str, int, int], list[int]] = {}
    for index, (pair, x, y) in enumerate(zip(pairs, first, second, strict=True)):
        if not (-1 <= x <= 1 and -1 <= y <= 1):
            raise ValueError(
                f"pair {pair.pair_id}: the score gaps {x} and {y} must be in [-1, 1]: use two scores "
                "that are probabilities"
            )
        bins = GRID if x and y else LINE
        cells.setdefault((pair.kind, _cell(x, bins), _cell(y, bins)), []).append(index)
    keep: list[int] = []
    for (kind, i, j), members in cells.items():
        opposite = cells.get((kind, -i, -j), [])
        count = len(members) if i == j == 0 else min(len(members), len(opposite))
        keep += seeded(seed, kind, i, j).sample(members, count)
    return [pairs[index] for index in sorted(keep)]


def _cell(gap: float, bins: int) -> int:
    """Return the number of a gap's bin, from 1 to ``bins`` with the sign of the gap, or 0 for a gap of exactly 0."""
    if gap == 0:
        return 0
    number = min(int(abs(gap) * bins) + 1, bins)
    return number if gap > 0 else -number
