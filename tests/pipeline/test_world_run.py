"""The whole job on a tiny world, through the scripts: chained, repeated, killed and resumed."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from .conftest import ENVIRONMENT, ROOT, Run, command

STEPS = 60
TINY = ("+debug=tiny", f"trainer.steps={STEPS}", "trainer.save_every=5", "trainer.log_every=5")


def metrics(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timing = ("seconds", "per_second", "data_fraction")
    return [{k: v for k, v in row.items() if not k.endswith(timing)} for row in rows]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, script: Run) -> Path:
    """A finished run with two arms."""
    run = tmp_path_factory.mktemp("run")
    script("train", "-m", *TINY, f"run.dir={run}", "objective=sft,mpo")
    script("evaluate", *TINY, f"run.dir={run}")
    script("report", *TINY, f"run.dir={run}")
    return run


def test_the_report_compares_every_arm_with_base_and_control(finished: Path) -> None:
    rows = json.loads((finished / "report" / "report.json").read_text())["rows"]
    group = {row["method"]: row for row in rows if (row["benchmark"], row["score"]) == ("world_winoground", "group")}
    assert group.keys() == {"base", "sft", "mpo"}
    assert group["mpo"]["differences"].keys() == {"base", "sft"}
    difference = group["mpo"]["differences"]["base"]
    assert difference["low"] <= difference["difference"] <= difference["high"]
    assert difference["difference"] == pytest.approx(group["mpo"]["value"] - group["base"]["value"])
    assert {row["benchmark"] for row in rows} == {"world_winoground", "world_vqa"}
    report = (finished / "report" / "report.md").read_text()
    assert "| world_winoground | group | mpo |" in report
    for picture in ("training.png", "contact_sheet.png"):
        assert (finished / "report" / picture).stat().st_size > 5000


def test_a_run_folder_says_what_made_it(finished: Path) -> None:
    arm = finished / "train" / "mpo-seed0"
    stage = json.loads((arm / "stage.json").read_text())
    assert stage["config"]["objective"]["weights"] == {"sigmoid": 0.8, "bco_pair": 0.2, "sft": 1.0}
    assert stage["summary"]["steps"] == STEPS
    environment = json.loads((arm / "environment.json").read_text())
    assert environment["packages"]["torch"] and environment["git_commit"]
    assert (arm / "adapter" / "adapter_model.safetensors").exists()


def test_the_same_command_again_reuses_finished_work(finished: Path, script: Run) -> None:
    before = (finished / "train" / "mpo-seed0" / "metrics.jsonl").stat().st_mtime_ns
    again = script("train", *TINY, f"run.dir={finished}", "objective=mpo")
    assert "mpo-seed0: finished already" in again.stdout
    assert (finished / "train" / "mpo-seed0" / "metrics.jsonl").stat().st_mtime_ns == before


def test_another_configuration_is_refused_with_the_keys_that_differ(finished: Path, script: Run) -> None:
    other = script("train", *TINY, f"run.dir={finished}", "objective=mpo", "objective.beta=0.3", status=1)
    assert "objective.beta (0.1 -> 0.3)" in other.stderr
    assert "Traceback" not in other.stderr
    other = script("train", *TINY, f"run.dir={finished}", "data.n_train=30", status=1)
    assert "data.n_train (24 -> 30)" in other.stderr


def test_an_adapter_of_another_base_is_refused(finished: Path, tmp_path: Path, script: Run) -> None:
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "new_model")
    script("train", *TINY, f"run.dir={tmp_path / 'run'}", "objective=dpo", "seed=1", f"run.data={tmp_path / 'data'}")
    refused = script("evaluate", *TINY, f"run.dir={tmp_path / 'run'}", "arms=[mpo-seed0]", status=1)
    assert "was trained on" in refused.stderr and "Traceback" not in refused.stderr


def test_same_seed_same_bytes_and_same_losses(finished: Path, tmp_path: Path, script: Run) -> None:
    script("train", *TINY, f"run.dir={tmp_path}", "objective=mpo")
    for table in ("images", "pairs", "questions"):
        name = f"data/train/{table}.parquet"
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()
    assert metrics(tmp_path / "train" / "mpo-seed0") == metrics(finished / "train" / "mpo-seed0")


def kill_when(process: subprocess.Popen[bytes], condition: Any) -> None:
    while process.poll() is None and not condition():
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_killed_stages_go_on_and_end_with_the_same_losses(finished: Path, tmp_path: Path, script: Run) -> None:
    overrides = (*TINY, f"run.dir={tmp_path}", "objective=mpo")
    arm = tmp_path / "train" / "mpo-seed0"

    def start(name: str, *more: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command(name, *overrides, *more), cwd=ROOT, env=ENVIRONMENT,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    kill_when(start("generate"), lambda: (tmp_path / "data" / "test" / "images.parquet").exists())
    assert json.loads((tmp_path / "data" / "stage.json").read_text())["status"] == "running"
    kill_when(start("train"), lambda: any((arm / "checkpoints").glob("step-*")))
    assert not (arm / "adapter").exists()
    done = script("train", *overrides)
    assert "going on from its last checkpoint" in done.stdout
    assert metrics(arm) == metrics(finished / "train" / "mpo-seed0")
    weights = "adapter/adapter_model.safetensors"
    assert (arm / weights).read_bytes() == (finished / "train" / "mpo-seed0" / weights).read_bytes()

    answered = tmp_path / "evaluation" / "base" / "world_winoground" / "responses.jsonl"
    kill_when(start("evaluate"), lambda: answered.exists() and answered.stat().st_size > 0)
    script("evaluate", *overrides)
    items = "evaluation/mpo-seed0/world_winoground/items.jsonl"
    assert (tmp_path / items).read_text() == (finished / items).read_text()
    keys = [json.loads(line)["key"] for line in answered.read_text().splitlines()]
    assert len(keys) == len(set(keys))


def interrupted(overrides: tuple[str, ...], when: Any, number: signal.Signals) -> subprocess.CompletedProcess[str]:
    """Train until ``when()``, then send a signal."""
    process = subprocess.Popen(
        command("train", *overrides), cwd=ROOT, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    while process.poll() is None and not when():
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def test_asked_to_stop_it_saves_and_goes_on_even_where_the_last_checkpoint_is_cut(
    finished: Path, tmp_path: Path, script: Run
) -> None:
    overrides = (*TINY, f"run.dir={tmp_path}", "objective=mpo")
    shutil.copytree(finished / "data", tmp_path / "data")
    shutil.copytree(finished / "new_model", tmp_path / "new_model")
    arm = tmp_path / "train" / "mpo-seed0"
    stopped = interrupted(overrides, lambda: (arm / "checkpoints" / "step-00000005").exists(), signal.SIGUSR1)
    last = max((arm / "checkpoints").glob("step-*"))
    assert stopped.returncode == 75 and "Traceback" not in stopped.stderr
    assert f"stopped by SIGUSR1: saved at step {int(last.name[5:])} of {STEPS}" in stopped.stderr
    assert json.loads((arm / "stage.json").read_text())["status"] == "running"
    weights = last / "weights" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    done = script("train", *overrides)
    assert f"checkpoint {last} is damaged" in done.stderr and "going back to the one before it" in done.stderr
    assert metrics(arm) == metrics(finished / "train" / "mpo-seed0")
    name = "adapter/adapter_model.safetensors"
    assert (arm / name).read_bytes() == (finished / "train" / "mpo-seed0" / name).read_bytes()


@pytest.mark.full
def test_every_way_to_end_early_gives_the_uninterrupted_losses(finished: Path, tmp_path: Path, script: Run) -> None:
    """SIGTERM before training, a full disk, SIGKILL and SIGTERM in training, one after the other on one run."""
    overrides = (*TINY, f"run.dir={tmp_path}", "objective=mpo")
    arm = tmp_path / "train" / "mpo-seed0"
    checkpoints = arm / "checkpoints"

    early = interrupted(overrides, (tmp_path / "data" / "train" / "images.parquet").exists, signal.SIGTERM)
    assert early.returncode == 75 and "stopped by SIGTERM" in early.stderr

    limit = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000)); "
    limit += "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    script("generate", *overrides)
    shutil.copytree(finished / "new_model", tmp_path / "new_model", dirs_exist_ok=True)
    full = subprocess.run(
        [sys.executable, "-c", limit, *command("train", *overrides)[1:]], cwd=ROOT, env=ENVIRONMENT,
        capture_output=True, text=True,
    )  # fmt: skip
    assert full.returncode == 1 and "Traceback" not in full.stderr
    assert "cannot write checkpoint" in full.stderr
    assert not list(checkpoints.glob("step-*")) and not list(checkpoints.glob(".step-*"))

    killed = interrupted(overrides, lambda: any(checkpoints.glob("step-*")), signal.SIGKILL)
    assert killed.returncode == -9
    step = max(checkpoints.glob("step-*"))
    stopped = interrupted(overrides, lambda: max(checkpoints.glob("step-*")) > step, signal.SIGTERM)
    assert stopped.returncode == 75
    script("train", *overrides)
    assert metrics(arm) == metrics(finished / "train" / "mpo-seed0")


def test_two_processes_share_one_run_folder_and_give_the_losses_of_one(tmp_path: Path, script: Run) -> None:
    """Four examples a step either way: two micro-batches of two on one process, or one on each of two."""
    short = (*TINY, "trainer.steps=6", "objective=mpo")
    script("train", *short, f"run.dir={tmp_path / 'one'}")
    script("train", *short, f"run.dir={tmp_path / 'two'}", "launcher=accelerate", "launcher.num_processes=2")
    (job,) = (tmp_path / "two" / "jobs").iterdir()
    assert json.loads((job / "status.json").read_text())["status"] == "finished"
    assert [path.name for path in (tmp_path / "two" / "train").iterdir()] == ["mpo-seed0"]
    assert (tmp_path / "two" / "train" / "mpo-seed0" / "checkpoints" / "step-00000005" / "log-1.json").exists()
    one, two = (metrics(tmp_path / name / "train" / "mpo-seed0") for name in ("one", "two"))
    assert [row["step"] for row in one] == [row["step"] for row in two]
    for a, b in zip(one, two, strict=True):
        for key in {"loss", "delta", "rewards/margins"} & a.keys():
            assert b[key] == pytest.approx(a[key], abs=1e-5)
