"""Tests notes in a report about its arms: unfinished, not evaluated, or trained for different numbers of steps."""

from __future__ import annotations

from pathlib import Path

from scramble.reporting.arms import arm_notes, finished_arms, incomplete_notes, shown_arms
from scramble.storage.files import write_json


def arm(run: Path, name: str, steps: int | None) -> Path:
    """Create an arm trained for this many steps (None: not finished); return its result folder."""
    summary = {"status": "running"} if steps is None else {"status": "finished", "summary": {"steps": steps}}
    write_json(run / "train" / name / "stage.json", {"config": {}, **summary})
    return run / "evaluation" / name / "pope"


def test_a_run_whose_arms_are_alike_needs_no_note(tmp_path: Path) -> None:
    base = tmp_path / "evaluation" / "base" / "pope"
    scored = [base, *(arm(tmp_path, name, 400) for name in ("mpo-seed10", "mpo-seed2", "sft-seed0"))]
    arm(tmp_path, "trial000-seed0", 7)  # trials of a study are not mentioned
    arm(tmp_path, "trial001-seed0", None)
    assert finished_arms(tmp_path) == ["mpo-seed2", "mpo-seed10", "sft-seed0", "trial000-seed0"]
    assert incomplete_notes(tmp_path) == []
    assert arm_notes(scored) == arm_notes([]) == []


def test_unfinished_unscored_and_unequal_arms_are_named(tmp_path: Path) -> None:
    scored = [arm(tmp_path, "dpo-seed0", 2), arm(tmp_path, "mpo-seed0", 1000), arm(tmp_path, "mpo-seed1", 400)]
    arm(tmp_path, "ipo-seed0", 400)
    arm(tmp_path, "rso-seed0", None)
    arm(tmp_path, "sft-seed0", None)
    (tmp_path / "train" / "sft-seed0" / "checkpoints" / "step-00000049").mkdir(parents=True)
    write_json(tmp_path / "train" / "bco-seed0" / "stage.json", {"config": {}, "status": "failed"})
    unfinished, failed, absent, steps = arm_notes(scored)
    assert unfinished.startswith(
        "Arms whose training is not finished are not included: rso-seed0 (no checkpoint), sft-seed0 (checkpoint of "
    )
    assert str(tmp_path / "log.txt") in unfinished and "bco-seed0" not in unfinished
    assert failed.startswith(
        "Arms whose training failed are not included: bco-seed0. Fix the error that is recorded in "
        f"{tmp_path / 'log.txt'}, "
    )
    assert absent.startswith("Trained arms that were not evaluated: ipo-seed0.")
    assert steps.startswith("The arms were trained for different numbers of steps, from 2 (dpo-seed0) to 1,000 (mpo-")


def test_trials_of_a_study_are_shown_only_where_they_were_evaluated(tmp_path: Path) -> None:
    for name in ("mpo-seed10", "mpo-seed2", "trial000-seed0", "trial001-seed0"):
        arm(tmp_path, name, 400)
    shown = shown_arms(tmp_path, [tmp_path / "evaluation" / "trial001-seed0" / "pope"])
    assert list(shown) == ["mpo-seed2", "mpo-seed10", "trial001-seed0"]
    assert shown["mpo-seed2"] == tmp_path / "train" / "mpo-seed2"
