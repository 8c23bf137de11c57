"""Computes the rows of a run's tables: the scores of each method, and their differences from the baselines, paired by
item and seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scramble.evaluation.items import EvaluationError
from scramble.evaluation.scoring import results, statistics
from scramble.evaluation.scoring.aggregation import units
from scramble.evaluation.scoring.hallucination import has_direction, lower_is_better
from scramble.evaluation.scoring.paired import compare_seeds, not_comparable
from scramble.evaluation.scoring.results import Result
from scramble.evaluation.scoring.statistics import is_few
from scramble.reporting.arms import RUN_SEPARATOR, split_run
from scramble.reporting.table import Column, Table
from scramble.storage.arm_names import method_of, seed_of

ALPHA = 0.05
"""Differences with a smaller p-value are shown as significant changes."""
PARTS = {
    "seen": "combinations of colour and shape that occur in training",
    "unseen": "combinations of colour and shape that do not occur in training",
    "new-wording": "wordings that do not occur in training",
}
"""Parts of the embedded world's test set. The name of a score on one part ends with the part
(``group/swap-object/unseen``)."""

Folders = Mapping[str, Mapping[str, Sequence[Path]]]
"""Result folders by benchmark and method, one folder per seed."""


@dataclass(frozen=True)
class ScoreRow:
    """One score of one method on one benchmark, in percent: the mean over its seeds.

    ``differences`` maps each baseline to the paired test of
    :func:`scramble.evaluation.scoring.paired.compare_seeds`, in points. If the row is not comparable with the
    benchmark's first method, ``reason`` says why. In that case, the row contains differences only from baselines that
    were measured in the same way.
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
    """Return the result folders in ``<run>/evaluation`` by benchmark and method. The arms ``<method>-seed<n>`` belong
    to the same method. The base model counts as the method ``base``.
    """
    return by_method(results.find(evaluation))


def by_method(folders: Sequence[Path]) -> dict[str, dict[str, list[Path]]]:
    """Group result folders ``<arm>/<benchmark>`` by benchmark and method.

    A benchmark that an external harness ran counts as a separate benchmark (``mmbench (lmms-eval)``), so that the
    harness's scores are never compared with ours.
    """
    by_benchmark: dict[str, dict[str, list[Path]]] = {}
    for folder in folders:
        method = method_of(folder.parent.name)
        result = results.read(folder)
        harness = "" if result.source == "scramble" else f" ({result.source})"
        by_benchmark.setdefault(result.benchmark["name"] + harness, {}).setdefault(method, []).append(folder)
    return by_benchmark


def compare(folders: Folders, baselines: Sequence[str] = ("base", "sft")) -> list[ScoreRow]:
    """Return a row for each benchmark, score and method: the base model, then the baselines, then the other methods.

    Of two baselines, only the later one is compared with the earlier one. Methods of several runs are named
    ``<run>: <method>``. They are grouped by run and compared with the baselines of their own run. If a baseline is
    given as ``<run>: <method>``, the methods of all runs are compared with it.
    """
    order = {name: place for place, name in enumerate(dict.fromkeys(("base", *baselines)))}
    rows = []
    for benchmark, methods in folders.items():
        runs = list(dict.fromkeys(split_run(name)[0] for name in methods))

        def place(name: str, runs: Sequence[str] = runs) -> tuple[int, int, str]:
            run, method = split_run(name)
            return runs.index(run), order.get(method, len(order)), name

        names = sorted(methods, key=place)
        first = results.read(methods[names[0]][0])
        tables = {name: _rows(benchmark, name, methods, baselines, first) for name in names}
        scores = dict.fromkeys(score for table in tables.values() for score in table)
        rows += [tables[name][score] for score in scores for name in names if score in tables[name]]
    return rows


def _own_baselines(method: str, baselines: Sequence[str]) -> dict[str, str]:
    """Return the baselines of ``method``: a dictionary from the given names to the names of methods. A name without a
    run denotes a method of the same run as ``method``.

    The method itself is excluded. If ``method`` is a baseline, later baselines are excluded too, because the rows of
    these baselines show the same differences with the opposite sign.
    """
    run, _ = split_run(method)
    start = f"{run}{RUN_SEPARATOR}" if run else ""
    full = {name: name if RUN_SEPARATOR in name else start + name for name in baselines}
    names = list(full.values())
    before = names[: names.index(method)] if method in names else names
    return {name: other for name, other in full.items() if other in before}


def _rows(
    benchmark: str, method: str, methods: Mapping[str, Sequence[Path]], baselines: Sequence[str], first: Result
) -> dict[str, ScoreRow]:
    folders = methods[method]
    seeds = [results.read(folder) for folder in folders]
    for folder, seed in zip(folders, seeds, strict=True):
        if reason := not_comparable(seeds[0], seed):
            raise EvaluationError(
                f"{folder} and {folders[0]} contain results of two seeds of one method, but {reason}: evaluate both "
                "with the same settings"
            )
    outcomes = [results.read_outcomes(folder) for folder in folders]
    tests = _tests(method, methods, baselines, seeds[0]) if all(outcomes) else {}
    means = [units(seeds[0].benchmark["scoring"], items) for items in outcomes] if all(outcomes) else []
    protocol = seeds[0].protocol
    rows = {}
    for score, entry in seeds[0].scores.items():
        values = [seed.scores[score]["value"] for seed in seeds]
        error = entry["standard_error"]
        if len(seeds) > 1 and score in means[0]:  # first average each item over the seeds
            mean_N = np.mean([seed[score].values for seed in means], axis=0)
            spread = statistics.standard_error(mean_N, means[0][score].clusters)
            error = 100 * spread if np.isfinite(spread) else None
        rows[score] = ScoreRow(
            benchmark,
            score,
            method,
            len(folders),
            float(np.mean(values)),
            error,
            entry["n"],
            entry.get("chance"),
            protocol["name"],
            {name: test[score] for name, test in tests.items() if score in test},
            not_comparable(first, seeds[0]) or "",
            protocol.get("grading", ""),
            seeds[0].benchmark["limit"],
            seeds[0].source,
        )
    return rows


