"""Tests a run of many tiny steps: memory, open files and logs do not grow more than expected."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.pipeline.conftest import ENVIRONMENT, ROOT, Run, command

STEPS, SETTLED = 20_000, 2_000


def middle(samples: list[tuple[int, int, int]]) -> tuple[int, int]:
    """Return the median resident memory in bytes and the median number of open files."""
    return tuple(sorted(column)[len(samples) // 2] for column in list(zip(*samples, strict=True))[1:])


@pytest.mark.full
def test_twenty_thousand_steps_leave_memory_and_files_as_they_were(tmp_path: Path, script: Run) -> None:
    overrides = (
        "+debug=tiny",
        "objective=mpo",
        f"run.dir={tmp_path}",
        f"trainer.max_steps={STEPS}",
        "trainer.save_total_limit=2",
        "trainer.global_batch_size=1",
        "trainer.per_device_train_batch_size=1",
        "trainer.logging_steps=50",
        "trainer.save_steps=500",
        "trainer.eval_steps=2000",
        "trainer.learning_rate=1e-6",
    )
    script("generate", *overrides)
    arm = tmp_path / "train" / "mpo-seed0"
    metrics, samples = arm / "metrics.jsonl", []
    process = subprocess.Popen(
        command("train", *overrides), cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            step = json.loads(metrics.read_text().rpartition("\n")[0].rpartition("\n")[2])["step"]
            samples.append((step, watched.memory_info().rss, watched.num_fds()))
        except (OSError, ValueError, psutil.Error):
            pass
        time.sleep(1)
    assert process.returncode == 0
    settled = [sample for sample in samples if sample[0] >= SETTLED]
    assert settled[0][0] < SETTLED + 1500 and settled[-1][0] > STEPS - 1000
    # Medians of samples at the start and end, because a single sample may coincide with a checkpoint or the exit.
    (rss, files), (last_rss, last_files) = (middle(settled[:9]), middle(settled[-9:]))
    print(
        f"at step {settled[0][0]} {rss / 2**20:.1f} MiB, {files} files; at the end {last_rss / 2**20:.1f}, {last_files}"
    )
    assert last_rss < 1.01 * rss
    assert abs(last_files - files) <= 1
    assert max(count for _, _, count in settled) <= files + 3  # a checkpoint or a log row being written
    rows = metrics.read_text().splitlines()
    assert len(rows) < STEPS / 50 + 2 * (STEPS / 2000) + 10
    assert metrics.stat().st_size < 1200 * len(rows)
    assert len(list((arm / "checkpoints").glob("step-*"))) == 2
    assert not list((arm / "checkpoints").glob(".step-*"))
