"""Builds the main table of a run, which shows the run's main scores next to published numbers.

A measured score is comparable with the score of the first method in its column only if both were measured with the
same data version, items and protocol. A published number is comparable with ours only if both were measured with the
same named protocol, and ours was measured on all items and graded by rules. Numbers that are not comparable are marked,
and the notes state the reason.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from scramble.console import counted
from scramble.evaluation.scoring import statistics
from scramble.reporting.comparison import ScoreRow, p_value, score_text, shown
from scramble.reporting.table import NOT_COMPARABLE, Column, Table

HEADLINES = (
    ("text", "image", "group_match", "group"),
    ("text", "image", "group"),
    ("g_acc",),
    ("pair_accuracy", "set_accuracy", "accuracy"),
    ("pair_accuracy",),
    ("overall",),
    ("circular_accuracy",),
    ("f1_mean",),
    ("chair", "hal", "f1", "amber_score"),
    ("chair", "cover", "cog", "hal"),
    ("accuracy_macro",),
    ("f1",),
    ("q_acc", "f_acc", "a_acc"),
    ("mention_rate", "response_rate"),
    ("chair_i", "chair_s"),
    ("hallucination_rate", "score"),
)
"""Groups of main scores. The main scores of a benchmark are the first group that consists only of scores of the
benchmark, or the first score of the benchmark if there is no such group. The headline shows the last score of the
group.
"""


@dataclass(frozen=True, slots=True)
class ScoreColumn:
    """One score of one benchmark."""

    benchmark: str
    score: str

    @property
    def title(self) -> str:
        return f"{self.benchmark} {self.score}"


@dataclass
class ScoreCell:
    """A score in percent (or in the unit of its source) with its uncertainty and tests.

    The keys of ``tests`` are the names of baselines (paired tests) and ``model [source]`` (unpaired tests against
    published numbers).
    """

    value: float
    standard_error: float | None = None
    n: int | None = None
    protocol: str = ""
    comparable: bool = True
    reason: str = ""
    tests: dict[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass
class ModelRow:
    """A measured method, or a published model with its source."""

    name: str
    cells: dict[ScoreColumn, ScoreCell]
    source: str = ""


@dataclass
class ScoreTable:
    """A table that lists our methods first, followed by published models."""

    columns: list[ScoreColumn]
    rows: list[ModelRow]
    notes: list[str]


@cache
def published_numbers() -> Mapping[str, Any]:
    """Return the published numbers: the list ``scores``, and the mapping ``sources`` from keys to papers."""
    return json.loads(files("scramble.evaluation").joinpath("published.json").read_text(encoding="utf-8"))


def build(measured: Sequence[ScoreRow]) -> ScoreTable:
    """Build the table of the main scores of all benchmarks, with the published models that have one of these scores.

    Args:
        measured: rows of :func:`scramble.reporting.comparison.compare`.
    """
    columns = headlines(measured)
    rows: dict[str, ModelRow] = {}
    notes: dict[str, None] = {}
    for row in measured:
        column = ScoreColumn(row.benchmark, row.score)
        if column not in columns:
            continue
        rows.setdefault(row.method, ModelRow(row.method, {})).cells[column] = ScoreCell(
            row.value,
            row.standard_error,
            row.n,
            _protocol(row),
            not row.reason,
            row.reason,
            dict(row.differences),
        )
        notes[f"{row.benchmark}: protocol {_protocol(row)}"] = None
        if row.reason:
            notes[f"{NOT_COMPARABLE} {row.method}, {row.benchmark}: {row.reason}"] = None
    others = _published_rows(columns, measured, rows, notes)
    return ScoreTable(columns, [*rows.values(), *others], list(notes))


def headlines(measured: Sequence[ScoreRow]) -> list[ScoreColumn]:
    """Return the main scores of each benchmark."""
    scores: dict[str, dict[str, None]] = {}
    for row in measured:
        scores.setdefault(row.benchmark, {})[row.score] = None
    columns = []
    for benchmark, names in scores.items():
        overall = [score for score in names if "/" not in score] or list(names)
        main = next((h for h in HEADLINES if all(score in names for score in h)), tuple(overall[:1]))
        columns += [ScoreColumn(benchmark, score) for score in main]
    return columns


def _protocol(row: ScoreRow) -> str:
    parts = [row.protocol, row.grading, f"first {row.limit} items" if row.limit else ""]
    return ", ".join(part for part in parts if part)


def _published_rows(
    columns: Sequence[ScoreColumn],
    measured: Sequence[ScoreRow],
    ours: Mapping[str, ModelRow],
    notes: dict[str, None],
) -> list[ModelRow]:
    """Return the rows of published models, and add tests against comparable published numbers to the cells of our
    methods.
    """
    data = published_numbers()
    first = {ScoreColumn(row.benchmark, row.score): row for row in reversed(measured)}
    places = {_place(column, first[column]): column for column in columns}
    rows: dict[tuple[str, str], ModelRow] = {}
    for entry in data["scores"]:
        column = places.get((entry["benchmark"], entry["score"])) or places.get((entry["benchmark"], ""))
        if column is None:
            continue
        source = data["sources"][entry["source"]]
        reason = not_as_published(first[column], entry)
        row = rows.setdefault((entry["model"], entry["source"]), ModelRow(entry["model"], {}, entry["source"]))
        if (cell := row.cells.get(column)) is not None and (cell.comparable or reason):
            continue  # if a source uses several protocols, prefer our protocol, and otherwise the first
        row.cells[column] = ScoreCell(entry["value"], None, None, entry["protocol"], not reason, reason)
        notes[f"[{entry['source']}] {source['title']} {source['url']}".strip()] = None
        note = entry.get("note", "") or ("" if source["status"] == "primary" else source["status"])
        if note:
            notes[f"[{entry['source']}] {column.title}: {note}"] = None
        if reason:
            notes[
                f"{NOT_COMPARABLE} {column.benchmark}: published numbers are not comparable with ours, because {reason}"
            ] = None
            continue
        for own_row in ours.values():
            if (cell := own_row.cells.get(column)) and cell.comparable and cell.standard_error:
                cell.tests[f"{entry['model']} [{entry['source']}]"] = _against(cell, entry["value"])
    return list(rows.values())


def _place(column: ScoreColumn, row: ScoreRow) -> tuple[str, str]:
    """Return the names of the benchmark and the score in the published numbers. For an external harness, which names
    scores differently, the name of the score is "" (any score).
    """
    if row.source == "scramble":
        return column.benchmark, column.score
    return column.benchmark.removesuffix(f" ({row.source})"), ""


def not_as_published(row: ScoreRow, entry: Mapping[str, Any]) -> str:
    """Return why a measured row is not comparable with a published number, or "" if it is comparable."""
    if row.limit is not None:
        return f"our score was measured only on the first {counted(row.limit, 'items')}"
    if row.grading:
        return f"our answers were graded differently ({row.grading})"
    if entry["protocol"] != row.protocol:
        return f"the published protocol is {entry['protocol']!r} and ours is {row.protocol!r}"
    return ""


def _against(cell: ScoreCell, value: float) -> dict[str, Any]:
    """Return a test of the difference between our score and a published number.

    The published number is assumed to have the same standard error as our score.
    """
    assert cell.standard_error is not None
    error = 2**0.5 * cell.standard_error
    difference = cell.value - value
    return {
        "difference": difference,
        "standard_error": error,
        "low": difference - 1.96 * error,
        "high": difference + 1.96 * error,
        "p_value": statistics.unpaired(difference, error),
        "test": "unpaired z",
    }


# ------------------------------------------------------------------------------------------------------------- writing


def as_json(table: ScoreTable) -> dict[str, Any]:
    """Return the table as a dictionary that can be written as JSON."""
    return {
        "columns": [dataclasses.asdict(column) for column in table.columns],
        "rows": [
            {
                "name": row.name,
                "source": row.source,
                "cells": {column.title: dataclasses.asdict(cell) for column, cell in row.cells.items()},
            }
            for row in table.rows
        ],
        "notes": table.notes,
    }


def as_markdown(scores: ScoreTable) -> str:
    """Return a table of scores with standard errors, and a table of differences with intervals and p-values."""
    tests = [
        (row.name, other, column.title, test, test["test"])
        for row in scores.rows
        for column, cell in row.cells.items()
        for other, test in cell.tests.items()
    ]
    titles = ("model", "minus", "score")
    columns = [*map(Column, titles), Column("points, 95 % interval", shown), Column("test")]
    return _table(scores, _text).markdown() + (f"\n{Table(columns, tests).markdown()}" if tests else "")


def as_latex(scores: ScoreTable) -> str:
    """Return a LaTeX tabular of scores with standard errors, and of differences from the baselines with p-values."""
    return _table(scores, _text_with_tests).latex()


def _table(scores: ScoreTable, text: Callable[[ScoreCell | None], str]) -> Table:
    """Return a table with our methods above a rule and the published models below it."""
    return Table(
        [Column("model", _name), *(Column(column.title, text, "right") for column in scores.columns)],
        [[row, *(row.cells.get(column) for column in scores.columns)] for row in scores.rows],
        notes=scores.notes,
        sections=[number for number, row in enumerate(scores.rows) if row.source][:1],
    )


def _name(row: ModelRow) -> str:
    return f"{row.name} [{row.source}]" if row.source else row.name


def _text(cell: ScoreCell | None, tests: str = "") -> str:
    if cell is None:
        return "–"
    return (
        score_text(cell.value, cell.standard_error, cell.n) + tests + ("" if cell.comparable else f" {NOT_COMPARABLE}")
    )


def _text_with_tests(cell: ScoreCell | None) -> str:
    """Return a score with the tests against baselines. Tests against published numbers, whose names contain brackets,
    are omitted.
    """
    tests = ""
    for other, test in cell.tests.items() if cell is not None else ():
        if "[" not in other:
            parts = [f"{test['difference']:+.1f} vs {other}", p_value(test)]
            tests += f" ({', '.join(filter(None, parts))})"
    return _text(cell, tests)
