"""Tests the live view: the files that it reads from a run folder, and its display with and without a terminal."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from scramble.pipeline.watch import watch
from scramble.reporting.watch import duration, frame, log_lines, read_progress, sparkline
from scramble.storage.files import write_json
from scramble.storage.locks import locked

ROOT = Path(__file__).resolve().parents[2]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def arm(run: Path, name: str, status: str, steps: int, trainer: dict[str, Any]) -> Path:
    """Write the files of an arm that logged every second step and one evaluation. Each step took half a second."""
    folder = run / "train" / name
    write_json(folder / "stage.json", {"status": status, "config": {"objective": {"name": "mpo"}, "trainer": trainer}})
    rows = [
        {
            "step": step,
            "epoch": step / 10,
            "loss": 1 / step,
            "seconds": 1.0,
            "rewards/margins": step / 100,
            "logps/chosen": -6 - step / 10,
            "pairs_per_second": 16.0,
            "memory/resident_gib": 1.25,
        }
        for step in range(2, steps + 1, 2)
    ]
    write_rows(folder / "metrics.jsonl", [*rows, {"step": steps, "eval_loss": 0.75}])
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return the run folder of a sweep with a running, a finished and a failed arm, and a job in a queue."""
    run = tmp_path / "mine"
    folder = arm(run, "mpo-seed0", "running", 20, {"max_steps": -1, "num_train_epochs": 4})
    write_rows(
        folder / "warnings.jsonl",
        [{"step": 8, "warning": "saturated margins", "margin": 6, "text": "train shorter"}],
    )
    arm(run, "dpo-seed0", "finished", 40, {"max_steps": 40})
    arm(run, "sft-seed0", "running", 6, {"max_steps": 40})
    for number, (name, record) in enumerate(
        {
            "mpo-seed0": {"status": "running"},
            "sft-seed0": {"status": "failed", "error": "loss is NaN"},
            "kto-seed0": {"status": "submitted", "job": "17"},
        }.items()
    ):
        job = run / "jobs" / f"point{number}"
        write_json(job / "config.yaml", {"run": {"arm": name}, "show_batch": 0})  # JSON is YAML
        write_json(job / "status.json", record)
    evaluation = run / "jobs" / "evaluate"  # a job of another script
    write_json(evaluation / "config.yaml", {"run": {"arm": "base"}, "limit": None})
    (run / "log.txt").write_text(
        "2026-11-27 20:36:37,064 DEBUG scramble.app: scripts/train.py\n"
        "2026-11-27 20:36:48,570 INFO scramble.training.callbacks: mpo-seed0: step 20 of 40\n"
    )
    return run


def test_what_is_read(run: Path) -> None:
    arms = {progress.name: progress for progress in read_progress(run)}
    assert {name: progress.status for name, progress in arms.items()} == {
        "dpo-seed0": "finished",
        "mpo-seed0": "running",
        "sft-seed0": "failed",
        "kto-seed0": "submitted",
    }
    mpo = arms["mpo-seed0"]
    # By hand: 20 steps are 2 of 4 epochs; the remaining 20 steps take half a second each.
    assert (mpo.step, mpo.total, mpo.seconds_left()) == (20, 40, 10.0)
    assert mpo.last("loss") == 0.05 and mpo.evaluation["eval_loss"] == 0.75
    assert mpo.warnings == ["step 8: saturated margins: train shorter"]
    assert arms["sft-seed0"].error == "loss is NaN" and arms["sft-seed0"].seconds_left() is None
    assert arms["dpo-seed0"].total == 40
    assert log_lines(run) == ["mpo-seed0: step 20 of 40"]


def test_an_arm_without_news_is_not_active_for_ever(run: Path) -> None:
    hours_ago = time.time() - 7200
    for file in (run / "train" / "mpo-seed0").iterdir():
        os.utime(file, (hours_ago, hours_ago))
    (mpo,) = (progress for progress in read_progress(run) if progress.name == "mpo-seed0")
    assert not mpo.is_active and mpo.status == "running"


