"""Tests the accelerate configurations and launchers, read with the libraries that use them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from scramble.config.validation import check_root
from scramble.launch.command import job_command, strategy_file
from scramble.launch.names import name_arm, slug, varying_overrides
from scramble.launch.points import LaunchError, Point, make_points
from scramble.launch.sweep import launch

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
STRATEGIES = sorted(path.stem for path in (CONFIGS / "accelerate").glob("*.yaml"))


def point(folder: Path) -> Point:
    return Point(CONFIGS.parent / "scripts" / "train.py", {}, {}, "0" * 16, folder)


def launcher(name: str, *overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", overrides=[f"launcher={name}", *overrides])
    values: Any = OmegaConf.to_container(cfg.launcher)
    return values


@pytest.mark.parametrize("machines", [1, 2])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_accelerate_reads_each_strategy_for_one_machine_and_several(
    strategy: str, machines: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser, prepare_multi_gpu_env

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    config = load_config_from_file(str(strategy_file(strategy)))  # refuses unknown keys
    assert config.distributed_type.value == {"ddp": "MULTI_GPU", "fsdp2": "FSDP"}.get(strategy, "DEEPSPEED")
    options = {"num_processes": 16, "num_machines": machines, "strategy": strategy}
    command = job_command(point(tmp_path), options, machine=machines - 1, address="node-0")
    assert command[1:3] == ["-m", "accelerate.commands.launch"]
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(command[3:]))
    assert (args.num_processes, args.num_machines, int(args.machine_rank)) == (16, machines, machines - 1)
    assert (args.multi_gpu, args.use_fsdp, args.use_deepspeed) == (
        strategy == "ddp",
        strategy == "fsdp2",
        strategy.startswith("zero"),
    )
    assert args.training_script.endswith("train.py") and args.training_script_args[0] == "--resolved"
    if strategy == "fsdp2":
        environment = prepare_multi_gpu_env(args)
        assert environment["FSDP_VERSION"] == "2" and environment["FSDP_STATE_DICT_TYPE"] == "FULL_STATE_DICT"
        assert environment["FSDP_AUTO_WRAP_POLICY"] == "TRANSFORMER_BASED_WRAP"
    if machines == 2:
        assert (args.main_process_ip, args.main_process_port) == ("node-0", 29500)


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_reads_its_stages(stage: int, tmp_path: Path) -> None:
    """The result of accelerate reading the file with DeepSpeed's own configuration."""
    pytest.importorskip("deepspeed", reason="needs DeepSpeed (pip install 'scramble[deepspeed]')")
    code = f"""
import json, sys
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DeepSpeedPlugin
from deepspeed.runtime.config import DeepSpeedConfig
options = load_config_from_file({str(strategy_file(f"zero{stage}"))!r}).deepspeed_config
options.pop("offload_optimizer_device"), options.pop("offload_param_device")
plugin = DeepSpeedPlugin(**options, offload_optimizer_device="none", offload_param_device="none")
config = dict(plugin.deepspeed_config, train_micro_batch_size_per_gpu=1, train_batch_size=1,
              gradient_accumulation_steps=1, gradient_clipping=1.0)
print(json.dumps(DeepSpeedConfig(config).zero_config.stage))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "DS_ACCELERATOR": "cpu"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == stage


def test_one_process_needs_no_accelerate(tmp_path: Path) -> None:
    command = job_command(point(tmp_path), {"num_processes": 1, "num_machines": 1, "strategy": "ddp"})
    assert command == [
        sys.executable,
        str(CONFIGS.parent / "scripts" / "train.py"),
        "--resolved",
        str(tmp_path / "config.yaml"),
    ]


def test_launchers_that_cannot_start_jobs_are_refused() -> None:
    slurm = ("launcher=slurm", "launcher.num_processes=3", "launcher.num_machines=2")
    for overrides, message in (
        (slurm, "launcher.num_processes=3 must be a multiple of launcher.num_machines=2"),
        (("launcher=local", "launcher.strategy=fsdp"), "must be one of ddp, fsdp2, zero2, zero3, or an existing"),
        (("launcher=local", "launcher.num_processes=2", "launcher.devices=[0]"), "must contain one device per process"),
    ):
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            faults = check_root(compose("train", overrides=list(overrides)), "train", ())
        assert any(message in fault for fault in faults), faults


def test_a_strategy_may_be_a_file_of_the_user(tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text("distributed_type: MULTI_GPU\n")
    assert str(own) in job_command(point(tmp_path), {"num_processes": 2, "strategy": str(own)})


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_unfinished_job_is_listed_with_its_log_if_there_is_one(jobs: int, tmp_path: Path) -> None:
    """The output of a single job goes to the terminal and not to a file."""
    script = tmp_path / "fails.py"
    script.write_text("raise SystemExit('out of memory')")
    config = {"run": {"dir": str(tmp_path), "data": str(tmp_path / "data")}, "data": {"kind": "world"}}
    configs = [{**config, "seed": seed} for seed in range(jobs)]
    overrides = [[f"seed={seed}"] for seed in range(jobs)]
    with pytest.raises(LaunchError) as error:
        launch(script, configs, overrides, tmp_path / "jobs", {"kind": "local", "jobs": 2})
    message = str(error.value)
    assert message.count("failed") == jobs
    logs = [word for word in message.split() if word.endswith("log.txt")]
    assert len(logs) == (0 if jobs == 1 else 2) and all(Path(file).exists() for file in logs)
    assert message.count("out of memory") == (0 if jobs == 1 else 2)


def test_the_slurm_launcher_has_what_submitit_takes() -> None:
    submitit = pytest.importorskip("submitit")
    from scramble.launch.slurm import _slurm_only

    options = _slurm_only(launcher("slurm", "launcher.account=lab", "launcher.setup=[module load cuda]"))
    assert set(options) <= submitit.SlurmExecutor._valid_parameters()
    assert options["account"] == "lab" and options["setup"] == ["module load cuda"]
    assert options["additional_parameters"] == {"requeue": True}


def test_arms_are_named_by_what_varies() -> None:
    points = [["objective=dpo", f"trainer.beta={beta}", f"seed={seed}"] for beta in (0.05, 0.1) for seed in (0, 1)]
    varied = varying_overrides(points)
    assert varied[1] == {"trainer.beta": "0.05", "seed": "1"}
    config = {"run": {"arm": "dpo-seed1", "dir": "r"}, "objective": {"name": "dpo"}, "seed": 1}
    assert name_arm(config, varied[1])["run"] == {"arm": "dpo-beta0.05-seed1", "dir": "r"}
    assert name_arm({**config, "run": {"arm": "mine"}}, varied[1])["run"]["arm"] == "mine"
    assert name_arm(config, {"seed": "1"}) is config
    assert slug({"data": "coco", "a.b": "x/y z"}) == "data-coco-b-x_y_z"


@pytest.mark.parametrize("place", ["base", "generator"])
def test_another_local_model_is_another_point(place: str, tmp_path: Path) -> None:
    """If the base or the model that generates negatives was retrained, finished points are out of date."""
    for name in ("base", "generator"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"first")
    config = {
        "run": {"dir": str(tmp_path), "data": str(tmp_path / "data"), "arm": "mine"},
        "seed": 0,
        "model": {"path": str(tmp_path / "base"), "new": None},
        "objective": {"name": "dpo"},
        "trainer": {},
        "data": {"kind": "world"},
        "pairs": {"method": "correctness", "model": {"path": str(tmp_path / "generator")}},
    }
    script = CONFIGS.parent / "scripts" / "train.py"

    def key() -> str:
        (made,) = make_points(script, [config], [[]], tmp_path / "jobs")
        return made.key

    before = key()
    assert key() == before
    (tmp_path / place / "model.safetensors").write_bytes(b"again")
    assert key() != before
