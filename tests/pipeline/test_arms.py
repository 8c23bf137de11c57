"""Tests the selection of the arm that a command uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from scramble.pipeline import StageError, arm_model, choose_arm
from scramble.storage.files import write_json


def test_an_arm_is_chosen_where_there_is_no_choice_and_else_named(tmp_path: Path) -> None:
    def arm(name: str, status: str) -> None:
        write_json(tmp_path / "train" / name / "stage.json", {"status": status, "config": {}, "summary": {}})

    assert choose_arm(tmp_path / "none", None) == choose_arm(tmp_path, None) == "base"
    arm("sft-seed0", "running")
    arm("trial000-seed0", "finished")
    assert choose_arm(tmp_path, None) == "base"
    arm("dpo-seed0", "finished")
    assert choose_arm(tmp_path, None) == "dpo-seed0" and choose_arm(tmp_path, "base") == "base"
    assert choose_arm(tmp_path, "trial000-seed0") == "trial000-seed0"
    with pytest.raises(
        StageError, match=r"no finished arm sft-seed0: choose one of dpo-seed0, trial000-seed0 \(run.arm"
    ):
        choose_arm(tmp_path, "sft-seed0")
    arm("mpo-seed0", "finished")
    with pytest.raises(StageError, match=r"several arms: choose one of base, dpo-seed0, mpo-seed0 \(run.arm=...\)"):
        choose_arm(tmp_path, None)


def test_an_arm_is_an_adapter_on_the_base_or_a_whole_model(tmp_path: Path) -> None:
    adapter = tmp_path / "train" / "dpo-seed0" / "adapter"
    assert arm_model(tmp_path, "base", "b") == {"path": "b"}
    assert arm_model(tmp_path, "dpo-seed0", "b") == {"path": "b", "adapter": str(adapter)}
    (tmp_path / "train" / "sft-seed0" / "model").mkdir(parents=True)
    assert arm_model(tmp_path, "sft-seed0", "b") == {"path": str(tmp_path / "train" / "sft-seed0" / "model")}
