"""Defines the names, types and ranges of the sections for steps that work on the pairs of every method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from scramble.config.sections import Device, Dtype
from scramble.field_checks import PositiveInt, Section, Text, hint, hints

Probability = Literal["grammar", "plausibility"]  # scores in [0, 1]
# Columns that need no model.
FREE_COLUMNS = ("length_ratio", "common_words", "same_words", "usable", "same_lemmas", "near_duplicate")


@dataclass(frozen=True)
class ScorerSection(Section):
    """A model that scores texts; see :class:`scramble.pairs.scoring.stored_models.ScorerSettings`."""

    path: Text
    revision: Text | None = None
    dtype: Dtype = "auto"
    device: Device | None = None
    batch_size: PositiveInt = 64
    new: dict[str, Any] | None = None


@dataclass(frozen=True)
class Scores(Section):
    """Models that score both texts of each pair; see :mod:`scramble.pairs.steps.scored_pairs`."""

    grammar: ScorerSection | None = None
    plausibility: ScorerSection | None = None
    likelihood: ScorerSection | None = None
    similarity: ScorerSection | None = None


@dataclass(frozen=True)
class FilterSection(Section):
    """A bound on a column; see :class:`scramble.pairs.steps.filtered_pairs.Filter`."""

    column: Text
    min: float | None = None
    max: float | None = None
    pipeline: Text = "en_core_web_sm"

    def faults(self, at: str) -> Iterator[str]:
        """Check that at least one bound is set, and that ``min`` is not above ``max``."""
        if self.min is None and self.max is None:
            yield f"{at}: the filter on {self.column} needs a bound: set min or max"
        elif self.min is not None and self.max is not None and self.min > self.max:
            yield f"{at}: the filter on {self.column} must not have min={self.min:g} above max={self.max:g}"


@dataclass(frozen=True)
class Balance(Section):
    """Balancing of two score gaps; see :class:`scramble.pairs.steps.balanced_pairs.BalancedPairs`."""

    gaps: tuple[Probability, Probability] = ("grammar", "plausibility")


@dataclass(frozen=True)
class PairSteps(Section):
    """Settings of the steps in :mod:`scramble.pairs.steps`, which process the pairs of every method."""

    has_columns: ClassVar[bool] = False  # whether the method's pairs have columns that the configuration does not name

    exclude_benchmarks: list[Text] | dict[Text, Text | None] | None = None
    scores: Scores | None = None
    filters: list[FilterSection] | None = None
    balance: Balance | None = None

    def faults(self, at: str) -> Iterator[str]:
        """Check that benchmarks have a path or are on the hub, and that ``filters`` and ``balance`` name existing
        columns.
        """
        if self.exclude_benchmarks:
            yield from self._benchmark_faults(f"{at}.exclude_benchmarks", self.exclude_benchmarks)
        sections: dict[str, Any] = {"scores": self.scores or {}, "balance": self.balance or {}}  # checked mappings
        scores = [name for name, scorer in sections["scores"].items() if scorer is not None]
        columns = {*FREE_COLUMNS, *(f"{name}.{side}" for name in scores for side in ("chosen", "rejected", "gap"))}
        if getattr(self, "captions_per_image", None) == "clip":
            columns.add("similarity.chosen")
        for number, each in enumerate(self.filters or []):
            column = dict(each)["column"]  # type: ignore[call-overload]
            if not self.has_columns and column not in columns:
                scorer = column.partition(".")[0]
                how = f"set {at}.scores.{scorer}.path" if scorer in hints(Scores) else hint(column, columns)
                yield f"{at}.filters[{number}].column={column}: the pairs have no such column; {how}"
        gaps = sections["balance"].get("gaps", Balance.gaps) if self.balance is not None else ()
        for name in gaps:
            if not self.has_columns and name not in scores:
                yield f"{at}.balance.gaps needs the score {name}: set {at}.scores.{name}.path"

    def _benchmark_faults(self, at: str, benchmarks: list[str] | dict[str, str | None]) -> Iterator[str]:
        from scramble.evaluation.benchmarks import BENCHMARKS, needs_files

        for name, place in (benchmarks if isinstance(benchmarks, Mapping) else dict.fromkeys(benchmarks)).items():
            with_path = f"set its file or folder: '{at}={{{name}: <path>}}'"
            if place is None and name not in BENCHMARKS:
                yield f"{at}: there is no benchmark {name} ({hint(name, BENCHMARKS)}); for your own images, {with_path}"
            elif place is None and needs_files(name):
                yield f"{at}: {name} is not on the hub; {with_path}"
