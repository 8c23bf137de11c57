"""Tests sweeps, several processes and SLURM with the scripts: which jobs run or are skipped, and the messages."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.loopback import Loopback
from tests.pipeline.conftest import ENVIRONMENT, ROOT, Run, command

DATA = (
    "+debug=tiny",
    "pairs.audit=false",
    "data.n_train=8",
    "data.n_val=2",
    "data.n_test=2",
    "data.quads_val=1",
    "data.quads_test=1",
)
HANGS = 3600  # seconds; a job that takes longer hangs, even on a busy machine
TRAIN = ("+debug=tiny", "trainer.max_steps=12", "trainer.save_steps=4", "trainer.logging_steps=4", "objective=dpo")


def notes(jobs: Path) -> dict[str, dict[str, Any]]:
    """Return the status.json of each job by the name of the job's folder, without the key at the end of the name."""
    return {path.parent.name[:-9]: json.loads(path.read_text()) for path in sorted(jobs.glob("*/status.json"))}


def kill_once(jobs: Path, name: str) -> threading.Thread:
    """Start a thread that kills the job ``name`` as soon as it runs."""

    def watch() -> None:
        end = time.monotonic() + HANGS
        while time.monotonic() < end:
            for file in jobs.glob(f"{name}-????????/status.json"):
                note = json.loads(file.read_text())
                if note["status"] == "running":
                    os.kill(note["process"], signal.SIGKILL)
                    return
            time.sleep(0.002)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def sweep_with_one_failure_and_one_kill(
    script: Run, name: str, overrides: tuple[str, ...], jobs: Path, blocked: Path, killed: str, points: list[str]
) -> str:
    """Run a sweep in which ``blocked`` (a file where a folder must go) fails and ``killed`` is killed.

    Run the sweep a second time, and return what this second call printed.
    """
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.write_text("in the way")
    killer = kill_once(jobs, killed)
    first = script(name, "-m", *overrides, status=1)
    killer.join()
    actual = {point: note["status"] for point, note in notes(jobs).items()}
    assert sorted(actual) == sorted(points)
    assert actual.pop(killed) == "killed"
    assert sorted(actual.values()) == ["failed"] + ["finished"] * (len(points) - 2)
    assert f"2 of {len(points)} jobs did not finish" in first.stderr and "killed by signal 9" not in first.stdout
    assert f"cannot write {blocked}" in first.stderr  # the tail of the failed job's log
    blocked.unlink()
    again = script(name, "-m", *overrides)
    assert f"already finished or running: {len(points) - 2} of {len(points)}" in again.stdout
    attempts = {point: note["attempt"] for point, note in notes(jobs).items()}
    assert sorted(attempts.values()) == [1] * (len(points) - 2) + [2, 2] and attempts[killed] == 2
    assert {note["status"] for note in notes(jobs).values()} == {"finished"}
    return again.stdout


def test_a_sweep_runs_again_only_what_failed_or_was_killed(tmp_path: Path, script: Run) -> None:
    sizes = (48, 50, 52, 54)
    overrides = (
        *DATA,
        f"run.dir={tmp_path}",
        "run.data=${run.dir}/data-${data.image_size}",
        "launcher=local",
        f"data.image_size={','.join(map(str, sizes))}",
    )
    sweep_with_one_failure_and_one_kill(
        script,
        "generate",
        overrides,
        tmp_path / "jobs",
        tmp_path / "data-52",
        "image_size50",
        [f"image_size{size}" for size in sizes],
    )
    rows = json.loads((tmp_path / "jobs" / "generate.json").read_text())
    assert [row["varied"] for row in rows] == [{"data.image_size": str(size)} for size in sizes]
    assert [row["attempts"] for row in rows] == [1, 2, 2, 1]