def _tests(
    method: str, methods: Mapping[str, Sequence[Path]], baselines: Sequence[str], result: Result
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the paired tests by baseline and score, for baselines that were measured on the same items and in the same
    way as ``method``.
    """
    tests = {}
    for name, other in _own_baselines(method, baselines).items():
        others = methods.get(other, ())
        if not others or any(not_comparable(result, results.read(folder)) for folder in others):
            continue
        paired = _of_same_seeds(methods[method], others)
        if paired is not None:
            tests[name] = {score: _without_nan(test) for score, test in compare_seeds(*paired).items()}
    return tests


def _of_same_seeds(runs: Sequence[Path], baselines: Sequence[Path]) -> tuple[Sequence[Path], Sequence[Path]] | None:
    """Return the folders of a method and of a baseline that have the same seeds, in the same order. If the baseline has
    a single folder, as the base model usually does, this folder is paired with all folders of the method. Return None
    if two methods with several seeds have no seed in common.
    """
    if len(baselines) == 1:
        return runs, baselines
    runs_by_seed, baselines_by_seed = (
        {seed_of(folder.parent.name): folder for folder in side} for side in (runs, baselines)
    )
    shared = [seed for seed in runs_by_seed if seed in baselines_by_seed]
    return ([runs_by_seed[seed] for seed in shared], [baselines_by_seed[seed] for seed in shared]) if shared else None


def _without_nan(test: Mapping[str, Any]) -> dict[str, Any]:
    """Replace NaN, which a test on a single item can produce, with None, because JSON has no NaN."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in test.items()
    }


def score_table(
    rows: Sequence[ScoreRow], baselines: Sequence[str], caption: str = "", sections: Sequence[int] = ()
) -> Table:
    """Return a table of scores with standard errors, and of differences with intervals and p-values.

    A table with a caption has no benchmark column, because the caption names the benchmark.
    """
    columns = [
        *map(Column, ("benchmark", "score", "method", "seeds")),
        Column("n", lambda n: str(n or "")),
        Column("%", lambda row: score_text(row.value, row.standard_error, row.n)),
        Column("chance", lambda chance: "" if chance is None else f"{chance:.1f}"),
        *(Column(f"minus {baseline}", shown) for baseline in baselines),
    ]
    values = [
        (r.benchmark, r.score, r.method, r.seeds, r.n, r, r.chance, *(r.differences.get(b) for b in baselines))
        for r in rows
    ]
    first = 1 if caption else 0
    return Table(columns[first:], [row[first:] for row in values], caption, part_notes(rows), sections)


def part_notes(rows: Sequence[ScoreRow]) -> list[str]:
    """Return the explanations of the parts that occur in the rows' score names."""
    names = {part for row in rows for part in row.score.split("/")[1:]}
    return [f"{part}: {meaning}" for part, meaning in PARTS.items() if part in names]


def score_text(value: float, standard_error: float | None, n: int | None) -> str:
    """Return a score with its uncertainty as text."""
    return f"{value:.1f} {uncertainty(standard_error, n)}".rstrip()


def uncertainty(standard_error: float | None, n: int | None) -> str:
    """Return a standard error as text.

    If there are too few items, or if all items have the same value, the number of items is shown instead, because an
    error of 0.0 would suggest certainty.
    """
    if n is not None and (is_few(n) or standard_error == 0):
        return f"(n = {n})"
    return "" if standard_error is None else f"± {standard_error:.1f}"


def shown(test: Mapping[str, Any] | None) -> str:
    """Return a difference in points with its interval and its p-value. Both are omitted if there are too few items."""
    return "" if test is None else f"{points(test)} {p_value(test)}".rstrip()


def p_value(test: Mapping[str, Any]) -> str:
    """Return ``p = 0.012`` or ``p < 0.001``. Return "" if there is no p-value, or if there are too few items."""
    p = test["p_value"]
    if not _is_number(p) or is_few(test.get("n")):
        return ""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def points(test: Mapping[str, Any]) -> str:
    """Return a difference in points, with its interval clipped to the range from -100 to 100 points."""
    text = f"{test['difference']:+.1f}"
    if is_few(test.get("n")):
        return f"{text} (n = {test['n']}: too few for an interval)"
    if not has_interval(test):
        return f"{text} (no interval)"
    return f"{text} [{max(test['low'], -100):+.1f}, {min(test['high'], 100):+.1f}]"


def has_interval(test: Mapping[str, Any]) -> bool:
    """Return whether a difference has an interval. There is no interval if there are too few items, or only a single
    cluster of items.
    """
    return _is_number(test["low"]) and _is_number(test["high"]) and not is_few(test.get("n"))


def sign(test: Mapping[str, Any], score: str = "") -> str:
    """Return ``good`` or ``bad`` if a difference is statistically significant and the score has a direction. Otherwise,
    return "".
    """
    if not _is_number(test["p_value"]) or test["p_value"] >= ALPHA or is_few(test.get("n")) or not has_direction(score):
        return ""
    return "good" if (test["difference"] > 0) != lower_is_better(score) else "bad"


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
