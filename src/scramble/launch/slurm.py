"""Runs jobs on a SLURM cluster with submitit, as a job array. A job is requeued shortly before its time limit.

This module uses submitit directly instead of Hydra's submitit launcher, because Hydra's launcher

- waits on the login node,
- stops at the first failed job without reporting on the remaining jobs,
- does not skip finished jobs,
- runs one process per task.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scramble.launch.command import job_command
from scramble.launch.points import LOG_FILE, STATUS_FILE, LaunchError, Point, status
from scramble.launch.pool import send_stop_signal
from scramble.storage.files import write_json

POLL_SECONDS = 10.0
GRACE_SECONDS = 600.0  # time to finish a step and write its checkpoint after SLURM's warning


class Job:
    """Runs the command of a job on each machine. Submitit calls ``checkpoint`` on SLURM's warning signal."""

    def __init__(self, point: Point, launcher: Mapping[str, Any]) -> None:
        self.point, self.launcher = point, dict(launcher)
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> None:
        import submitit

        environment = submitit.JobEnvironment()
        command = job_command(self.point, self.launcher, machine=environment.node, address=environment.hostnames[0])
        log = self.point.folder / (LOG_FILE if environment.node == 0 else f"log-{environment.node}.txt")
        with log.open("ab") as file:
            self._process = subprocess.Popen(command, stdout=file, stderr=file, stdin=subprocess.DEVNULL)
        while (code := self._process.poll()) is None:
            time.sleep(0.5)
        if code:
            raise RuntimeError(f"{self.point.label} ended with exit status {code}: see {log}")

    def checkpoint(self) -> Any:
        """Make the job save and stop, and let submitit requeue the same command, which then resumes the job."""
        import submitit

        if self._process is not None:
            send_stop_signal(self._process)
            if not _ends_within(self._process.pid, GRACE_SECONDS):
                self._process.kill()  # the requeued job resumes from an earlier checkpoint
        return submitit.helpers.DelayedSubmission(Job(self.point, self.launcher))


def _ends_within(pid: int, seconds: float) -> bool:
    """Return whether a child process ends within ``seconds``.

    ``Popen.wait`` would deadlock in a signal handler that interrupts another ``wait``.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return True
        except ChildProcessError:
            return True
        time.sleep(0.1)
    return False


def submit(points: Sequence[Point], launcher: Mapping[str, Any], folder: Path) -> list[Any]:
    """Submit the points as one job array, record each job in its point's folder, and return submitit's jobs.

    Args:
        points: the jobs, whose configurations must be on disk.
        launcher: see ``configs/launcher/slurm.yaml``.
        folder: folder for submitit's files.

    Raises:
        LaunchError: SLURM is not available or rejects the jobs.
    """
    try:
        import submitit
    except ImportError as error:
        raise LaunchError("launcher=slurm needs submitit: run `pip install 'scramble[cluster]'`") from error
    machines, processes = launcher["num_machines"], launcher["num_processes"] or 1
    try:
        executor = submitit.AutoExecutor(
            folder=folder / "%j",
            cluster=launcher["cluster"],
            **{f"{launcher['cluster']}_max_num_timeout": launcher["max_requeues"]},
        )
        executor.update_parameters(
            name=f"scramble-{points[0].script.stem}",
            timeout_min=launcher["minutes"],
            nodes=machines,
            tasks_per_node=1,
            gpus_per_node=launcher["gpus_per_node"] if launcher["gpus_per_node"] is not None else processes // machines,
            cpus_per_task=launcher["cpus_per_machine"],
            mem_gb=launcher["gb_per_machine"],
            **({"slurm_" + k: v for k, v in _slurm_only(launcher).items()}),
        )
        with executor.batch():
            jobs = [executor.submit(Job(point, launcher)) for point in points]
    except (RuntimeError, AssertionError, NameError, OSError) as error:
        raise LaunchError(
            f"launcher.cluster={launcher['cluster']}: the jobs cannot be submitted ({error}): correct the settings of "
            "the launcher, or set launcher=local"
        ) from error
    for point, job in zip(points, jobs, strict=True):
        write_json(point.folder / STATUS_FILE, {"status": "submitted", "job": str(job.job_id)})
    return jobs


def _slurm_only(launcher: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that exist only on SLURM. The cluster's defaults apply to options without a value."""
    names = ("partition", "account", "qos", "constraint", "setup")
    options = {name: launcher[name] for name in names if launcher.get(name) is not None}
    options |= {"signal_delay_s": launcher["warn_seconds"], "additional_parameters": dict(launcher["options"] or {})}
    options["additional_parameters"].setdefault("requeue", True)
    if launcher["max_parallel"] is not None:
        options["array_parallelism"] = launcher["max_parallel"]
    return options


def is_queued_or_running(point: Point, folder: Path, cluster: str) -> bool:
    """Return whether SLURM reports that a job submitted earlier for this point is queued or running."""
    record = status(point)
    if cluster != "slurm" or record["status"] not in ("submitted", "running", "stopped") or "job" not in record:
        return False
    import submitit

    return not submitit.SlurmJob(folder / "%j", record["job"]).done()


def wait_for_jobs(jobs: Sequence[Any], ended: Callable[[int], None], *, slurm: bool) -> None:
    """Wait until all jobs have ended, and call ``ended`` with the number of each job when it ends."""
    waiting = dict(enumerate(jobs))
    pause = POLL_SECONDS if slurm else 0.2
    while waiting:
        for number, job in list(waiting.items()):
            if job.done():
                del waiting[number]
                ended(number)
        if waiting:
            time.sleep(pause)
