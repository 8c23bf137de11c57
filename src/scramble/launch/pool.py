"""Jobs on this machine: a bounded number at a time, each in processes of its own."""

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
    """A command, the file that takes what it prints (None: this terminal), and what to add to its environment."""

    command: Sequence[str]
    log: Path | None
    environment: Mapping[str, str]


def run_pool(
    tasks: Sequence[Task], jobs: int, devices: Sequence[Sequence[str]] | None, ended: Callable[[int, int], None]
) -> None:
    """Run tasks, at most ``jobs`` at a time, in order.

    Args:
        tasks: what to run.
        jobs: how many at a time.
        devices: for each place in the pool the GPUs that its tasks see; None shows all to all.
        ended: told (task number, exit status) of each task that ends; negative: killed by that signal.

    When this process is asked to stop, so are the running tasks; it waits until they have saved, and goes. A second
    Ctrl-C ends them at once.
    """
    waiting = list(range(len(tasks)))[::-1]
    running: dict[int, tuple[int, subprocess.Popen[bytes]]] = {}  # place -> task number, process
    try:
        with interrupt.keeping(lambda: "the jobs have saved; the same command runs what is not finished"):
            while waiting or running:
                for place in range(jobs):
                    if place not in running and waiting:
                        number = waiting.pop()
                        seen = {"CUDA_VISIBLE_DEVICES": ",".join(devices[place])} if devices else {}
                        running[place] = (number, start(tasks[number], seen))
                time.sleep(POLL_SECONDS)
                for place, (number, process) in list(running.items()):
                    if process.poll() is not None:
                        del running[place]
                        ended(number, process.returncode)
    finally:
        _stop([process for _, process in running.values()])


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask processes to save and end, and wait for them; a second Ctrl-C kills them."""
    for process in processes:
        ask_to_stop(process)
    try:
        for process in processes:
            process.wait()
    except interrupt.Stopped:
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        raise interrupt.Stopped(
            "stopped at once by a second Ctrl-C: what the running jobs did since their last checkpoints is lost; the "
            "same command runs what is not finished",
            interrupt.EXIT_AT_ONCE,
        ) from None


def start(task: Task, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a task in a session of its own, so that a Ctrl-C here does not cut it off while it saves."""
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
            env={**os.environ, **task.environment, **environment},
        )


def ask_to_stop(process: subprocess.Popen[bytes]) -> None:
    """Ask a job to save and end: its own processes, where a launcher stands between, which would give them 30 s."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return
    ranked = {child.pid for child in family if "LOCAL_RANK" in _environment(child)}
    workers = [child for child in family if child.pid in ranked and child.ppid() not in ranked]
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
