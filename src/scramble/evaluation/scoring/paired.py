"""Compare a run with a baseline on the same items: differences in points, with intervals and p-values.

Results are compared only if their benchmark, data version, number of items and protocol are the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scramble.evaluation.items import EvaluationError
from scramble.evaluation.protocols import Protocol
from scramble.evaluation.scoring import results, statistics
from scramble.evaluation.scoring.aggregation import Units, is_unread, ratios, units
from scramble.evaluation.scoring.outcomes import Outcome
from scramble.evaluation.scoring.ratio import Ratio
from scramble.evaluation.scoring.results import Result


def not_comparable(a: Result, b: Result) -> str | None:
    """Return the reason why two results must not be compared, or None if the results are comparable."""
    if a.benchmark["name"] != b.benchmark["name"]:
        return f"the benchmarks differ ({a.benchmark['name']}, {b.benchmark['name']})"
    if a.benchmark["version"] != b.benchmark["version"]:
        return f"the data versions differ ({a.benchmark['version']}, {b.benchmark['version']})"
    if a.benchmark["items"] != b.benchmark["items"]:
        return f"the numbers of items differ ({a.benchmark['items']}, {b.benchmark['items']})"
    # A result that was computed before a setting existed lacks the setting, and was computed with its default value.
    defaults = {f.name: f.default for f in dataclasses.fields(Protocol) if f.default is not dataclasses.MISSING}
    ours, theirs = (defaults | result.protocol for result in (a, b))
    changed = sorted(k for k in {*ours, *theirs} - {"name"} if ours.get(k) != theirs.get(k))
    if changed:
        names = ", ".join(f"{k} {ours.get(k)!r} and {theirs.get(k)!r}" for k in changed[:3])
        return f"the protocols differ ({names})"
    return None


def compare(run: str | Path, baseline: str | Path) -> dict[str, dict[str, Any]]:
    """Return the paired difference of each score between two result folders.

    Returns:
        For each score, by name, a dictionary with ``difference``, ``standard_error``, ``low`` and ``high`` in points,
        ``p_value``, ``test``, ``won``, ``lost`` and ``n``.
    Raises:
        EvaluationError: the results are not comparable; the message states the reason.
    """
    return compare_seeds([run], [baseline])


def compare_seeds(runs: Sequence[str | Path], baselines: Sequence[str | Path]) -> dict[str, dict[str, Any]]:
    """Compare runs with baselines as :func:`compare` does, and pool the differences over seeds. ``runs[s]`` is paired
    with ``baselines[s]``, or all runs are paired with a single baseline.
    """
    if len(baselines) not in (1, len(runs)):
        raise EvaluationError(
            f"the number of baselines must be 1 or the number of runs ({len(runs)}), not {len(baselines)}: give one "
            "baseline for all runs, or one baseline per run"
        )
    first = results.read(runs[0])
    for folder in [*runs[1:], *baselines]:
        if reason := not_comparable(first, results.read(folder)):
            raise EvaluationError(
                f"{folder} cannot be compared with {runs[0]}, because {reason}: evaluate both with the same settings"
            )
    scoring = first.benchmark["scoring"]
    outcomes = [[results.read_outcomes(folder) for folder in side] for side in (runs, baselines)]
    of_items = [[units(scoring, outcomes_of_run) for outcomes_of_run in side] for side in _read_in_all(outcomes)]
    of_sums = [[ratios(scoring, outcomes_of_run) for outcomes_of_run in side] for side in outcomes]
    tests = {name: _test(name, *([u[name] for u in side] for side in of_items)) for name in _shared(of_items)}
    return tests | {
        name: _ratio_test(name, *([r[name] for r in side] for side in of_sums)) for name in _shared(of_sums)
    }


def _read_in_all(sides: Sequence[Sequence[Sequence[Outcome]]]) -> list[list[list[Outcome]]]:
    """Return the outcomes of the items for which the judge's replies could be read in all runs."""
    unread = {o.item_id for side in sides for run in side for o in run if is_unread(o)}
    return [[[o for o in run if o.item_id not in unread] for run in side] for side in sides]


def _shared(sides: Sequence[Sequence[Mapping[str, Any]]]) -> list[str]:
    """Return the names of the scores that all results contain. Results that were computed with an earlier version of
    the code can lack scores that were added later.
    """
    return [name for name in sides[0][0] if all(name in table for side in sides for table in side)]


def _check_same(name: str, labels: Sequence[tuple[str, ...]]) -> None:
    if any(other != labels[0] for other in labels):
        raise EvaluationError(
            f"score {name}: the runs have different items, or the same items in a different order: evaluate all runs "
            "again"
        )


def _test(name: str, runs: Sequence[Units], baselines: Sequence[Units]) -> dict[str, Any]:
    _check_same(name, [u.ids for u in [*runs, *baselines]])
    if len(runs) == 1:
        test = statistics.paired_test(runs[0].values, baselines[0].values, runs[0].clusters)
    else:
        run_SN, baseline_SN = (np.array([u.values for u in side]) for side in (runs, baselines))
        test = statistics.pooled_over_seeds(run_SN, baseline_SN, runs[0].clusters)
    return _points(test)


def _ratio_test(name: str, runs: Sequence[Ratio], baselines: Sequence[Ratio]) -> dict[str, Any]:
    _check_same(name, [r.clusters for r in [*runs, *baselines]])
    clusters = len(runs[0].clusters)
    return _points(statistics.paired_bootstrap([r.value for r in runs], [r.value for r in baselines], clusters))


def _points(test: statistics.PairedTest) -> dict[str, Any]:
    points = {key: 100 * getattr(test, key) for key in ("difference", "standard_error", "low", "high")}
    return dataclasses.asdict(test) | points
