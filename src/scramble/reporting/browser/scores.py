"""Prepares the scores for the template of the results browser: the headline of each run, and the tables of each
benchmark.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from scramble.console import counted
from scramble.evaluation.scoring.statistics import is_few
from scramble.reporting import comparison, headline
from scramble.reporting.arms import arm_notes, split_run
from scramble.reporting.browser.sources import Sources
from scramble.reporting.comparison import ScoreRow
from scramble.reporting.headline import Headline


def headlines(rows: Sequence[ScoreRow], sources: Sources, baselines: Sequence[str]) -> dict[str, Headline]:
    """Return the headline of each run by the name of the run. The name is "" if there is only one run."""
    by_run: dict[str, list[ScoreRow]] = {}
    for row in rows:
        run, method = split_run(row.method)
        by_run.setdefault(run, []).append(dataclasses.replace(row, method=method))
    result = {}
    for run, run_rows in by_run.items():
        folder = sources.data.get(run) if run else next(iter(sources.data.values()), None)
        results_of_run = [
            path
            for methods in sources.folders.values()
            for method, paths in methods.items()
            if split_run(method)[0] == run
            for path in paths
        ]
        result[run] = headline.build(run_rows, baselines, headline.trained_kinds(folder), arm_notes(results_of_run))
    return result


def tables(rows: Sequence[ScoreRow], baselines: Sequence[str], lead: Headline | None) -> list[dict[str, Any]]:
    """Return, for each benchmark, its overall scores (with the headline's score first) and its scores by kind."""
    groups = groupby(rows, key=lambda row: row.benchmark)
    return [_table(name, list(group), baselines, lead) for name, group in groups]


def _table(benchmark: str, rows: Sequence[ScoreRow], baselines: Sequence[str], lead: Headline | None) -> dict[str, Any]:
    leading = lead.score if lead is not None and lead.benchmark == benchmark else ""
    whole = [row for row in rows if row.score == leading]
    whole += [row for row in rows if "/" not in row.score and row.score != leading]
    return {
        "benchmark": benchmark,
        "protocol": ", ".join(sorted({row.protocol for row in rows})),
        "size": counted(max((row.n or 0 for row in rows), default=0), "items"),
        "scores": _by_score(whole, baselines),
        "parts": _by_score([row for row in rows if "/" in row.score and row.score != leading], baselines),
        "reasons": sorted({f"{row.method}: {row.reason}" for row in rows if row.reason}),
        "notes": comparison.part_notes(rows),
    }


def _by_score(rows: Sequence[ScoreRow], baselines: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"score": score, "rows": [_row(row, baselines) for row in group]}
        for score, group in groupby(rows, key=lambda row: row.score)
    ]


def _row(row: ScoreRow, baselines: Sequence[str]) -> dict[str, Any]:
    error = row.standard_error
    margin = None if error is None or is_few(row.n) else 1.96 * error
    interval = (0.0, 0.0) if margin is None else (max(0.0, row.value - margin), min(100.0, row.value + margin))
    return {
        "method": row.method,
        "seeds": row.seeds,
        "value": f"{row.value:.1f}",
        "error": comparison.uncertainty(error, row.n),
        "place": round(min(max(row.value, 0), 100), 2),
        "low": round(interval[0], 2),
        "width": round(interval[1] - interval[0], 2),
        "chance": row.chance,
        "differences": {name: _difference(row.differences.get(name), row.score) for name in baselines},
        "comparable": not row.reason,
    }


def _difference(test: Mapping[str, Any] | None, score: str) -> dict[str, str] | None:
    if test is None:
        return None
    return {"text": comparison.shown(test), "sign": comparison.sign(test, score)}