@pytest.mark.full
def test_a_sweep_of_training_runs_again_only_what_failed_or_was_killed(tmp_path: Path, script: Run) -> None:
    betas = ("0.05", "0.1", "0.2")
    overrides = (*TRAIN, f"run.dir={tmp_path}", "launcher=local", f"trainer.beta={','.join(betas)}", "seed=0,1")
    points = [f"beta{beta}-seed{seed}" for beta in betas for seed in (0, 1)]
    printed = sweep_with_one_failure_and_one_kill(
        script, "train", overrides, tmp_path / "jobs", tmp_path / "train" / "dpo-beta0.2-seed1", "beta0.1-seed0", points
    )
    rows = json.loads((tmp_path / "jobs" / "train.json").read_text())
    assert len(rows) == 6
    for row in rows:
        metrics = (tmp_path / "train" / row["arm"] / "metrics.jsonl").read_text().splitlines()
        last = json.loads(metrics[-1])
        assert last["step"] == 12
        training = [json.loads(line) for line in metrics if '"loss"' in line]
        assert row["numbers"]["loss"] == training[-1]["loss"]
        assert f"dpo-beta{row['varied']['trainer.beta']}-seed{row['varied']['seed']}" == row["arm"]
    table = (tmp_path / "jobs" / "train.md").read_text()
    assert "| trainer.beta | seed | status |" in table and table.count("finished") == 6
    assert (tmp_path / "jobs" / "train.png").stat().st_size > 5000
    assert "finished" in printed


def test_points_that_would_share_a_folder_are_refused(tmp_path: Path, script: Run) -> None:
    for name, overrides, message in (
        ("generate", ("data.n_train=8,9",), "would both write"),
        ("train", ("data.n_train=8,9", "run.arm='a${data.n_train}'"), "share the data folder"),
        ("train", ("trainer.beta=0.1,0.2", "objective=dpo", "run.arm=mine"), "would both write"),
        ("train", ("trainer.beta=0.1,0.2", "objective=dpo", "launcher.strategy=ddq"), "ddp, fsdp2, zero2, zero3"),
    ):
        refused = script(name, "-m", *DATA, f"run.dir={tmp_path}", "launcher=local", *overrides, status=1)
        assert message in refused.stderr and "Traceback" not in refused.stderr
    assert not (tmp_path / "data").exists() and not (tmp_path / "train").exists()


def test_arms_of_a_sweep_in_this_process_are_named_by_what_varies(tmp_path: Path, script: Run) -> None:
    overrides = (*DATA, f"run.dir={tmp_path}", "trainer.max_steps=1", "objective=dpo", "trainer.beta=0.1,0.2")
    script("train", "-m", *overrides)
    assert {path.name for path in (tmp_path / "train").iterdir()} == {"dpo-beta0.1-seed0", "dpo-beta0.2-seed0"}


# -------------------------------------------------------------------------------------------------------------- shards


def test_shards_ask_each_caption_once_and_give_the_data_of_one_job(tmp_path: Path, script: Run, shared: Path) -> None:
    def answer(prompt: str) -> str:
        words = prompt.rpartition("Input Caption: ")[2].partition("\n")[0].rstrip(".").split()
        return f"1. ...\nFinal Output Caption: {' '.join(words[::-1])}."

    loopback = Loopback(answer=answer)
    overrides = (
        "+debug=tiny",
        "pairs=cot",
        "pairs.audit=false",
        "pairs.refine=null",
        "pairs.engine.model=m",
        f"pairs.engine.base_url={loopback.url}",
        "data.n_train=12",
        "data.n_val=2",
        "data.n_test=2",
        "data.quads_val=1",
        "data.quads_test=1",
        f"pairs.options.pipeline={shared / 'models' / 'en_core_standin'}",
    )
    try:
        script("generate", *overrides, f"run.dir={tmp_path / 'one'}")
        alone = loopback.asked.total()
        many = (*overrides, f"run.dir={tmp_path / 'many'}")
        script("generate", "-m", *many, "shard=0/2,1/2", "launcher=local", "launcher.jobs=2")
        assert loopback.asked.total() == 2 * alone
        assert len(list((tmp_path / "many" / "data" / "train" / "replies").glob("replies-*-of-0002.jsonl"))) == 2
        script("generate", *many)
        assert loopback.asked.total() == 2 * alone  # no request is repeated
    finally:
        loopback.close()
    for split in ("train", "val", "test"):
        pairs = [(tmp_path / run / "data" / split / "pairs.parquet").read_bytes() for run in ("one", "many")]
        assert pairs[0] == pairs[1]


