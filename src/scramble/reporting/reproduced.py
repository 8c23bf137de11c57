"""A paper's table: what was measured here next to what the paper printed, row by row and column by column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scramble.reporting.comparison import ScoreRow, score_text, shown
from scramble.reporting.published import not_as_published, published_numbers
from scramble.reporting.table import NOT_COMPARABLE, Column, Table

KITS = ("lmms-eval", "vlmevalkit")


class ReproductionError(ValueError):
    """A table whose description does not fit what was measured or published. The message names the column."""


@dataclass(frozen=True)
class Place:
    """A score of a benchmark: where ours is measured (below which folder), or what a paper printed (which protocol)."""

    benchmark: str
    score: str
    folder: str = "evaluation"
    protocol: str | None = None


@dataclass(frozen=True)
class PaperColumn:
    """A column: what is measured (None: nothing at this size) and what was published (None: nothing)."""

    measured: Place | None
    published: Place | None

    @property
    def title(self) -> str:
        place = self.measured or self.published
        assert place is not None
        extra = place.protocol or ("" if place.folder == "evaluation" else place.folder.removeprefix("evaluation-"))
        return f"{place.benchmark} {place.score}" + (f" ({extra})" if extra else "")


@dataclass(frozen=True)
class PaperCell:
    """One row's numbers in one column, percent or the published unit; ``test`` is ours against the baseline's row."""

    ours: float | None = None
    standard_error: float | None = None
    n: int | None = None
    test: Mapping[str, Any] | None = None
    protocol: str = ""
    published: float | None = None
    published_gain: float | None = None
    comparable: bool = False


@dataclass
class PaperTable:
    """The table: cells by row label and column, and the notes below it."""

    columns: list[PaperColumn]
    rows: dict[str, list[PaperCell]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def beside(
    columns: Sequence[PaperColumn],
    methods: Mapping[str, tuple[str, str]],
    measured: Mapping[str, Sequence[ScoreRow]],
    *,
    baseline: str = "base",
) -> PaperTable:
    """Put measured and published numbers beside each other.

    Args:
        methods: key of a measured method -> its label, which is also the published model's name, and the label of the
            published row that it is compared with; the row of that label has no differences.
        measured: evaluation folder -> rows whose ``method`` is such a key, with differences to ``baseline``.
        baseline: name under which the rows hold their test.

    Raises:
        ReproductionError: a column with neither a measured nor a published place.
    """
    made = PaperTable(list(columns))
    notes: dict[str, None] = {}
    for column in columns:
        if column.measured is None and column.published is None:
            raise ReproductionError("a column names neither what is measured nor what was published")
    for key, (label, compared) in methods.items():
        made.rows[label] = [_cell(column, key, label, compared, measured, baseline, notes) for column in columns]
    made.notes = list(notes)
    return made


def _cell(
    column: PaperColumn,
    key: str,
    label: str,
    compared: str,
    measured: Mapping[str, Sequence[ScoreRow]],
    baseline: str,
    notes: dict[str, None],
) -> PaperCell:
    row = None if column.measured is None else _row(column.measured, key, measured)
    entry = None if column.published is None else _entry(column.published, label)
    other = None if column.published is None or compared == label else _entry(column.published, compared)
    gain = entry["value"] - other["value"] if entry and other else None
    comparable = False
    if row is not None:
        notes[f"{column.title}: measured under protocol {row.protocol}, n = {row.n}"] = None
    if entry is not None:
        source = published_numbers()["sources"][entry["source"]]
        notes[f"published: {source['title']} {source['url']}".strip()] = None
        if entry.get("note"):
            notes[f"published {entry['benchmark']}: {entry['note']}"] = None
    if row is not None and entry is not None:
        reason = _why_not(column, row, entry)
        comparable = not reason
        if reason:
            notes[f"{NOT_COMPARABLE} {column.title}: not comparable with the published number, {reason}"] = None
    test = None if row is None or compared == label else row.differences.get(baseline)
    return PaperCell(
        None if row is None else row.value,
        None if row is None else row.standard_error,
        None if row is None else row.n,
        test,
        "" if row is None else row.protocol,
        None if entry is None else entry["value"],
        gain,
        comparable,
    )


def _row(place: Place, key: str, measured: Mapping[str, Sequence[ScoreRow]]) -> ScoreRow | None:
    names = (place.benchmark, *(f"{place.benchmark} ({kit})" for kit in KITS))
    found = [row for row in measured.get(place.folder, ()) if row.method == key and row.benchmark in names]
    exact = [row for row in found if row.score == place.score]
    others = [row for row in found if row.source != "scramble"]  # other kits name their scores in their own way
    return next(iter(exact or others), None)


def _entry(place: Place, label: str) -> Mapping[str, Any] | None:
    for entry in published_numbers()["scores"]:
        if (entry["model"], entry["benchmark"], entry["score"]) != (label, place.benchmark, place.score):
            continue
        if place.protocol in (None, entry["protocol"]):
            return entry
    return None


def _why_not(column: PaperColumn, row: ScoreRow, entry: Mapping[str, Any]) -> str:
    assert column.measured is not None and column.published is not None
    if column.measured.benchmark != column.published.benchmark:
        return f"{column.measured.benchmark} stands for {column.published.benchmark} here"
    return not_as_published(row, entry)


# ------------------------------------------------------------------------------------------------------------- writing


def as_markdown(made: PaperTable, title: str) -> str:
    """Each column twice: ours ± standard error with the paired difference, and the published number with its gain."""
    columns = [Column("model")]
    for column in made.columns:
        measured = "measured" if column.measured else "not measured"
        columns.append(Column(f"{column.title}, {measured}", ours, "right"))
        if column.published is not None:
            columns.append(Column(f"published {column.published.benchmark}", published, "right"))
    rows = [
        [label]
        + [
            cell
            for column, cell in zip(made.columns, cells, strict=True)
            for _ in range(1 if column.published is None else 2)
        ]
        for label, cells in made.rows.items()
    ]
    return f"# {title}\n\n{Table(columns, rows, notes=made.notes).markdown()}"


def by_column(made: PaperTable, title: str) -> list[Table]:
    """A table per column, for the terminal: all columns side by side do not fit."""
    columns = [Column("model"), Column("measured", ours), Column("published", published)]
    return [
        Table(
            columns,
            [(label, cells[place], cells[place]) for label, cells in made.rows.items()],
            f"{title}: {column.title}",
        )
        for place, column in enumerate(made.columns)
    ]


def ours(cell: PaperCell) -> str:
    """A measured number as text: value, standard error, paired difference with interval and p-value."""
    if cell.ours is None:
        return "–"
    text = score_text(cell.ours, cell.standard_error, cell.n)
    return text if cell.test is None else f"{text} ({shown(cell.test)})"


def published(cell: PaperCell) -> str:
    """A published number as text with its gain over the compared row; marked where ours is not comparable with it."""
    if cell.published is None:
        return "–"
    gain = "" if cell.published_gain is None else f" ({cell.published_gain:+.1f})"
    return f"{cell.published:g}{gain}" + ("" if cell.comparable or cell.ours is None else f" {NOT_COMPARABLE}")