def test_a_stopped_or_killed_arm_is_not_running(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A killed process cannot write its status, but its lock is released."""
    for name, status in (("a", "running"), ("b", "running"), ("c", "stopped")):
        folder = arm(tmp_path, name, status, 20, {"max_steps": 40})
        with locked(folder):
            pass
    with locked(tmp_path / "train" / "a"):
        arms = {progress.name: progress for progress in read_progress(tmp_path)}
        assert [progress.status for progress in arms.values()] == ["running", "killed", "stopped"]
        assert [progress.is_active for progress in arms.values()] == [True, False, False]
        watch(tmp_path, once=True)
    shown = capsys.readouterr().out
    assert "b: killed; to resume, repeat the training command" in shown and "c: stopped; to resume" in shown


def test_the_script_prints_one_frame_without_a_terminal(run: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "watch.py"), f"run.dir={run}"]
    before = sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*"))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = {words[0]: words for line in done.stdout.splitlines() if (words := line.split())}
    assert " ".join(done.stdout.split()).startswith(f"{run}: 1 finished, 1 running, 1 failed, 1 submitted")
    assert lines["mpo-seed0"][1] == "running"
    # By hand: the 10 rows have -6.2, -6.4, ..., -8.0. The mean of the last 5 is -7.6, that of the first 5 is -6.6.
    for value in ("20/40", "10 s", "0.050", "0.20", "-7.60 (-1.00)", "16.0", "1.2 GiB"):
        assert value in " ".join(lines["mpo-seed0"]), value
    assert "warning, mpo-seed0: step 8: saturated margins: train shorter" in done.stdout
    assert "error, sft-seed0: loss is NaN" in done.stdout
    assert sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*")) == before  # nothing was written
    missing = subprocess.run([*command[:2], f"run.dir={run}s"], cwd=ROOT, capture_output=True, text=True)
    assert missing.returncode == 1 and missing.stderr.startswith(f"error: there is no run {run}s; did you mean")
    (run.parent / "short" / f"{run.name}s" / "train").mkdir(parents=True)
    missing = subprocess.run([*command[:2], f"run.dir={run}s"], cwd=ROOT, capture_output=True, text=True)
    assert missing.stderr.strip().endswith(
        f"there is no run {run}s, but there is {run.parent}/short/{run.name}s: add +debug=short"
    )


@pytest.mark.parametrize("end", ["finished", "Ctrl-C"])
def test_the_live_view_ends_with_the_run_or_a_signal(
    run: Path, end: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wait(seconds: float) -> None:
        assert seconds == 0.5
        if end == "Ctrl-C":
            raise KeyboardInterrupt
        for record in run.glob("jobs/*/status.json"):
            write_json(record, {"status": "finished"})
        arm(run, "mpo-seed0", "finished", 40, {"max_steps": 40})

    monkeypatch.setattr(time, "sleep", wait)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    watch(run, seconds=0.5)
    printed = capsys.readouterr().out
    rows = re.findall(r"mpo-seed0 +(\w+) .*?(\d+/\d+)", re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", printed))
    assert rows[0] == ("running", "20/40")
    assert rows[-1] == (("finished", "40/40") if end == "finished" else rows[0])


def test_a_run_of_one_arm_shows_its_curves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arm(tmp_path, "mpo-seed0", "finished", 40, {"max_steps": 40})
    watch(tmp_path)
    assert "log-probability of chosen" in capsys.readouterr().out
    watch(tmp_path / "data")  # a folder without arms
    assert "nothing has been trained yet" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, ""), (45.4, "45 s"), (600, "10 min"), (5399, "1 h 30 min"), (11100, "3 h 05 min")]
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_sparklines() -> None:
    assert sparkline([0, 7], 12) == "▁█"
    assert sparkline([0, 0, 7, 7], 2) == "▁█"  # means of two parts
    assert sparkline([3, 3, float("nan")], 12) == "▁▁"
    assert sparkline([float("inf")], 12) == ""


@pytest.mark.parametrize(
    ("file", "content", "status", "error"),
    [
        (
            "metrics.jsonl",
            b'{"step": 1, "loss": 1}\n\xff{{\n{"step": 2, "loss": 1}\n',
            "unreadable",
            "line 2: the line is not JSON",
        ),
        ("metrics.jsonl", b'{"loss": 2}\n{"step": null, "loss": 3, "seconds": null}\n{"st', "running", ""),
        ("metrics.jsonl", b'{"step": 1, "loss": NaN, "seconds": Infinity}\n', "running", ""),
        ("metrics.jsonl", b'{"step": 1, "loss": 1}\n[1]\n', "unreadable", "line 2: the line must be a JSON object"),
        ("stage.json", b'{"status": "run', "unreadable", "cannot read .*stage.json"),
        ("stage.json", b'{"status": "running", "config": null}', "unreadable", "stage.json has unexpected contents"),
        ("warnings.jsonl", b'{"step": 1}\n', "running", ""),
    ],
)
def test_a_damaged_file_of_one_arm_does_not_hide_the_others(
    file: str, content: bytes, status: str, error: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "train" / "mpo-seed0" / file).write_bytes(content)
    for name, config in (("a", ""), ("b", "- 1"), ("c", "show_batch: 0"), ("d", "run: {arm: e}\nshow_batch: 0")):
        write_json(run / "jobs" / name / "status.json", {})
        (run / "jobs" / name / "config.yaml").write_text(config)
    (run / "log.txt").write_bytes(b"\xff 1 INFO a: \x1b[2J[/bold]\n")
    arms = {progress.name: progress for progress in read_progress(run)}
    assert arms["mpo-seed0"].status == status and re.search(error, arms["mpo-seed0"].error)
    assert (arms["dpo-seed0"].status, arms["e"].status) == ("finished", "new")
    watch(run, once=True)
    shown = capsys.readouterr().out
    assert "dpo-seed0" in shown and "\x1b[2J" not in shown


def test_a_narrow_terminal_and_one_that_is_not_utf_8(run: Path) -> None:
    arm(run, "dpo-beta0.1-learning_rate5e-6-ä-seed1", "running", 6, {"max_steps": 40})
    written = io.StringIO()
    Console(width=40, file=written).print(frame(run, read_progress(run), 40))
    lines = written.getvalue().splitlines()
    assert max(map(len, lines)) <= 40 and any(line.split() == ["mpo-seed0", "running", "20/40"] for line in lines)
    command = [sys.executable, "scripts/watch.py", f"run.dir={run}", "once=true"]
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    made = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=60)
    assert made.returncode == 0 and b"mpo-seed0" in made.stdout and not made.stderr
