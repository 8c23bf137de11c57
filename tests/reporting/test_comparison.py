"""Tests which seeds of two methods are compared with each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from scramble.evaluation.scoring import results
from scramble.evaluation.scoring.aggregation import rates, scores
from scramble.evaluation.scoring.outcomes import Outcome
from scramble.evaluation.scoring.results import Result
from scramble.reporting import comparison


def write_arm(evaluation: Path, arm: str, correct: int) -> None:
    """Write the result of an arm that answers the first ``correct`` of 20 questions correctly."""
    outcomes = [
        Outcome(f"q{n}", "", "", (), "", {"accuracy": float(n < correct)}, "yes", "yes", details={}) for n in range(20)
    ]
    result = Result(
        {"name": "pope", "version": "1", "scoring": "plain", "items": 20, "limit": None},
        {"path": "tiny", "name": arm},
        {"name": "short", "version": 1},
        scores("plain", outcomes),
        rates(outcomes),
    )
    results.write(evaluation / arm / "pope", result, outcomes)


@pytest.mark.parametrize(
    ("control_seeds", "expected"),
    [
        # Means of the differences of 12 and 16 (mpo-seed1, mpo-seed2) from the control, in points.
        ({0: 0, 1: 10, 2: 12}, (2 + 4) / 2 * 5),
        ({2: 12, 1: 10}, (2 + 4) / 2 * 5),
        ({5: 10}, (2 + 6) / 2 * 5),  # a single control is compared with all seeds
        ({2: 12, 3: 0, 10: 0}, 4 * 5),
        ({3: 10, 4: 12}, None),  # no seed in common
    ],
)
def test_methods_are_compared_on_the_seeds_that_both_have(
    tmp_path: Path, control_seeds: dict[int, int], expected: float | None
) -> None:
    write_arm(tmp_path, "mpo-seed1", 12)
    write_arm(tmp_path, "mpo-seed2", 16)
    for seed, correct in control_seeds.items():
        write_arm(tmp_path, f"sft-seed{seed}", correct)
    rows = comparison.compare(comparison.find_methods(tmp_path), ["sft"])
    [mpo] = [row for row in rows if row.method == "mpo"]
    assert mpo.seeds == 2
    if expected is None:
        assert mpo.differences == {}
    else:
        assert mpo.differences["sft"]["difference"] == pytest.approx(expected)
