"""A paper's table with our measured scores next to the published ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scramble.reporting.comparison import ScoreRow, score_text, shown
from scramble.reporting.published import not_as_published, published_numbers
from scramble.reporting.table import NOT_COMPARABLE, Column, Table

HARNESSES = ("lmms-eval", "vlmevalkit")


class ReproductionError(ValueError):
    """An invalid description of a table."""


@dataclass(frozen=True)
class Place:
    """A score of a benchmark: ours, measured in ``folder``, or a published one, with ``protocol``."""

    benchmark: str
    score: str
    folder: str = "evaluation"
    protocol: str | None = None


@dataclass(frozen=True)
class PaperColumn:
    """A column: the measured score (None: not measured at this size) and the published score (None: not published).

    ``deviation`` states how the measured protocol differs from the paper's. "": it does not differ; None: the names of
    the protocols are compared.
    """

    measured: Place | None
    published: Place | None
    deviation: str | None = None

    @property
    def title(self) -> str:
        place = self.published or self.measured
        assert place is not None
        extra = place.protocol or ("" if place.folder == "evaluation" else place.folder.removeprefix("evaluation-"))
        return f"{place.benchmark} {place.score}" + (f" ({extra})" if extra else "")


@dataclass(frozen=True)
class PaperCell:
    """The numbers of one row and column, in percent or the published unit; ``test`` compares ours with the baseline."""

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
    """A table: cells by row label and column, and notes."""

    columns: list[PaperColumn]
    rows: dict[str, list[PaperCell]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def compare_with_paper(
    columns: Sequence[PaperColumn],
    methods: Mapping[str, tuple[str, str]],
    measured: Mapping[str, Sequence[ScoreRow]],
    *,
    baseline: str = "base",
) -> PaperTable:
    """Combine measured and published numbers in one table.

    Args:
        columns: columns of the table.
        methods: key of a measured method -> (its label, which is also the published model's name; the label of the
            published row that it is compared with). The row that is compared with itself has no differences.
        measured: evaluation folder -> rows whose ``method`` is such a key, with differences to ``baseline``.
        baseline: name of the baseline in the rows' differences.

    Raises:
        ReproductionError: if a column has neither a measured nor a published score.
    """
    table = PaperTable(list(columns))
    notes: dict[str, None] = {}
    for column in columns:
        if column.measured is None and column.published is None:
            raise ReproductionError("a column has neither a measured nor a published score")
    for key, (label, compared) in methods.items():
        table.rows[label] = [_cell(column, key, label, compared, measured, baseline, notes) for column in columns]
    table.notes = list(notes)
    return table


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
        notes[f"{column.title}: measured with protocol {row.protocol}{_as_in_paper(column)}, n = {row.n}"] = None
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
    names = (place.benchmark, *(f"{place.benchmark} ({harness})" for harness in HARNESSES))
    rows = [row for row in measured.get(place.folder, ()) if row.method == key and row.benchmark in names]
    exact = [row for row in rows if row.score == place.score]
    others = [row for row in rows if row.source != "scramble"]  # external harnesses name scores differently
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
        return f"{column.measured.benchmark} is used instead of {column.published.benchmark}"
    if column.deviation is not None:
        return column.deviation or not_as_published(row, {**entry, "protocol": row.protocol})
    return not_as_published(row, entry)


def _as_in_paper(column: PaperColumn) -> str:
    """Return whether a column's protocol is the paper's, if the table states it and measures the paper's benchmark."""
    measured, published = column.measured, column.published
    if column.deviation is None or not measured or not published or measured.benchmark != published.benchmark:
        return ""
    return f" (not the paper's: {column.deviation})" if column.deviation else " (the paper's)"


# ------------------------------------------------------------------------------------------------------------- writing


def as_markdown(table: PaperTable, title: str) -> str:
    """Two columns per score: ours ± standard error with the paired difference, and the published one with its gain."""
    columns = [Column("model")]
    for column in table.columns:
        measured = "measured" if column.measured else "not measured"
        columns.append(Column(f"{column.title}, {measured}", ours, "right"))
        if column.published is not None:
            columns.append(Column(f"published {column.published.benchmark}", published, "right"))
    rows = [
        [label]
        + [
            cell
            for column, cell in zip(table.columns, cells, strict=True)
            for _ in range(1 if column.published is None else 2)
        ]
        for label, cells in table.rows.items()
    ]
    return f"# {title}\n\n{Table(columns, rows, notes=table.notes).markdown()}"


def by_column(table: PaperTable, title: str) -> list[Table]:
    """Return one table per column, because the terminal is too narrow for all columns."""
    columns = [Column("model"), Column("measured", ours), Column("published", published)]
    return [
        Table(
            columns,
            [(label, cells[place], cells[place]) for label, cells in table.rows.items()],
            f"{title}: {column.title}",
        )
        for place, column in enumerate(table.columns)
    ]


def ours(cell: PaperCell) -> str:
    """Return a measured score as text: value, standard error, paired difference with interval and p-value."""
    if cell.ours is None:
        return "–"
    text = score_text(cell.ours, cell.standard_error, cell.n)
    return text if cell.test is None else f"{text} ({shown(cell.test)})"


def published(cell: PaperCell) -> str:
    """Return a published score as text with its gain over the compared row, and a mark if ours is not comparable with
    it.
    """
    if cell.published is None:
        return "–"
    gain = "" if cell.published_gain is None else f" ({cell.published_gain:+.1f})"
    return f"{cell.published:g}{gain}" + ("" if cell.comparable or cell.ours is None else f" {NOT_COMPARABLE}")