def test_shards_of_an_evaluation_score_as_one_job(tmp_path: Path, script: Run) -> None:
    items = []
    for name, shards in (("one", ()), ("many", ("0/2", "1/2"))):
        overrides = (
            "+debug=tiny",
            "model.path=data/tiny_internvl",
            "model.new=null",
            f"run.dir={tmp_path / name}",
            f"run.data={tmp_path / 'data'}",
            "benchmark=[world_winoground]",
            "limit=40",
        )
        if name == "one":
            script("generate", "+debug=tiny", f"run.dir={tmp_path}", "pairs.audit=false")
        for shard in shards:
            output = script("evaluate", *overrides, f"shard={shard}").stdout
            assert f"shard {shard}: the replies are stored" in output
        done = script("evaluate", *overrides)
        assert "world_winoground" in done.stdout
        folder = tmp_path / name / "evaluation" / "base" / "world_winoground"
        partial = tmp_path / name / "evaluation-limit40" / "base" / "world_winoground"
        items.append([json.loads(line) for line in (partial / "items.jsonl").read_text().splitlines()])
        assert len(list(folder.glob("responses-*.jsonl"))) == len(shards)
    assert items[0] == items[1]


def test_a_shard_that_makes_no_sense_is_refused(tmp_path: Path, script: Run) -> None:
    for shard, message in (("2/2", "i from 0 to n - 1"), ("a", "i from 0 to n - 1"), ("0/2", "uses no model")):
        refused = script("generate", *DATA, f"run.dir={tmp_path}", f"shard={shard}", status=1)
        assert message in refused.stderr and "Traceback" not in refused.stderr


# --------------------------------------------------------------------------------------------------------------- SLURM


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """Return an environment whose sbatch stores submitted jobs and whose sacct reports that the jobs run."""
    tools = tmp_path / "bin"
    tools.mkdir()
    scripts = {
        "sbatch": f'for last; do :; done\ncp "$last" {tmp_path}/submitted.sh\necho Submitted batch job 4711',
        "sacct": "echo 'JobID|State'\necho '4711_0|RUNNING'\necho '4711_1|RUNNING'\necho '4711_2|RUNNING'",
        "srun": "exit 1",
        "scontrol": "exit 1",
    }
    for name, text in scripts.items():
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    assert (tools / "srun").stat().st_mode & stat.S_IXUSR
    return {**ENVIRONMENT, "PATH": f"{tools}:{os.environ['PATH']}"}


