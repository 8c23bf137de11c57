"""A run against a baseline on the same items: differences in points with interval and p-value, seeds pooled.

Results are compared only where benchmark, data version, items and protocol agree.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scramble.evaluation import results, statistics
from scramble.evaluation.items import EvaluationError
from scramble.evaluation.results import Result
from scramble.evaluation.summary import Units, units


def not_comparable(a: Result, b: Result) -> str | None:
    """Why two results must not be subtracted, or None if they may be."""
    if a.benchmark["name"] != b.benchmark["name"]:
        return f"different benchmarks ({a.benchmark['name']}, {b.benchmark['name']})"
    if a.benchmark["version"] != b.benchmark["version"]:
        return f"different data versions ({a.benchmark['version']}, {b.benchmark['version']})"
    if a.benchmark["items"] != b.benchmark["items"]:
        return f"different items ({a.benchmark['items']}, {b.benchmark['items']})"
    changed = sorted(k for k in {*a.protocol, *b.protocol} - {"name"} if a.protocol.get(k) != b.protocol.get(k))
    if changed:
        names = ", ".join(f"{k} {a.protocol.get(k)!r} and {b.protocol.get(k)!r}" for k in changed[:3])
        return f"different protocols ({names})"
    return None


def compare(run: str | Path, baseline: str | Path) -> dict[str, dict[str, Any]]:
    """Paired differences of every score of two result folders.

    Returns:
        score -> ``difference``, ``standard_error``, ``low``, ``high`` in points, ``p_value``, ``test``, ``won``,
        ``lost``, ``n``.
    Raises:
        EvaluationError: the results are not comparable; the message says why.
    """
    return compare_seeds([run], [baseline])


def compare_seeds(runs: Sequence[str | Path], baselines: Sequence[str | Path]) -> dict[str, dict[str, Any]]:
    """As :func:`compare`, pooled over seeds: ``runs[s]`` is paired with ``baselines[s]``, or all with one baseline."""
    if len(baselines) not in (1, len(runs)):
        raise EvaluationError(f"{len(runs)} runs and {len(baselines)} baselines: give one baseline, or one a run")
    first = results.read(runs[0])
    for folder in [*runs[1:], *baselines]:
        if reason := not_comparable(first, results.read(folder)):
            raise EvaluationError(f"{folder} cannot be compared with {runs[0]}: {reason}")
    scoring = first.benchmark["scoring"]
    run_units = [units(scoring, results.read_outcomes(folder)) for folder in runs]
    baseline_units = [units(scoring, results.read_outcomes(folder)) for folder in baselines]
    return {name: _test(name, [u[name] for u in run_units], [u[name] for u in baseline_units]) for name in run_units[0]}


def _test(name: str, runs: Sequence[Units], baselines: Sequence[Units]) -> dict[str, Any]:
    ids = runs[0].ids
    if any(u.ids != ids for u in [*runs, *baselines]):
        raise EvaluationError(f"score {name}: the runs do not hold the same items in the same order")
    if len(runs) == 1:
        test = statistics.paired_test(runs[0].values, baselines[0].values, runs[0].clusters)
    else:
        run_SN, baseline_SN = (np.array([u.values for u in side]) for side in (runs, baselines))
        test = statistics.pooled_over_seeds(run_SN, baseline_SN, runs[0].clusters)
    points = {key: 100 * getattr(test, key) for key in ("difference", "standard_error", "low", "high")}
    return dataclasses.asdict(test) | points
