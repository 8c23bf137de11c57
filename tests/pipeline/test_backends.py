"""Tests the two backends through the scripts: the same losses, and their arms in one table."""

from __future__ import annotations

from pathlib import Path

import pytest

from scramble.storage.files import read_json
from scramble.storage.jsonl import read_jsonl
from tests.models.without_trie import MAKERS
from tests.pipeline.conftest import Run


@pytest.fixture(scope="module")
def arms(script: Run, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Train DPO and SFT with both backends on a tiny LLaVA, and return the overrides of the run."""
    folder = tmp_path_factory.mktemp("backends") / "run"
    run = ["+experiment=llava_dpo", "+debug=tiny", f"run.dir={folder}"]
    more = ["trainer.learning_rate=1e-3", "trainer.beta=1", "trainer.sft_mean=batch", "trainer.max_steps=6"]
    more += ["trainer.per_device_train_batch_size=4"]
    for backend in ("trie", "trl"):
        for objective in ("dpo", "sft"):
            arm = [f"objective={objective}", f"trainer.backend={backend}", f"run.arm={objective}_{backend}"]
            done = script("train", *run, *more, *arm)
            assert f"trainer.backend={backend}: " in done.stdout + done.stderr
    return run


@pytest.mark.parametrize("objective", ["dpo", "sft"])
def test_the_same_losses(arms: list[str], objective: str) -> None:
    folder = Path(arms[-1].partition("=")[2]) / "train"
    losses = {}
    for backend in ("trie", "trl"):
        out = folder / f"{objective}_{backend}"
        losses[backend] = [row["loss"] for row in read_jsonl(out / "metrics.jsonl") if "loss" in row]
        stage = read_json(out / "stage.json")
        assert stage["status"] == "finished" and stage["summary"]["backend"] == backend
        assert (out / "adapter" / "adapter_model.safetensors").exists()
    assert len(losses["trl"]) == 6 and losses["trl"] == pytest.approx(losses["trie"], abs=1e-4)
    assert max(losses["trl"]) - min(losses["trl"]) > 1e-3


def test_both_backends_are_in_one_table(script: Run, arms: list[str]) -> None:
    script("evaluate", *arms)
    script("report", *arms)
    report = (Path(arms[-1].partition("=")[2]) / "report" / "report.md").read_text()
    table = next(part for part in report.partition("## Main scores")[2].split("\n\n") if part.startswith("| model |"))
    scores = {line.split("|")[1].strip(): line.split("|")[2:] for line in table.splitlines()}
    assert {"base", "dpo_trie", "dpo_trl", "sft_trie", "sft_trl"} <= scores.keys()
    assert scores["dpo_trl"] == scores["dpo_trie"] and scores["sft_trl"] == scores["sft_trie"]
    assert scores["dpo_trl"] != scores["base"], "the adapter is loaded"


def test_settings_that_trl_lacks_are_refused_before_any_work(script: Run, arms: list[str]) -> None:
    refused = ["objective=mpo", "trainer.backend=trl", "trainer.feature_cache_dir=x", "run.arm=refused"]
    done = script("train", *arms, *refused, status=1)
    assert done.stderr.strip().splitlines()[-1] == (
        "error: trainer.backend=trl does not support the values of some settings: set trainer.feature_cache_dir=null "
        "trainer.reward_shift=none trainer.sft_mean=batch"
    )


@pytest.mark.full
def test_a_model_without_trie(script: Run, tmp_path: Path) -> None:
    """PaliGemma with its own processor: trained by TRL with the default backend, and evaluated with its adapter."""
    model = MAKERS["paligemma"](tmp_path / "model", ["a red circle is left of a blue square", "Describe the image."])
    run = ["+debug=tiny", "model=any", f"model.path={model}", "model.new=null", f"run.dir={tmp_path / 'run'}"]
    done = script("train", *run, "objective=dpo", "trainer.learning_rate=1e-3", "run.arm=dpo")
    assert "trainer.backend=auto: training uses TRL's DPOTrainer" in done.stdout + done.stderr
    script("evaluate", *run, "benchmark=[world_winoground]", "limit=6")
    for arm in ("base", "dpo"):
        assert (tmp_path / "run" / "evaluation-limit6" / arm / "world_winoground" / "result.json").exists()
    refused = script("train", *run, "objective=dpo", "trainer.backend=trie", "run.arm=refused", status=1)
    assert (
        "the family paligemma does not support token tries; use trainer.backend=trl or auto"
        in (refused.stderr.strip().splitlines()[-1])
    )
