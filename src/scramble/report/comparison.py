"""The table of a run: each method's scores and its paired differences to the baselines, pooled over seeds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scramble.evaluation import results, statistics
from scramble.evaluation.comparison import compare_seeds
from scramble.evaluation.summary import units

Folders = Mapping[str, Mapping[str, Sequence[Path]]]
"""Benchmark -> method -> result folders, one a seed."""


@dataclass(frozen=True)
class Row:
    """One method on one score of one benchmark: mean over its seeds, percent.

    ``differences`` holds for each baseline the paired test of :func:`scramble.evaluation.comparison.compare_seeds`, in
    points.
    """

    benchmark: str
    score: str
    method: str
    seeds: int
    value: float
    standard_error: float | None
    n: int
    chance: float | None
    protocol: str
    differences: Mapping[str, Mapping[str, Any]]


def find_methods(evaluation: str | Path) -> dict[str, dict[str, list[Path]]]:
    """The result folders below ``<run>/evaluation``: ``<method>-seed<n>`` are seeds of one method, ``base`` is one."""
    found: dict[str, dict[str, list[Path]]] = {}
    for folder in results.find(evaluation):
        method = re.sub(r"-seed\d+$", "", folder.parent.name)
        found.setdefault(results.read(folder).benchmark["name"], {}).setdefault(method, []).append(folder)
    return found


def compare(found: Folders, baselines: Sequence[str] = ("base", "sft")) -> list[Row]:
    """A row for each benchmark, score and method: base first, then the baselines, then the rest."""
    order = {name: place for place, name in enumerate(dict.fromkeys(("base", *baselines)))}
    rows = []
    for benchmark, methods in found.items():
        names = sorted(methods, key=lambda name: (order.get(name, len(order)), name))
        tables = {name: _rows(benchmark, name, methods, baselines) for name in names}
        scores = dict.fromkeys(score for table in tables.values() for score in table)
        rows += [tables[name][score] for score in scores for name in names if score in tables[name]]
    return rows


def _rows(
    benchmark: str, method: str, methods: Mapping[str, Sequence[Path]], baselines: Sequence[str]
) -> dict[str, Row]:
    folders = methods[method]
    tests = {
        name: compare_seeds(folders, methods[name] if len(methods[name]) == len(folders) else methods[name][:1])
        for name in baselines
        if name != method and name in methods
    }
    loaded = [results.read(folder) for folder in folders]
    seeds = [units(loaded[0].benchmark["scoring"], results.read_outcomes(folder)) for folder in folders]
    rows = {}
    for score, first in seeds[0].items():
        mean_N = np.mean([seed[score].values for seed in seeds], axis=0)
        error = statistics.standard_error(mean_N, first.clusters)
        rows[score] = Row(
            benchmark, score, method, len(folders), 100 * float(mean_N.mean()),
            100 * error if np.isfinite(error) else None, len(mean_N), loaded[0].scores.get(score, {}).get("chance"),
            loaded[0].protocol["name"], {name: test[score] for name, test in tests.items() if score in test},
        )  # fmt: skip
    return rows


def heads(baselines: Sequence[str]) -> list[str]:
    """Column titles of :func:`cells`."""
    return ["benchmark", "score", "method", "seeds", "n", "%", "chance", *(f"minus {b}" for b in baselines)]


def cells(row: Row, baselines: Sequence[str]) -> list[str]:
    """A row's cells as text: value with standard error, differences with interval and p-value."""
    error = "" if row.standard_error is None else f" ± {row.standard_error:.1f}"
    return [
        row.benchmark, row.score, row.method, str(row.seeds), str(row.n), f"{row.value:.1f}{error}",
        "" if row.chance is None else f"{row.chance:.1f}", *(_shown(row.differences.get(b)) for b in baselines),
    ]  # fmt: skip


def _shown(test: Mapping[str, Any] | None) -> str:
    if test is None:
        return ""
    p = "p < 0.001" if test["p_value"] < 0.001 else f"p = {test['p_value']:.3f}"
    return f"{test['difference']:+.1f} [{test['low']:+.1f}, {test['high']:+.1f}] {p}"


def markdown(rows: Sequence[Row], baselines: Sequence[str]) -> str:
    """The rows as a Markdown table."""
    head = heads(baselines)
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join(" --- " for _ in head) + "|"]
    lines += ["| " + " | ".join(cells(row, baselines)) + " |" for row in rows]
    return "\n".join(lines) + "\n"