def test_slurm_gets_one_array_with_the_resources_asked_for(tmp_path: Path, cluster: dict[str, str]) -> None:
    (tmp_path / "coco").mkdir()
    overrides = (
        "-m",
        "+experiment=molmo_dpo",
        f"data.path={tmp_path / 'coco'}",
        f"run.dir={tmp_path / 'run'}",
        "trainer.beta=0.05,0.1,0.3",
        "launcher=slurm",
        "launcher.partition=gpu",
        "launcher.num_processes=8",
        "launcher.num_machines=2",
        "launcher.minutes=90",
        "launcher.wait=false",
        "launcher.max_parallel=2",
        "launcher.setup=[module load cuda]",
        "launcher.options={mail-type: FAIL}",
    )

    def submit() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command("train", *overrides), cwd=ROOT, env=cluster, capture_output=True, text=True)

    first = submit()
    assert first.returncode == 0, first.stderr
    text = (tmp_path / "submitted.sh").read_text()
    lines = text.splitlines()
    for option in (
        "--partition=gpu",
        "--nodes=2",
        "--ntasks-per-node=1",
        "--gpus-per-node=4",
        "--time=90",
        "--requeue",
        "--array=0-2%2",
        "--signal=USR2@300",
        "--cpus-per-task=8",
        "--mem=64GB",
        "--mail-type=FAIL",
        "--open-mode=append",
    ):
        assert f"#SBATCH {option}" in lines, text
    assert lines.index("module load cuda") < next(n for n, line in enumerate(lines) if line.startswith("srun"))
    jobs = tmp_path / "run" / "jobs"
    assert {note["job"] for note in notes(jobs).values()} == {"4711_0", "4711_1", "4711_2"}
    configs = sorted(jobs.glob("beta*/config.yaml"))
    assert len(configs) == 3 and "arm: dpo-beta0.05-seed0" in configs[0].read_text()
    (tmp_path / "submitted.sh").unlink()
    again = submit()
    assert "already finished or running: 3 of 3" in again.stdout, again.stderr
    assert not (tmp_path / "submitted.sh").exists()


def test_without_slurm_it_says_so(tmp_path: Path, script: Run) -> None:
    refused = script("generate", *DATA, f"run.dir={tmp_path}", "launcher=slurm", status=1)
    assert "srun" in refused.stderr and "Traceback" not in refused.stderr


def test_the_jobs_of_a_cluster_run_through_submitit(tmp_path: Path, script: Run) -> None:
    script("generate", *DATA, f"run.dir={tmp_path}", "launcher=slurm", "launcher.cluster=local")
    (note,) = notes(tmp_path / "jobs").values()
    assert note["status"] == "finished"
    assert json.loads((tmp_path / "data" / "stage.json").read_text())["status"] == "finished"
    log = next((tmp_path / "jobs").glob("generate-*/log.txt")).read_text()
    assert "data, train: 8 images" in log
    again = script("generate", *DATA, f"run.dir={tmp_path}", "launcher=slurm", "launcher.cluster=local")
    assert "already finished or running: 1 of 1" in again.stdout


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + HANGS
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@pytest.mark.full
def test_a_job_that_slurm_warns_saves_and_goes_on(tmp_path: Path, script: Run) -> None:
    """After SIGUSR2 to submitit's process, as sent by SLURM, the job saves, requests to be requeued, and resumes.

    Submitit's local executor starts a requeued job again by itself, as SLURM does.
    """
    import psutil

    overrides = (*TRAIN, "trainer.max_steps=400", "launcher=slurm", "launcher.cluster=local")
    whole = tmp_path / "whole"
    script("train", *TRAIN, "trainer.max_steps=400", f"run.dir={whole}")
    run = tmp_path / "run"
    arm = run / "train" / "dpo-seed0"
    waiting = subprocess.Popen(command("train", *overrides, f"run.dir={run}"), cwd=ROOT, env=ENVIRONMENT)
    wait_until(lambda: any((arm / "checkpoints").glob("step-*")))
    family = psutil.Process(waiting.pid).children(recursive=True)
    (worker,) = [process for process in family if "submitit.core._submit" in process.cmdline()]
    worker.send_signal(signal.SIGUSR2)
    assert waiting.wait(HANGS) == 0
    (note,) = notes(run / "jobs").values()
    assert note["status"] == "finished" and note["attempt"] == 2
    (submitted,) = (run / "jobs" / "submitit").rglob("*_log.out")
    assert submitted.read_text().count("Requeued job") == 1
    (log,) = (run / "jobs").glob("train-*/log.txt")
    assert log.read_text().count("going on from its last checkpoint") == 1
    weights = "train/dpo-seed0/adapter/adapter_model.safetensors"
    assert (run / weights).read_bytes() == (whole / weights).read_bytes()
