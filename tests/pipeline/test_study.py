"""Tests hyper-parameter search with Optuna through scripts/study.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.pipeline.conftest import Run

TINY = ("+experiment=quickstart", "+debug=tiny", "pairs.audit=false", "objective=dpo", "trainer.max_steps=1")


@pytest.mark.full
def test_a_search_goes_on_where_it_stopped_and_names_the_best(tmp_path: Path, script: Run) -> None:
    optuna = pytest.importorskip("optuna")
    overrides = (
        *TINY,
        f"run.dir={tmp_path}",
        "study.space={trainer.learning_rate: {low: 1e-4, high: 1e-2, log: true}}",
    )
    first = script("study", *overrides, "study.trials=1")
    assert "trial 0 (1 of 1): eval_loss" in first.stdout
    done = script("study", *overrides, "study.trials=3")
    assert "trial 0 (" not in done.stdout and "trial 2 (3 of 3)" in done.stdout
    study = optuna.load_study(study_name="scramble", storage=f"sqlite:///{tmp_path}/study.db")
    assert {tuple(trial.params) for trial in study.trials} == {("trainer.learning_rate",)}
    assert len({trial.params["trainer.learning_rate"] for trial in study.trials}) == 3
    values = []
    for trial in study.trials:
        arm = tmp_path / "train" / f"trial{trial.number:03d}-seed0"
        rows = [json.loads(line) for line in (arm / "metrics.jsonl").read_text().splitlines()]
        values.append([row["eval_loss"] for row in rows if "eval_loss" in row][-1])
        config = json.loads((arm / "stage.json").read_text())["config"]
        assert config["trainer"]["learning_rate"] == trial.params["trainer.learning_rate"]
    assert [trial.value for trial in study.trials] == values
    assert f"trial {values.index(min(values))} is the best: eval_loss is" in done.stdout


def test_a_search_that_cannot_be_is_refused(tmp_path: Path, script: Run) -> None:
    for override, message in (
        ("study.space={trainer.lr: [1, 2]}", "the configuration has no key trainer.lr"),
        ("study.space={trainer.max_steps: 5}", "must be a list, or a mapping with low and high"),
        ("study.direction=up", "study.direction=up must be one of minimize, maximize"),
    ):
        refused = script("study", *TINY, f"run.dir={tmp_path}", override, status=1)
        assert message in refused.stderr and "Traceback" not in refused.stderr
