"""The table of a run: each method's scores and its paired differences to the baselines, pooled over seeds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scramble.evaluation import results, statistics
from scramble.evaluation.summary import units


@dataclass(frozen=True)
class Arm:
    """One evaluated model: ``method`` is its name without the seed; outcomes are 0..1 by score and unit id."""

    name: str
    method: str
    benchmark: str
    scores: Mapping[str, Mapping[str, Any]]
    outcomes: Mapping[str, Mapping[str, float]]
    protocol: str


@dataclass(frozen=True)
class Difference:
    """Method minus baseline on the same items, in points, with its 95 % interval and p-value."""

    baseline: str
    value: float
    low: float
    high: float
    p_value: float
    test: str


@dataclass(frozen=True)
class Row:
    """One method on one score of one benchmark: mean over its seeds, percent."""

    benchmark: str
    score: str
    method: str
    seeds: int
    value: float
    standard_error: float | None
    n: int
    chance: float | None
    differences: tuple[Difference, ...] = ()


def read_arms(evaluation: str | Path) -> list[Arm]:
    """Every evaluated model below ``<run>/evaluation``, one entry a benchmark."""
    arms = []
    for folder in results.find(evaluation):
        result = results.read(folder)
        name = folder.parent.name
        found = units(result.benchmark["scoring"], results.read_outcomes(folder))
        outcomes = {score: dict(zip(u.ids, u.values, strict=True)) for score, u in found.items()}
        method = re.sub(r"-seed\d+$", "", name)
        arms.append(Arm(name, method, result.benchmark["name"], result.scores, outcomes, result.protocol["name"]))
    return arms


def compare(arms: Sequence[Arm], baselines: Sequence[str] = ("base", "sft")) -> list[Row]:
    """A row for each benchmark, score and method, in the order base, baselines, the rest."""
    order = {name: place for place, name in enumerate(dict.fromkeys(("base", *baselines)))}
    methods = sorted({arm.method for arm in arms}, key=lambda name: (order.get(name, len(order)), name))
    rows = []
    for benchmark in dict.fromkeys(arm.benchmark for arm in arms):
        for score in dict.fromkeys(s for arm in arms if arm.benchmark == benchmark for s in arm.outcomes):
            grids = {m: _grid(arms, benchmark, m, score) for m in methods}
            for method, grid_SN in grids.items():
                if grid_SN is None:
                    continue
                differences = tuple(
                    _difference(grid_SN, grids[b], b) for b in baselines if b != method and grids.get(b) is not None
                )
                shown = next(a.scores.get(score, {}) for a in arms if (a.benchmark, a.method) == (benchmark, method))
                error = _error(grid_SN)
                rows.append(
                    Row(benchmark, score, method, len(grid_SN), 100 * float(grid_SN.mean()), error, grid_SN.shape[1],
                        shown.get("chance"), differences)
                )  # fmt: skip
    return rows


def _grid(arms: Iterable[Arm], benchmark: str, method: str, score: str) -> np.ndarray | None:
    """Outcomes (S, N) of a method's seeds on the items, None if it has none."""
    found = [a.outcomes[score] for a in arms if (a.benchmark, a.method) == (benchmark, method) and score in a.outcomes]
    if not found:
        return None
    ids = list(found[0])
    return np.array([[seed[i] for i in ids] for seed in found if seed.keys() == found[0].keys()])


def _difference(run_SN: np.ndarray, baseline_SN: np.ndarray | None, name: str) -> Difference:
    assert baseline_SN is not None
    if baseline_SN.shape[0] not in (1, run_SN.shape[0]):  # not paired by seed: the baseline's mean stands for it
        baseline_SN = baseline_SN.mean(axis=0, keepdims=True)
    test = statistics.pooled_over_seeds(run_SN, baseline_SN)
    return Difference(name, 100 * test.difference, 100 * test.low, 100 * test.high, test.p_value, test.test)


def _error(grid_SN: np.ndarray) -> float | None:
    """Standard error of the mean over items, in points (seeds averaged first)."""
    return 100 * statistics.standard_error(grid_SN.mean(axis=0)) if grid_SN.shape[1] > 1 else None


def markdown(rows: Sequence[Row], baselines: Sequence[str]) -> str:
    """The rows as a Markdown table."""
    head = ["benchmark", "score", "method", "seeds", "n", "%", "chance", *(f"minus {b}" for b in baselines)]
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join(" --- " for _ in head) + "|"]
    lines += ["| " + " | ".join(cells(row, baselines)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def cells(row: Row, baselines: Sequence[str]) -> list[str]:
    """A row's cells as text: value with standard error, differences with interval and p-value."""
    by_name = {d.baseline: d for d in row.differences}
    error = "" if row.standard_error is None else f" ± {row.standard_error:.1f}"
    return [
        row.benchmark, row.score, row.method, str(row.seeds), str(row.n), f"{row.value:.1f}{error}",
        "" if row.chance is None else f"{row.chance:.1f}",
        *(_shown(by_name[b]) if b in by_name else "" for b in baselines),
    ]  # fmt: skip


def _shown(d: Difference) -> str:
    p = "p < 0.001" if d.p_value < 0.001 else f"p = {d.p_value:.3f}"
    return f"{d.value:+.1f} [{d.low:+.1f}, {d.high:+.1f}] {p}"
