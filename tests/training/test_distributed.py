"""Compares two CPU processes (gloo, DistributedDataParallel) with one process that accumulates gradients."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from scramble.models import load_vlm
from scramble.storage.jsonl import read_jsonl
from tests.training import logs
from tests.training.settings import fit

ROOT = Path(__file__).parents[2]
RUN = "tests.training.run_training"
HANGS = 3600  # seconds; if it takes longer, the processes wait for each other and not for a busy machine


def launch(options: dict[str, Any], processes: int, *, killed: bool = False) -> None:
    # With --cpu accelerate's launcher starts only one process, so this uses torch's launcher.
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        str(processes),
        "-m",
        RUN,
        json.dumps(options),
    ]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANGS)
    assert (result.returncode != 0) == killed, result.stderr[-3000:]


@pytest.mark.parametrize("kind", ["adapter", pytest.param("model", marks=pytest.mark.full)])
def test_two_processes_give_the_losses_of_one(base: Path, data: Path, tmp_path: Path, kind: str) -> None:
    """MPO with the reward shift and micro-batches of 2: one process accumulates two of them, and two processes get one
    each."""
    options: dict[str, Any] = {
        "objective": "mpo",
        "max_steps": 12,
        "global_batch_size": 4,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "seed": 5,
        "peft": {"r": 8, "lora_alpha": 16},
        "eval_data": str(data),
        "eval_steps": 6,
    }
    if kind == "model":
        options |= {"peft": None, "train_vision": True, "learning_rate": 1e-4}
    fit(load_vlm(base), data, tmp_path / "one", **options)
    launch(options | {"model": str(base), "data": str(data), "out": str(tmp_path / "two")}, 2)
    one, two = (list(read_jsonl(tmp_path / name / "metrics.jsonl")) for name in ("one", "two"))
    assert [row["step"] for row in one] == [row["step"] for row in two]
    for key in ("loss", "reward_shift", "rewards/margins", "eval_loss"):
        values = [[row[key] for row in rows if key in row] for rows in (one, two)]
        assert values[0] and values[0][-1] != values[0][0]
        torch.testing.assert_close(torch.tensor(values[0]), torch.tensor(values[1]), atol=1e-5, rtol=0)
    # Each process computed its share of the reference cache.
    assert len(list((tmp_path / "two" / "reference").rglob("part-*.jsonl"))) == 2


def test_a_run_of_one_process_resumes_with_two(base: Path, data: Path, tmp_path: Path) -> None:
    """The micro-batch size is computed from the number of processes: 4 pairs for one process and 2 for two."""
    options: dict[str, Any] = {"objective": "mpo", "max_steps": 8, "global_batch_size": 4, "save_steps": 4}
    options |= {"learning_rate": 1e-3, "logging_steps": 1, "peft": {"r": 8, "lora_alpha": 16}}
    out = tmp_path / "run"
    fit(load_vlm(base), data, out, **options)
    expected = logs.rows(out)
    shutil.rmtree(out / "checkpoints" / "step-00000008")
    shutil.rmtree(out / "adapter")
    launch(options | {"model": str(base), "data": str(data), "out": str(out)}, 2)
    resumed = logs.rows(out)
    assert [row["step"] for row in resumed] == [row["step"] for row in expected]
    values = [[row["loss"] for row in rows] for rows in (resumed, expected)]
    torch.testing.assert_close(torch.tensor(values[0]), torch.tensor(values[1]), atol=1e-5, rtol=0)


def test_a_process_without_images_does_not_hang_the_other(base: Path, data: Path, tmp_path: Path) -> None:
    """The tower is trained, and half of the micro-batches have no image: one and two processes have equal results."""
    options: dict[str, Any] = {
        "objective": "sft",
        "max_steps": 8,
        "global_batch_size": 2,
        "per_device_train_batch_size": 1,
        "learning_rate": 1e-4,
        "logging_steps": 1,
        "peft": None,
        "train_vision": True,
        "tables": ["captions", "questions"],
        "group_by_image": False,
    }
    from scramble.records import ImageRecord, Question
    from scramble.storage.tables import read_table, write_table

    images = list(read_table(data, ImageRecord))[:6]
    folder = tmp_path / "data"
    write_table(folder, ImageRecord, images)
    write_table(folder, Question, [Question(f"q{n}", (), "Describe the image.", f"red {n}") for n in range(8)])
    fit(load_vlm(base), folder, tmp_path / "one", **options)
    launch(options | {"model": str(base), "data": str(folder), "out": str(tmp_path / "two")}, 2)
    losses = [[row["loss"] for row in read_jsonl(tmp_path / name / "metrics.jsonl")] for name in ("one", "two")]
    torch.testing.assert_close(torch.tensor(losses[0]), torch.tensor(losses[1]), atol=1e-5, rtol=0)
    counts = [row["images"] for row in read_jsonl(tmp_path / "one" / "metrics.jsonl")]
    assert 1 in counts  # some steps have one micro-batch with and one without an image


@pytest.mark.full
def test_unused_layers_of_an_adapted_tower(data: Path, tmp_path: Path) -> None:
    """LLaVA reads CLIP's second-to-last layer. The adapter of the last layer therefore gets no gradient from the loss,
    which would make DistributedDataParallel end the run at the second step."""
    from scramble.models.tiny import save_tiny

    options: dict[str, Any] = {"peft": {"r": 4}, "train_vision": "lora", "max_steps": 4, "global_batch_size": 4}
    options |= {"per_device_train_batch_size": 2, "learning_rate": 1e-3, "logging_steps": 1}
    base = save_tiny("llava", tmp_path / "model", ["a red square left of a blue square"], 0)
    fit(load_vlm(base), data, tmp_path / "one", **options)
    launch(options | {"model": str(base), "data": str(data), "out": str(tmp_path / "two")}, 2)
    losses = [[row["loss"] for row in read_jsonl(tmp_path / name / "metrics.jsonl")] for name in ("one", "two")]
    torch.testing.assert_close(torch.tensor(losses[0]), torch.tensor(losses[1]), atol=1e-5, rtol=0)


@pytest.mark.full
def test_two_processes_resume_after_a_kill(base: Path, data: Path, tmp_path: Path) -> None:
    """A run killed at step 6 with the last checkpoint at 4 has the same rows and the same adapter, bit for bit."""
    options: dict[str, Any] = {
        "model": str(base),
        "data": str(data),
        "objective": "mpo",
        "max_steps": 12,
        "global_batch_size": 8,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3,
        "logging_steps": 5,
        "save_steps": 4,
        "peft": {"r": 8, "lora_alpha": 16, "lora_dropout": 0.1},
    }
    launch(options | {"out": str(tmp_path / "whole")}, 2)
    launch(options | {"out": str(tmp_path / "killed"), "kill_at": 7}, 2, killed=True)
    launch(options | {"out": str(tmp_path / "killed")}, 2)
    assert logs.rows(tmp_path / "whole") == logs.rows(tmp_path / "killed")
    adapters = [(tmp_path / n / "adapter" / "adapter_model.safetensors").read_bytes() for n in ("whole", "killed")]
    assert adapters[0] == adapters[1]


def launch_with(config: str, options: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    file = Path(__file__).resolve().parents[2] / "configs" / "accelerate" / f"{config}.yaml"
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(file),
        "--num_processes",
        "2",
        "--main_process_port",
        "0",
        "-m",
        RUN,
        json.dumps(options),
    ]
    # DeepSpeed uses the GPU if it finds one; this test is about two CPU processes.
    environment = os.environ | {"DS_ACCELERATOR": "cpu"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANGS, env=environment)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["adapter", "model"])
@pytest.mark.parametrize("config", ["fsdp2", "zero2", "zero3"])
def test_sharded_processes_give_the_losses_of_one(
    base: Path, data: Path, tmp_path: Path, config: str, kind: str
) -> None:
    """With weights sharded over two CPU processes, the losses are equal, the checkpoint can be resumed, and the result
    has full weights.
    """
    options: dict[str, Any] = {
        "objective": "mpo",
        "max_steps": 8,
        "global_batch_size": 4,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_steps": 4,
        "seed": 5,
        "peft": {"r": 8, "lora_alpha": 16},
        "eval_data": str(data),
        "eval_steps": 4,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
    }
    if kind == "model":
        options |= {"peft": None, "learning_rate": 1e-4}
    fit(load_vlm(base), data, tmp_path / "one", **options)
    sharded = options | {"model": str(base), "data": str(data), "out": str(tmp_path / "two")}
    if config == "fsdp2":
        sharded["share_out"] = True
    else:
        pytest.importorskip("deepspeed")
    done = launch_with(config, sharded)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (logs.rows(tmp_path / name) for name in ("one", "two"))
    for key in ("loss", "reward_shift", "rewards/margins", "eval_loss"):
        values = [[row[key] for row in rows if key in row] for rows in (one, two)]
        torch.testing.assert_close(torch.tensor(values[0]), torch.tensor(values[1]), atol=1e-5, rtol=0)
    # Without its last checkpoint and its result, the run resumes from the previous checkpoint with the same results.
    shutil.rmtree(tmp_path / "two" / "checkpoints" / "step-00000008")
    shutil.rmtree(tmp_path / "two" / kind)
    done = launch_with(config, sharded)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1])["resumed_from"] == "step-00000004"
    assert logs.rows(tmp_path / "two") == two
    (name,) = (path.name for path in (tmp_path / "one" / kind).glob("*.safetensors"))
    whole, parts = (load_file(tmp_path / run / kind / name) for run in ("one", "two"))
    assert whole.keys() == parts.keys()
    for weight in whole:
        torch.testing.assert_close(whole[weight], parts[weight], atol=1e-5, rtol=0)


def test_unavailable_fsdp_is_refused(base: Path, data: Path, tmp_path: Path) -> None:
    done = launch_with("fsdp2", {"model": str(base), "data": str(data), "out": str(tmp_path / "out"), "max_steps": 1})
    assert done.returncode != 0 and "FSDP was requested, but accelerate started MULTI_CPU" in done.stderr
