"""Every shipped experiment trains and scores from start to finish with a tiny model of its own family."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from tests.pipeline.conftest import ROOT, Run

EXPERIMENTS = sorted(path.stem for path in (ROOT / "configs" / "experiment").glob("*.yaml"))
# InternVL, LLaVA and SceneAlign are trained by test_world_run.py, test_backends.py and the test of rationales below.
FAST = {"molmo_dpo", "qwen2_5_vl_dpo"}


@pytest.mark.parametrize(
    "experiment", [pytest.param(name, marks=() if name in FAST else pytest.mark.full) for name in EXPERIMENTS]
)
def test_an_experiment_runs(experiment: str, tmp_path: Path, script: Run) -> None:
    if experiment.startswith("molmo2") and importlib.util.find_spec("torchvision") is None:
        refused = script("train", f"+experiment={experiment}", "+debug=tiny", f"run.dir={tmp_path}", status=1)
        assert "torchvision" in refused.stderr and "Traceback" not in refused.stderr
        pytest.skip("Molmo2's image processor needs torchvision; without it the run stops with one line, as checked")
    script("train", f"+experiment={experiment}", "+debug=tiny", f"run.dir={tmp_path}")
    (arm,) = (tmp_path / "train").iterdir()
    summary = json.loads((arm / "stage.json").read_text())["summary"]
    assert summary["steps"] == 4 and summary["trained_parameters"] > 0
    (weights,) = arm.glob("*/*model.safetensors")
    assert weights.parent.name in ("adapter", "model")


def test_scenealign_trains_on_rationales_and_is_judged_by_the_scene(tmp_path: Path, script: Run) -> None:
    tiny = ("+experiment=scenealign_world", "+debug=tiny", "pairs=scenealign", f"run.dir={tmp_path}")
    script("train", *tiny, "objective=sft", "trainer.tables=[rationales]")
    script("train", *tiny)
    script("evaluate", *tiny, "benchmark=[world_rationales]", "benchmark.world_rationales.max_new_tokens=8", "limit=4")
    splits = json.loads((tmp_path / "data" / "stage.json").read_text())["summary"]["splits"]
    assert splits["train"]["pairs"] > 50 and "kinds_without_room" in splits["train"]
    for arm in ("base", "sft-seed0", "dpo-seed0"):
        result = json.loads((tmp_path / "evaluation-limit4" / arm / "world_rationales" / "result.json").read_text())
        assert {"faithfulness", "needed", "accuracy"} <= result["scores"].keys()


def test_one_batch_is_shown(tmp_path: Path, script: Run) -> None:
    shown = script("train", "+experiment=molmo_dpo", "+debug=tiny", f"run.dir={tmp_path}", "show_batch=1")
    assert "<image token x" in shown.stdout and "padding" in shown.stdout
    assert (tmp_path / "batch.png").stat().st_size > 5000
    assert not (tmp_path / "train").exists()


def test_export_and_chat(tmp_path: Path, script: Run) -> None:
    run = f"run.dir={tmp_path}"
    script("train", "+debug=tiny", run, "objective=dpo")
    script("export", "+debug=tiny", run, "objective=dpo")
    merged = tmp_path / "export" / "dpo-seed0"
    assert (merged / "model.safetensors").exists()
    image = str(ROOT / "data" / "example" / "01.png")
    asked = ("chat", run, f"image={image}", "text=Describe the image.", "max_new_tokens=5")
    named = script(*asked, "+debug=tiny", f"model.path={merged}", "adapter=null").stdout.splitlines()
    assert f"model: {merged}" in named, "a model that is named is taken as it is"
    of_run = script(*asked, "model.device=cpu", "run.arm=dpo-seed0").stdout.splitlines()
    assert f"model: {tmp_path / 'new_model'} with {tmp_path / 'train' / 'dpo-seed0' / 'adapter'}" in of_run
    assert of_run[-1] == named[-1] and named[-1].strip()
    assert f"model: {tmp_path / 'new_model'}" in script(*asked, "run.arm=base").stdout.splitlines()


def test_the_order_of_debug_and_experiment_does_not_matter(tmp_path: Path, script: Run) -> None:
    words = ("+experiment=molmo_dpo", "+debug=tiny", f"run.dir={tmp_path}", "dry_run=true")
    assert script("train", *words).stdout == script("train", *words[1::-1], *words[2:]).stdout
