"""Builds a table that shows our measured scores next to the scores of a paper's table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scramble.reporting.comparison import ScoreRow, score_text, shown
from scramble.reporting.published import not_as_published, published_numbers
from scramble.reporting.table import NOT_COMPARABLE, Column, Table

HARNESSES = ("lmms-eval", "vlmevalkit")


@dataclass(frozen=True)
class ScoreSource:
    """A score of a benchmark: a measured score from the results in ``folder``, or a published score with the protocol
    ``protocol``. If ``protocol`` is None, the published score can have any protocol.
    """

    benchmark: str
    score: str
    folder: str = "evaluation"
    protocol: str | None = None


@dataclass(frozen=True)
class PaperColumn:
    """A column of the table.

    Attributes:
        measured: our score; None if the benchmark is not run at the selected size (``tiny`` or ``full``).
        published: the paper's score; None if there is no published score.
        deviation: how our protocol differs from the paper's protocol. The value "" means that the protocols do not
            differ. With None, the names of the two protocols are compared.
    """

    measured: ScoreSource | None
    published: ScoreSource | None
    deviation: str | None = None

    @property
    def title(self) -> str:
        place = self.published or self.measured
        assert place is not None
        extra = place.protocol or ("" if place.folder == "evaluation" else place.folder.removeprefix("evaluation-"))
        return f"{place.benchmark} {place.score}" + (f" ({extra})" if extra else "")


@dataclass
class PaperCell:
    """The numbers of one row and column, in percent or in the published unit. ``test`` compares ``ours`` with the
    baseline.
    """

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
    """A table with notes. ``rows`` maps each row label to one cell per column."""

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
        columns: columns of the table, each with a measured or a published score.
        methods: two labels for each measured method. The first label is the name of the method's row and of the
            published model. The published gain is relative to the published model that the second label names. If the
            labels are equal, the row has no differences.
        measured: for each evaluation folder, the rows of measured scores, whose ``method`` is a key of ``methods`` and
            whose ``differences`` include ``baseline``.
        baseline: name of the baseline in :attr:`ScoreRow.differences`.
    """
    table = PaperTable(list(columns))
    notes: dict[str, None] = {}
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
    cell = PaperCell()
    if row is not None:
        cell.ours, cell.standard_error, cell.n, cell.protocol = row.value, row.standard_error, row.n, row.protocol
        cell.test = None if compared == label else row.differences.get(baseline)
        notes[f"{column.title}: measured with protocol {row.protocol}{_as_in_paper(column)}, n = {row.n}"] = None
    if entry is not None and column.published is not None:
        cell.published = entry["value"]
        if compared != label and (other := _entry(column.published, compared)):
            cell.published_gain = entry["value"] - other["value"]
        source = published_numbers()["sources"][entry["source"]]
        notes[f"published: {source['title']} {source['url']}".strip()] = None
        if entry.get("note"):
            notes[f"published {entry['benchmark']}: {entry['note']}"] = None
    if row is not None and entry is not None:
        reason = _why_not(column, row, entry)
        cell.comparable = not reason
        if reason:
            notes[
                f"{NOT_COMPARABLE} {column.title}: our score is not comparable with the paper's score, because {reason}"
            ] = None
    return cell


def _row(place: ScoreSource, key: str, measured: Mapping[str, Sequence[ScoreRow]]) -> ScoreRow | None:
    names = (place.benchmark, *(f"{place.benchmark} ({harness})" for harness in HARNESSES))
    rows = [row for row in measured.get(place.folder, ()) if row.method == key and row.benchmark in names]
    exact = [row for row in rows if row.score == place.score]
    others = [row for row in rows if row.source != "scramble"]  # external harnesses name scores differently
    return next(iter(exact or others), None)


def _entry(place: ScoreSource, label: str) -> Mapping[str, Any] | None:
    for entry in published_numbers()["scores"]:
        if (entry["model"], entry["benchmark"], entry["score"]) != (label, place.benchmark, place.score):
            continue
        if place.protocol in (None, entry["protocol"]):
            return entry
    return None


def _why_not(column: PaperColumn, row: ScoreRow, entry: Mapping[str, Any]) -> str:
    assert column.measured is not None and column.published is not None
    if column.measured.benchmark != column.published.benchmark:
        return f"{column.measured.benchmark} was measured instead of {column.published.benchmark}"
    if column.deviation is not None:
        if column.deviation:
            return f"our protocol differs from the paper's protocol: {column.deviation}"
        return not_as_published(row, {**entry, "protocol": row.protocol})
    return not_as_published(row, entry)


def _as_in_paper(column: PaperColumn) -> str:
    """Return a remark on whether the measured protocol of a column agrees with the paper's protocol. Return "" if the
    column does not state whether they agree, or if the measured benchmark is not the paper's benchmark.
    """
    measured, published = column.measured, column.published
    if column.deviation is None or not measured or not published or measured.benchmark != published.benchmark:
        return ""
    return f" (unlike the paper: {column.deviation})" if column.deviation else " (as in the paper)"


# ------------------------------------------------------------------------------------------------------------- writing


def as_markdown(table: PaperTable, title: str) -> str:
    """Return the table as Markdown.

    Each score has a column with our value, its standard error and the paired difference. If the paper reports the
    score, a second column contains the published value with its gain.
    """
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
    """Return a measured score as text, with its standard error and the paired difference, interval and p-value."""
    if cell.ours is None:
        return "–"
    text = score_text(cell.ours, cell.standard_error, cell.n)
    return text if cell.test is None else f"{text} ({shown(cell.test)})"


def published(cell: PaperCell) -> str:
    """Return a published score as text, with its gain over the model with which it is compared. A score that is not
    comparable with ours is marked.
    """
    if cell.published is None:
        return "–"
    gain = "" if cell.published_gain is None else f" ({cell.published_gain:+.1f})"
    return f"{cell.published:g}{gain}" + ("" if cell.comparable or cell.ours is None else f" {NOT_COMPARABLE}")
