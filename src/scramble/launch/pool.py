"""Runs jobs on the local machine in separate processes, and limits the number of jobs that run at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from scramble import interrupt

POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Task:
    """Describes a command, and the log file for its output (None means the terminal)."""

    command: Sequence[str]
    log: Path | None


def run_pool(
    tasks: Sequence[Task], jobs: int, devices: Sequence[Sequence[str]] | None, ended: Callable[[int, int], None]
) -> None:
    """Start tasks in order, and run at most ``jobs`` tasks at a time.

    Args:
        tasks: tasks to run.
        jobs: maximum number of tasks at a time.
        devices: the visible GPUs for each slot of the pool; None makes all GPUs visible to all tasks.
        ended: called with (task number, exit status) when a task ends. If a signal killed the task, the status is the
            negative number of the signal.

    If the calling process receives a stop signal, it stops the running tasks and waits until the tasks have saved. A
    second Ctrl-C kills the tasks immediately.
    """
    waiting = list(range(len(tasks)))[::-1]
    running: dict[int, tuple[int, subprocess.Popen[bytes]]] = {}  # slot -> task number, process
    try:
        with interrupt.resumable(lambda: "the jobs have saved their work; the same command runs the unfinished jobs"):
            while waiting or running:
                for slot in range(jobs):
                    if slot not in running and waiting:
                        number = waiting.pop()
                        visible = {"CUDA_VISIBLE_DEVICES": ",".join(devices[slot])} if devices else {}
                        running[slot] = (number, start(tasks[number], visible))
                time.sleep(POLL_SECONDS)
                for slot, (number, process) in list(running.items()):
                    if process.poll() is not None:
                        del running[slot]
                        ended(number, process.returncode)
    finally:
        _stop([process for _, process in running.values()])


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Make processes save and stop, and wait until they have ended. A second Ctrl-C kills the processes."""
    for process in processes:
        send_stop_signal(process)
    try:
        for process in processes:
            process.wait()
    except interrupt.Stopped:
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        raise interrupt.Stopped(
            "stopped immediately by a second Ctrl-C: the jobs' work since their last checkpoints is lost; the same "
            "command runs the unfinished jobs",
            interrupt.EXIT_AT_ONCE,
        ) from None


def start(task: Task, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a task in a new session, so that a Ctrl-C in the terminal does not interrupt the task while it saves."""
    with ExitStack() as stack:
        log = None
        if task.log is not None:
            task.log.parent.mkdir(parents=True, exist_ok=True)
            log = stack.enter_context(task.log.open("ab"))
        return subprocess.Popen(
            list(task.command),
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, **environment},
        )


def send_stop_signal(process: subprocess.Popen[bytes]) -> None:
    """Send SIGTERM to the training processes of a job, so that they save and stop.

    The signal is sent to the processes that have a rank and not to their parent, ``accelerate launch``, which would
    kill its children after 30 s. If no process has a rank, the signal is sent to the job's own process.
    """
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return
    ranked = {child.pid for child in children if "LOCAL_RANK" in _environment(child)}
    workers = [child for child in children if child.pid in ranked and child.ppid() not in ranked]
    for worker in workers:
        _signal(worker.pid)
    if not workers:
        _signal(process.pid)


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def _signal(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
