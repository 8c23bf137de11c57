"""The comparison table: runs beside published numbers, with differences to a baseline; Markdown, LaTeX and JSON.

A cell compares with a column's first run only if benchmark, data version, items and protocol agree; otherwise it is
marked "not comparable", with the reason in the notes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from scramble.evaluation import results
from scramble.evaluation.comparison import compare, not_comparable
from scramble.evaluation.items import EvaluationError
from scramble.evaluation.results import Result

MARK = "≁"
"""Marks a number that is not comparable with the runs of its column."""


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
    """A score in percent (or the unit of its source) with what is known of it; ``tests`` by baseline name."""

    value: float
    standard_error: float | None = None
    n: int | None = None
    protocol: str = ""
    comparable: bool = True
    reason: str = ""
    tests: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass
class Row:
    """One model: a run of ours, or a published one with its source."""

    name: str
    cells: dict[Column, Cell]
    source: str = ""


@dataclass
class Table:
    """Rows in order: runs, then published models."""

    columns: list[Column]
    rows: list[Row]
    notes: list[str]


def published() -> Mapping[str, Any]:
    """Published numbers with sources: ``sources`` by key, and ``scores``."""
    return json.loads(files("scramble.evaluation").joinpath("published.json").read_text(encoding="utf-8"))


def build(
    runs: Mapping[str, Sequence[str | Path]],
    columns: Sequence[Column] | None = None,
    *,
    baselines: Sequence[str] = (),
    with_published: bool = True,
) -> Table:
    """Table of runs.

    Args:
        runs: model name -> its result folders (one a benchmark).
        columns: which scores; None takes each benchmark's headline.
        baselines: names of runs that every other run is tested against on the same items.
        with_published: add the published models that have one of the columns' benchmarks.

    Raises:
        EvaluationError: an unknown baseline, no results.
    """
    if not runs or not any(runs.values()):
        raise EvaluationError("no results to put in a table; run scripts/evaluate.py first")
    if unknown := [name for name in baselines if name not in runs]:
        raise EvaluationError(f"no run named {unknown[0]!r} to compare with; there are {', '.join(runs)}")
    loaded = {name: [(Path(f), results.read(f)) for f in folders] for name, folders in runs.items()}
    first: dict[str, Result] = {}
    for found in loaded.values():
        for _, result in found:
            first.setdefault(result.benchmark["name"], result)
    columns = list(columns or [c for name, result in first.items() for c in headline(name, result)])
    notes: dict[str, None] = {}
    rows = [_run_row(name, loaded, columns, first, baselines, notes) for name in loaded]
    if with_published:
        rows += _published_rows(columns, first, notes)
    return Table(columns, rows, list(notes))


def headline(name: str, result: Result) -> list[Column]:
    """The scores a benchmark is quoted by."""
    for wanted in (
        ("text", "image", "group"),
        ("g_acc",),
        ("pair_accuracy",),
        ("f1_mean",),
        ("accuracy_macro",),
        ("f1",),
    ):
        if all(score in result.scores for score in wanted):
            return [Column(name, score) for score in wanted]
    return [Column(name, score) for score in result.scores if "/" not in score][:1]


def _run_row(
    name: str,
    loaded: Mapping[str, Sequence[tuple[Path, Result]]],
    columns: Sequence[Column],
    first: Mapping[str, Result],
    baselines: Sequence[str],
    notes: dict[str, None],
) -> Row:
    cells: dict[Column, Cell] = {}
    for folder, result in loaded[name]:
        benchmark = result.benchmark["name"]
        reason = not_comparable(first[benchmark], result)
        if reason:
            notes[f"{MARK} {name}, {benchmark}: {reason}"] = None
        tests = {}
        for baseline in baselines if not reason else ():
            other = [
                f for f, r in loaded[baseline] if r.benchmark["name"] == benchmark and not not_comparable(result, r)
            ]
            if baseline != name and other:
                tests[baseline] = compare(folder, other[0])
        for column in columns:
            if column.benchmark == benchmark and (score := result.scores.get(column.score)):
                own = {b: t[column.score] for b, t in tests.items() if column.score in t}
                cells[column] = Cell(
                    score["value"], score["standard_error"], score["n"], result.protocol["name"], reason is None,
                    reason or "", own,
                )  # fmt: skip
    return Row(name, cells)


def _published_rows(columns: Sequence[Column], first: Mapping[str, Result], notes: dict[str, None]) -> list[Row]:
    data = published()
    rows: dict[tuple[str, str], Row] = {}
    for entry in data["scores"]:
        column = Column(entry["benchmark"], entry["score"])
        if column not in columns:
            continue
        source = data["sources"][entry["source"]]
        ours = first[column.benchmark].protocol["name"] if column.benchmark in first else ""
        reason = "" if entry["protocol"] == ours else f"protocol {entry['protocol']!r}, ours is {ours!r}"
        note = entry.get("note", "") or ("" if source["status"] == "primary" else source["status"])
        row = rows.setdefault((entry["model"], entry["source"]), Row(entry["model"], {}, entry["source"]))
        row.cells[column] = Cell(entry["value"], None, None, entry["protocol"], not reason, reason)
        if reason:
            notes[
                f"{MARK} published numbers are measured as their sources say; not comparable with ours where marked"
            ] = None
        notes[f"[{entry['source']}] {source['title']} {source['url']}".strip()] = None
        if note:
            notes[f"[{entry['source']}] {column.title}: {note}"] = None
    return list(rows.values())


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
    """A Markdown table: value ± standard error, and the difference to each baseline with its p-value."""
    lines = [
        "| model | " + " | ".join(column.title for column in table.columns) + " |",
        "| --- |" + " ---: |" * len(table.columns),
    ]
    for row in table.rows:
        name = f"{row.name} [{row.source}]" if row.source else row.name
        lines.append(f"| {_plain(name)} | " + " | ".join(_text(row.cells.get(c)) for c in table.columns) + " |")
    return "\n".join([*lines, "", *(f"- {note}" for note in table.notes)]) + "\n"


def as_latex(table: Table) -> str:
    """A LaTeX tabular (booktabs) with the same cells."""
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
        name = f"{row.name} [{row.source}]" if row.source else row.name
        lines.append(f"{_latex(name)} & " + " & ".join(_latex(_text(row.cells.get(c))) for c in table.columns) + r" \\")
    notes = [f"% {note}" for note in table.notes]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", *notes]) + "\n"


def _text(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    text = f"{cell.value:.1f}"
    if cell.standard_error is not None:
        text += f" ± {cell.standard_error:.1f}"
    for baseline, test in cell.tests.items():
        text += f" ({test['difference']:+.1f} vs {baseline}, p = {_p(test['p_value'])})"
    return text if cell.comparable else f"{text} {MARK}"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "<0.001"


def _plain(text: str) -> str:
    return text.replace("|", "\\|")


_LATEX = {
    "&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "±": r"$\pm$", "–": "--", "<": "$<$", MARK: r"$^{\nsim}$",
}  # fmt: skip


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
