"""Filter the pairs of any method: remove pairs with a value that is out of bounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scramble.language.spacy_pipeline import DEFAULT_PIPELINE, load_pipeline
from scramble.pairs.base import Skip
from scramble.pairs.filters import TEXT_COLUMNS, is_within, lemma_identity, near_duplicates, text_columns, with_columns
from scramble.pairs.method import PairMethod
from scramble.pairs.steps.pair_step import PairStep
from scramble.records import PreferencePair


@dataclass(frozen=True)
class Filter:
    """The bounds on a column. Pairs with a value below ``min`` or above ``max`` are dropped.

    Attributes:
        column: a column of :data:`scramble.pairs.filters.TEXT_COLUMNS`, ``near_duplicate``, ``same_lemmas``, a score
            (``grammar.rejected``), the gap of a score (``grammar.gap``), or a column in the data.
        pipeline: spaCy pipeline for ``same_lemmas``.
    """

    column: str
    min: float | None = None
    max: float | None = None
    pipeline: str = DEFAULT_PIPELINE


class FilteredPairs(PairStep):
    """A step that keeps the pairs that pass all filters, and yields a :class:`Skip` for each dropped pair.

    The :class:`Skip` names the column of the first filter that the pair fails. The columns that the filters compute are
    added to the pairs.

    Args:
        method: the method that creates the pairs.
        filters: at least one filter.
    """

    name = "filtered"

    def __init__(self, method: PairMethod, filters: Sequence[Filter]) -> None:
        super().__init__(method)
        self._filters = filters
        self._dropped: Counter[str] = Counter()

    def process(self, stream: Iterator[PreferencePair | Skip], split: Path) -> Iterator[PreferencePair | Skip]:
        columns = self._columns()
        for pair_or_skip in stream:
            if isinstance(pair_or_skip, Skip):
                yield pair_or_skip
                continue
            pair = with_columns(pair_or_skip, *columns)
            failed = next((f.column for f in self._filters if not is_within(pair, f.column, f.min, f.max)), None)
            if failed is None:
                yield pair
                continue
            self._dropped[failed] += 1
            item = {"pair": pair.pair_id, "chosen": pair.chosen[:500], "rejected": pair.rejected[:500]}
            yield Skip(f"filter {failed}", item)

    def totals(self) -> dict[str, Any]:
        """Return the totals of the base class, and the number of dropped pairs for each column."""
        return super().totals() | {"dropped": dict(self._dropped.most_common())}

    def _columns(self) -> list[Callable[[PreferencePair], dict[str, float]]]:
        """Return the functions that compute the filters' columns."""
        columns: list[Callable[[PreferencePair], dict[str, float]]] = []
        if any(each.column in TEXT_COLUMNS for each in self._filters):
            columns.append(text_columns)
        if any(each.column == "near_duplicate" for each in self._filters):
            columns.append(near_duplicates())
        pipelines = {each.pipeline for each in self._filters if each.column == "same_lemmas"}
        return columns + [lemma_identity(load_pipeline(pipeline, "lemmatizer")) for pipeline in pipelines]
