"""The rows of a run's tables: each method's scores and its differences to the baselines, paired by item and seed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scramble.evaluation import results, statistics
from scramble.evaluation.comparison import compare_seeds, not_comparable
from scramble.evaluation.items import EvaluationError
from scramble.evaluation.results import Result
from scramble.evaluation.summary import units

Folders = Mapping[str, Mapping[str, Sequence[Path]]]
"""Benchmark -> method -> result folders, one a seed."""


@dataclass(frozen=True)
class Row:
    """One method on one score of one benchmark: mean over its seeds, percent.

    ``differences`` holds for each baseline the paired test of :func:`scramble.evaluation.comparison.compare_seeds`, in
    points. ``reason`` says why the row does not compare with the benchmark's first method, if it does not; such a row
    has differences only to baselines that were measured the same way.
    """

    benchmark: str
    score: str
    method: str
    seeds: int
    value: float
    standard_error: float | None
    n: int | None
    chance: float | None
    protocol: str
    differences: Mapping[str, Mapping[str, Any]]
    reason: str = ""
    grading: str = ""
    limit: int | None = None
    source: str = "scramble"


def find_methods(evaluation: str | Path) -> dict[str, dict[str, list[Path]]]:
    """The result folders below ``<run>/evaluation``: ``<method>-seed<n>`` are seeds of one method, ``base`` is one."""
    return by_method(results.find(evaluation))


def by_method(folders: Sequence[Path]) -> dict[str, dict[str, list[Path]]]:
    """Result folders ``<arm>/<benchmark>`` by benchmark and method. A benchmark that another kit ran is one of its own
    (``mmbench (lmms-eval)``): its numbers are never subtracted from ours."""
    found: dict[str, dict[str, list[Path]]] = {}
    for folder in folders:
        method = re.sub(r"-seed\d+$", "", folder.parent.name)
        result = results.read(folder)
        kit = "" if result.source == "scramble" else f" ({result.source})"
        found.setdefault(result.benchmark["name"] + kit, {}).setdefault(method, []).append(folder)
    return found


def compare(found: Folders, baselines: Sequence[str] = ("base", "sft")) -> list[Row]:
    """A row for each benchmark, score and method: base first, then the baselines, then the rest."""
    order = {name: place for place, name in enumerate(dict.fromkeys(("base", *baselines)))}
    rows = []
    for benchmark, methods in found.items():
        names = sorted(methods, key=lambda name: (order.get(name, len(order)), name))
        first = results.read(methods[names[0]][0])
        tables = {name: _rows(benchmark, name, methods, baselines, first) for name in names}
        scores = dict.fromkeys(score for table in tables.values() for score in table)
        rows += [tables[name][score] for score in scores for name in names if score in tables[name]]
    return rows


def _rows(
    benchmark: str, method: str, methods: Mapping[str, Sequence[Path]], baselines: Sequence[str], first: Result
) -> dict[str, Row]:
    folders = methods[method]
    seeds = [results.read(folder) for folder in folders]
    for folder, seed in zip(folders, seeds, strict=True):
        if reason := not_comparable(seeds[0], seed):
            raise EvaluationError(
                f"{folder} and {folders[0]} are seeds of one method, but {reason}: score them the same way"
            )
    outcomes = [results.read_outcomes(folder) for folder in folders]
    tests = _tests(method, methods, baselines, seeds[0]) if all(outcomes) else {}
    means = [units(seeds[0].benchmark["scoring"], found) for found in outcomes] if all(outcomes) else []
    protocol = seeds[0].protocol
    rows = {}
    for score, given in seeds[0].scores.items():
        values = [seed.scores[score]["value"] for seed in seeds]
        error = given["standard_error"]
        if len(seeds) > 1 and score in means[0]:  # of each item's mean over the seeds
            mean_N = np.mean([seed[score].values for seed in means], axis=0)
            spread = statistics.standard_error(mean_N, means[0][score].clusters)
            error = 100 * spread if np.isfinite(spread) else None
        rows[score] = Row(
            benchmark, score, method, len(folders), float(np.mean(values)), error, given["n"], given.get("chance"),
            protocol["name"], {name: test[score] for name, test in tests.items() if score in test},
            not_comparable(first, seeds[0]) or "", protocol.get("grading", ""), seeds[0].benchmark["limit"],
            seeds[0].source,
        )  # fmt: skip
    return rows


def _tests(
    method: str, methods: Mapping[str, Sequence[Path]], baselines: Sequence[str], result: Result
) -> dict[str, dict[str, dict[str, Any]]]:
    """Baseline -> score -> paired test, for the baselines measured on the same items in the same way."""
    tests = {}
    for name in baselines:
        others = methods.get(name, ())
        if name == method or not others or any(not_comparable(result, results.read(other)) for other in others):
            continue
        tests[name] = compare_seeds(methods[method], others if len(others) == len(methods[method]) else others[:1])
    return tests


def heads(baselines: Sequence[str]) -> list[str]:
    """Column titles of :func:`cells`."""
    return ["benchmark", "score", "method", "seeds", "n", "%", "chance", *(f"minus {b}" for b in baselines)]


def cells(row: Row, baselines: Sequence[str]) -> list[str]:
    """A row's cells as text: value with standard error, differences with interval and p-value."""
    error = "" if row.standard_error is None else f" ± {row.standard_error:.1f}"
    return [
        row.benchmark, row.score, row.method, str(row.seeds), str(row.n or ""), f"{row.value:.1f}{error}",
        "" if row.chance is None else f"{row.chance:.1f}", *(shown(row.differences.get(b)) for b in baselines),
    ]  # fmt: skip


def shown(test: Mapping[str, Any] | None) -> str:
    """A difference in points with its interval and p-value."""
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
