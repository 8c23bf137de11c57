"""Tests the table that scripts/evaluate.py prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from scramble.evaluation.scoring import results
from scramble.evaluation.scoring.aggregation import rates, scores
from scramble.evaluation.scoring.outcomes import Outcome
from scramble.evaluation.scoring.results import Result
from scramble.pipeline.evaluate import _print_scores


def write_result(folder: Path, right: int, protocol: str = "standard") -> None:
    """Write the result of 40 items, of which the first ``right`` are answered correctly."""
    outcomes = [Outcome(str(n), "", "", (), str(n), {"accuracy": float(n < right)}, "a", "a") for n in range(40)]
    benchmark = {"name": "pope", "version": "v", "scoring": "plain", "items": 40, "limit": None}
    table, settings = scores("plain", outcomes), {"name": protocol, "prompt": protocol}
    results.write(folder / "pope", Result(benchmark, {"path": "x"}, settings, table, rates(outcomes)), outcomes)


def test_each_arm_is_printed_with_the_baselines_that_were_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def printed() -> str:
        _print_scores(tmp_path, ["mpo-seed0"], ["pope"], ["base", "sft"])
        return capsys.readouterr().out

    write_result(tmp_path / "mpo-seed0", 20)
    write_result(tmp_path / "dpo-seed0", 30)  # not a baseline
    alone = printed()
    assert alone.splitlines()[0].strip() == "pope: percent" and "50.0 ± 8.0" in alone
    assert "minus" not in alone and "dpo" not in alone
    write_result(tmp_path / "base", 10)
    write_result(tmp_path / "sft-seed0", 15, protocol="other")  # cannot be compared
    both = printed()
    assert "25.0 ± 6.9" in both and "minus base" in both and "+25.0 [" in both and "sft" not in both
