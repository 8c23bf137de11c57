"""``dry_run=true`` reports what a command would do, without doing it."""

from __future__ import annotations

from pathlib import Path

import pytest

from scramble.config.existing_runs import held_out_faults
from scramble.evaluation.scoring.results import Result, write
from scramble.pipeline import StageError
from scramble.pipeline.plan import plan
from scramble.storage.files import write_json

from .conftest import Run


def test_a_dry_run_prints_the_plan_and_leaves_no_trace(tmp_path: Path, script: Run) -> None:
    run = tmp_path / "run"
    tiny = ("data=world_tiny", f"run.dir={run}", "trainer.global_batch_size=4", "trainer.save_total_limit=2")
    planned = script("train", *tiny, "-m", "objective=dpo,sft", "dry_run=true").stdout  # an option among overrides
    assert planned.count(f"new run {run}") == 1
    assert f"plan: the data is generated in {run / 'data'} from data=world" in planned
    assert f"arm sft-seed0 in {run / 'train' / 'sft-seed0'} is trained for 1 epoch, in steps of 4 pairs" in planned
    assert "GiB of memory" in planned and "MB of disk" in planned
    assert not (run / "data").exists() and not (run / "train").exists()
    assert not (run / "run.json").exists() and not (run / "log.txt").exists()
    planned = script("train", *tiny, "trainer.max_steps=1", "dry_run=true").stdout
    assert "is trained for 1 step of 4 pairs" in planned
    script("generate", *tiny)
    before = sorted(tmp_path.rglob("*"))
    few = script("train", f"run.dir={run}", "dry_run=true", "objective=dpo", "trainer.global_batch_size=500")
    assert "is trained for about 1 step (1 epoch of " in few.stdout
    assert "warning: plan: the run has only 1 step for " in few.stderr and "trainer.num_train_epochs" in few.stderr
    done = script("train", f"run.dir={run}", "dry_run=true", "objective=dpo", "trainer.global_batch_size=2")
    assert "the run has only" not in done.stderr
    planned = script("train", f"run.dir={run}", "dry_run=true", "objective=dpo", "trainer.global_batch_size=4").stdout
    assert "data=world" in planned and "is finished and will be reused" in planned
    assert "is trained for about " in planned and " pairs, 4 per step)" in planned
    scores = script("evaluate", f"run.dir={run}", "dry_run=true").stdout
    assert "plan: base is scored on world_winoground, world_vqa" in scores
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_checks_that_the_data_exist(tmp_path: Path) -> None:
    def plan_data(**data: str) -> None:
        values = {"run": {"dir": str(tmp_path), "data": str(tmp_path / "data")}, "pairs": {"method": "rules"}}
        plan("generate", {**values, "data": data, "data_seed": 0})

    (tmp_path / "graphs.json").touch()
    plan_data(kind="image_folder", path=str(tmp_path))
    plan_data(kind="gqa", path=str(tmp_path), graphs="graphs.json")
    plan_data(kind="hf", path="someone/some-captions")
    with pytest.raises(StageError, match=f"^data.path={tmp_path}/photos does not exist: set data"):
        plan_data(kind="coco", path=f"{tmp_path}/photos")
    with pytest.raises(StageError, match=r"^data.images=pictures does not exist: set data"):
        plan_data(kind="image_folder", path=str(tmp_path), images="pictures")
    with pytest.raises(StageError, match=r"^data.questions=questions.json does not exist: set data"):
        plan_data(kind="gqa", path=str(tmp_path), graphs="graphs.json", questions="questions.json")
    with pytest.raises(StageError, match=r"^data.path=captions.parquet does not exist: set data"):
        plan_data(kind="hf", path="captions.parquet")


def test_a_dry_run_of_an_evaluation_refuses_to_replace_other_scores(tmp_path: Path, script: Run) -> None:
    run = f"run.dir={tmp_path / 'run'}"
    script("generate", "data=world_tiny", run)
    place = tmp_path / "run" / "evaluation" / "base" / "world_vqa"
    benchmark = {"name": "world_vqa", "version": "v", "scoring": "plain", "items": 1, "limit": None}
    write(place, Result(benchmark, {"path": "x", "key": "1"}, {"name": "world"}, {"accuracy": {"value": 50.0}}, {}), [])
    names = "benchmark=[world_winoground,world_vqa]"
    refused = script("evaluate", run, names, "dry_run=true", status=1).stderr
    assert refused.startswith(
        f"error: {place} contains scores that the new scores must not replace, because the data vers"
    )
    planned = script("evaluate", run, names, "dry_run=true", "folder=second").stdout
    assert f"base is scored on world_winoground, world_vqa; the results are written to {tmp_path}/run/second" in planned


@pytest.mark.parametrize(("status", "words"), [("failed", "failed: fix"), ("stopped", "is not finished: wait")])
def test_an_evaluation_on_unfinished_data_is_refused(tmp_path: Path, status: str, words: str) -> None:
    """The message names the log file with the error or the command."""
    data = tmp_path / "data"
    write_json(data / "stage.json", {"status": status, "config": {}})
    (message,) = held_out_faults(tmp_path, data)
    assert f"{data} {words}" in message and str(tmp_path / "log.txt") in message
    write_json(data / "stage.json", {"status": "finished", "config": {}, "summary": {}})
    assert list(held_out_faults(tmp_path, data)) == []
    assert list(held_out_faults(tmp_path, tmp_path / "other")) == [
        f"{tmp_path / 'other'} contains no data set: run scripts/generate.py with these settings"
    ]
