"""``dry_run=true`` reports what a command would do, without doing it."""

from __future__ import annotations

from pathlib import Path

from .conftest import Run


def test_a_dry_run_prints_the_plan_and_leaves_no_trace(tmp_path: Path, script: Run) -> None:
    run = tmp_path / "run"
    tiny = ("data=world_tiny", f"run.dir={run}", "trainer.global_batch_size=4", "trainer.save_total_limit=2")
    planned = script("train", "-m", *tiny, "objective=dpo,sft", "dry_run=true").stdout
    assert f"plan: data is made in {run / 'data'}: data=world" in planned
    assert f"plan: arm sft-seed0 is trained for 1 epochs, in steps of 4 pairs: {run / 'train' / 'sft-seed0'}" in planned
    assert "GiB of memory" in planned and "MB of disk" in planned
    assert not (run / "data").exists() and not (run / "train").exists()
    assert not (run / "run.json").exists() and not (run / "log.txt").exists()
    script("generate", *tiny)
    before = sorted(tmp_path.rglob("*"))
    planned = script("train", f"run.dir={run}", "dry_run=true", "objective=dpo", "trainer.global_batch_size=4").stdout
    assert "data=world" in planned and "is finished and reused" in planned
    assert "is trained for about " in planned and " pairs, 4 per step)" in planned
    scores = script("evaluate", f"run.dir={run}", "dry_run=true").stdout
    assert "plan: base is scored on world_winoground, world_vqa" in scores
    assert sorted(tmp_path.rglob("*")) == before
