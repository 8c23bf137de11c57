"""The comparison table: a run's headline scores beside published numbers; Markdown, LaTeX and JSON.

A cell compares with the first method of its column only if data version, items and protocol agree; a published number
only if it was measured under the same named protocol, on all items, and graded by rule. Others carry a mark, and the
notes say why.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from scramble.evaluation.scoring import statistics
from scramble.reporting import comparison

MARK = "≁"
"""Marks a number that is not comparable with the runs of its column."""

HEADLINES = (("text", "image", "group"), ("g_acc",), ("pair_accuracy",), ("f1_mean",), ("accuracy_macro",), ("f1",))
"""The scores that a benchmark is quoted by: the first of these that it has, else its first score."""


@dataclass(frozen=True, slots=True)
class Column:
    """One score of one benchmark."""

    benchmark: str
    score: str

    @property
    def title(self) -> str:
        return f"{self.benchmark} {self.score}"


@dataclass
class Cell:
    """A score in percent (or the unit of its source) with what is known of it.

    ``tests`` holds by baseline the paired test, and by ``model [source]`` the unpaired one against a published number.
    """

    value: float
    standard_error: float | None = None
    n: int | None = None
    protocol: str = ""
    comparable: bool = True
    reason: str = ""
    tests: dict[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass
class Row:
    """One method of ours, or a published model with its source."""

    name: str
    cells: dict[Column, Cell]
    source: str = ""


@dataclass
class Table:
    """Rows in order: methods, then published models."""

    columns: list[Column]
    rows: list[Row]
    notes: list[str]


def published() -> Mapping[str, Any]:
    """Published numbers with sources: ``sources`` by key, and ``scores``."""
    return json.loads(files("scramble.evaluation").joinpath("published.json").read_text(encoding="utf-8"))


def build(
    measured: Sequence[comparison.Row], columns: Sequence[Column] | None = None, *, with_published: bool = True
) -> Table:
    """The table of measured rows (:func:`scramble.reporting.comparison.compare`).

    Args:
        columns: which scores; None takes each benchmark's headline.
        with_published: add the published models that have one of the columns' scores.
    """
    columns = list(columns or headlines(measured))
    rows: dict[str, Row] = {}
    notes: dict[str, None] = {}
    for found in measured:
        column = Column(found.benchmark, found.score)
        if column not in columns:
            continue
        rows.setdefault(found.method, Row(found.method, {})).cells[column] = Cell(
            found.value,
            found.standard_error,
            found.n,
            _protocol(found),
            not found.reason,
            found.reason,
            dict(found.differences),
        )
        notes[f"{found.benchmark}: protocol {_protocol(found)}"] = None
        if found.reason:
            notes[f"{MARK} {found.method}, {found.benchmark}: {found.reason}"] = None
    others = _published_rows(columns, measured, rows, notes) if with_published else []
    return Table(columns, [*rows.values(), *others], list(notes))


def headlines(measured: Sequence[comparison.Row]) -> list[Column]:
    """The scores that each benchmark is quoted by."""
    scores: dict[str, dict[str, None]] = {}
    for row in measured:
        scores.setdefault(row.benchmark, {})[row.score] = None
    columns = []
    for benchmark, found in scores.items():
        plain = [score for score in found if "/" not in score] or list(found)
        wanted = next((h for h in HEADLINES if all(score in found for score in h)), tuple(plain[:1]))
        columns += [Column(benchmark, score) for score in wanted]
    return columns


def _protocol(row: comparison.Row) -> str:
    parts = [row.protocol, row.grading, f"first {row.limit} items" if row.limit else ""]
    return ", ".join(part for part in parts if part)


def _published_rows(
    columns: Sequence[Column], measured: Sequence[comparison.Row], ours: Mapping[str, Row], notes: dict[str, None]
) -> list[Row]:
    """Published models; the cells of ours get a test against each number that compares with them."""
    data = published()
    first = {Column(row.benchmark, row.score): row for row in reversed(measured)}
    places = {_place(column, first[column]): column for column in columns}
    rows: dict[tuple[str, str], Row] = {}
    for entry in data["scores"]:
        column = places.get((entry["benchmark"], entry["score"])) or places.get((entry["benchmark"], ""))
        if column is None:
            continue
        source = data["sources"][entry["source"]]
        reason = not_as_published(first[column], entry)
        row = rows.setdefault((entry["model"], entry["source"]), Row(entry["model"], {}, entry["source"]))
        row.cells[column] = Cell(entry["value"], None, None, entry["protocol"], not reason, reason)
        notes[f"[{entry['source']}] {source['title']} {source['url']}".strip()] = None
        note = entry.get("note", "") or ("" if source["status"] == "primary" else source["status"])
        if note:
            notes[f"[{entry['source']}] {column.title}: {note}"] = None
        if reason:
            notes[
                f"{MARK} published numbers were measured as their sources say; not comparable with ours: "
                f"{column.benchmark}, {reason}"
            ] = None
            continue
        for mine in ours.values():
            if (cell := mine.cells.get(column)) and cell.comparable and cell.standard_error:
                cell.tests[f"{entry['model']} [{entry['source']}]"] = _against(cell, entry["value"])
    return list(rows.values())


def _place(column: Column, row: comparison.Row) -> tuple[str, str]:
    """Benchmark and score as published numbers name them. Kits name scores in their own way, so theirs is left open."""
    if row.source == "scramble":
        return column.benchmark, column.score
    return column.benchmark.removesuffix(f" ({row.source})"), ""


def not_as_published(row: comparison.Row, entry: Mapping[str, Any]) -> str:
    """Why a measured row does not compare with a published entry, or "" if it does."""
    if row.limit is not None:
        return f"ours are the first {row.limit} items only"
    if row.grading:
        return f"graded otherwise (ours: {row.grading})"
    if entry["protocol"] != row.protocol:
        return f"protocol {entry['protocol']!r}, ours is {row.protocol!r}"
    return ""


def _against(cell: Cell, value: float) -> dict[str, Any]:
    """Ours minus a published number. Its standard error is not published; on the same items it is taken to be ours."""
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


def as_json(table: Table) -> dict[str, Any]:
    """The whole table as plain JSON."""
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


def as_markdown(table: Table) -> str:
    """Markdown: value ± standard error and the notes, then a table of the differences with interval and p-value."""
    lines = [
        "| model | " + " | ".join(column.title for column in table.columns) + " |",
        "| --- |" + " ---: |" * len(table.columns),
    ]
    for row in table.rows:
        texts = [_plain(_name(row)), *(_text(row.cells.get(column)) for column in table.columns)]
        lines.append(f"| {' | '.join(texts)} |")
    lines += ["", *(f"- {note}" for note in table.notes)]
    tests = [
        f"| {_plain(row.name)} | {_plain(other)} | {column.title} | {comparison.shown(test)} | {test['test']} |"
        for row in table.rows
        for column, cell in row.cells.items()
        for other, test in cell.tests.items()
    ]
    if tests:
        heads = ["| model | minus | score | points, 95 % interval | test |", "| --- | --- | --- | --- | --- |"]
        lines += ["", *heads, *tests]
    return "\n".join(lines) + "\n"


def as_latex(table: Table) -> str:
    """A LaTeX tabular (booktabs): value ± standard error, and the difference to each baseline with its p-value."""
    lines = [
        r"\begin{tabular}{l" + "r" * len(table.columns) + "}",
        r"\toprule",
        "model & " + " & ".join(_latex(column.title) for column in table.columns) + r" \\",
        r"\midrule",
    ]
    published_yet = False
    for row in table.rows:
        if row.source and not published_yet:
            lines.append(r"\midrule")
            published_yet = True
        texts = (_latex(_text(row.cells.get(c), tests=True)) for c in table.columns)
        lines.append(f"{_latex(_name(row))} & " + " & ".join(texts) + r" \\")
    notes = [f"% {note}" for note in table.notes]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", *notes]) + "\n"


def _name(row: Row) -> str:
    return f"{row.name} [{row.source}]" if row.source else row.name


def _text(cell: Cell | None, tests: bool = False) -> str:
    if cell is None:
        return "–"
    text = f"{cell.value:.1f}"
    if cell.standard_error is not None:
        text += f" ± {cell.standard_error:.1f}"
    for other, test in cell.tests.items() if tests else ():
        if "[" not in other:  # against a baseline; published numbers have rows of their own
            p = "" if test["p_value"] is None else f", p {_p(test['p_value'])}"
            text += f" ({test['difference']:+.1f} vs {other}{p})"
    return text if cell.comparable else f"{text} {MARK}"


def _p(value: float) -> str:
    return f"= {value:.3f}" if value >= 0.001 else "< 0.001"


def _plain(text: str) -> str:
    return text.replace("|", "\\|")


_LATEX = {
    "&": r"\&",
    "%": r"\%",
    "_": r"\_",
    "#": r"\#",
    "±": r"$\pm$",
    "–": "--",
    "<": "$<$",
    MARK: r"$^{\nsim}$",
}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
