"""Tests options of transformers and PEFT for which no reference trainer is compared here: they work and have the
documented effect.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scramble.models import ModelError, load_vlm
from scramble.storage.jsonl import read_jsonl
from tests.training.settings import LORA, Stop, fit

PLAIN: dict[str, Any] = {
    "objective": "mpo",
    "peft": LORA,
    "global_batch_size": 4,
    "learning_rate": 1e-3,
    "max_steps": 4,
    "logging_steps": 1,
}


def losses(base: Path, data: Path, out: Path, **options: Any) -> list[float]:
    fit(load_vlm(base), data, out, **{**PLAIN, **options})
    return [row["loss"] for row in read_jsonl(out / "metrics.jsonl") if "loss" in row]


@pytest.mark.parametrize(
    "options",
    [
        {"neftune_noise_alpha": 5.0},
        {"peft": {**LORA, "use_rslora": True}},
        {"peft": {**LORA, "use_dora": True}},
        {"peft": {**LORA, "target_modules": ["q_proj", "v_proj"]}},
        {"peft": {**LORA, "init_lora_weights": "gaussian"}},
    ],
    ids=["neftune", "rslora", "dora", "target_modules", "init_lora_weights"],
)
def test_options_with_an_effect_give_the_same_twice(
    base: Path, data: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    actual = losses(base, data, tmp_path / "one", **options)
    assert actual == losses(base, data, tmp_path / "two", **options) != losses(base, data, tmp_path / "plain")


def test_full_determinism_changes_no_loss(base: Path, data: Path, tmp_path: Path) -> None:
    plain = losses(base, data, tmp_path / "plain")
    assert losses(base, data, tmp_path / "other", full_determinism=True) == pytest.approx(plain, abs=1e-6)


@pytest.mark.full
def test_compilation_changes_no_loss(base: Path, data: Path, tmp_path: Path) -> None:
    """The model is traced but not compiled to machine code, which takes minutes on a CPU."""
    compiled = losses(base, data, tmp_path / "other", torch_compile=True, torch_compile_backend="eager")
    assert compiled == pytest.approx(losses(base, data, tmp_path / "plain"), abs=1e-5)


def test_entropy_is_logged_where_it_is_asked_for(base: Path, data: Path, tmp_path: Path) -> None:
    plain = losses(base, data, tmp_path / "plain")
    assert losses(base, data, tmp_path / "asked", log_entropy=True) == plain
    assert all("entropy" not in row for row in read_jsonl(tmp_path / "plain" / "metrics.jsonl"))
    assert all(0 < row["entropy"] < 10 for row in read_jsonl(tmp_path / "asked" / "metrics.jsonl"))


def test_epochs_are_counted_in_steps(base: Path, data: Path, tmp_path: Path) -> None:
    """32 pairs in batches of 8: an epoch of 4 steps, after which pairs are scored and a checkpoint is written."""
    epochs = {"save_strategy": "epoch", "eval_strategy": "epoch", "save_total_limit": None}
    options = {"max_steps": -1, "num_train_epochs": 2, "global_batch_size": 8, "eval_data": data, **epochs}
    losses(base, data, tmp_path, **options)
    rows = list(read_jsonl(tmp_path / "metrics.jsonl"))
    assert [row["step"] for row in rows if "eval_loss" in row] == [0, 4, 8]
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("step-*")) == ["step-00000004", "step-00000008"]


def test_a_resumed_run_logs_and_saves_at_its_own_steps(base: Path, data: Path, tmp_path: Path) -> None:
    """The run is stopped after step 4, with rows and checkpoints every four steps, and resumed with both every two
    steps."""
    losses(base, data, tmp_path, max_steps=12, logging_steps=4, save_steps=4, callbacks=[Stop(4)])
    losses(base, data, tmp_path, max_steps=12, logging_steps=2, save_steps=2, save_total_limit=None)
    rows = [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl") if "loss" in row]
    assert rows == [1, 4, 6, 8, 10, 12]
    steps = sorted(int(path.name.removeprefix("step-")) for path in (tmp_path / "checkpoints").glob("step-*"))
    assert steps == [4, 6, 8, 10, 12]


def test_the_reference_is_without_a_fresh_adapter_that_does_not_start_at_zero(
    base: Path, data: Path, tmp_path: Path
) -> None:
    """Random LoRA weights: the cached and the in-step reference agree, and an adapter with another rank uses the same
    cache."""
    peft = {**LORA, "init_lora_weights": False}
    options: dict[str, Any] = {"peft": peft, "reference_cache_dir": str(tmp_path / "cache")}
    cached = losses(base, data, tmp_path / "cached", **options)
    in_step = losses(base, data, tmp_path / "step", peft=peft, precompute_ref_log_probs=False)
    assert cached == pytest.approx(in_step, abs=1e-5)
    losses(base, data, tmp_path / "other", **{**options, "peft": {**peft, "r": 2}})
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_an_initialisation_that_changes_the_base_is_refused(base: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="init_lora_weights=pissa changes the base model's weights"):
        losses(base, data, tmp_path, peft={**LORA, "init_lora_weights": "pissa"})


def test_offloading_without_a_gpu_is_refused() -> None:
    from tests.training.settings import config

    with pytest.raises(ValueError, match=r"activation_offloading=true needs a GPU"):
        config(activation_offloading=True)
