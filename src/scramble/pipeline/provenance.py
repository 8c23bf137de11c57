"""Records the environment of a run: package versions, git commit, hardware."""

from __future__ import annotations

import logging
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scramble.project import ROOT
from scramble.storage.files import write_text

log = logging.getLogger(__name__)

COMMAND = "SCRAMBLE_COMMAND"
"""Environment variable with the command that the user entered; the jobs of a launcher inherit it."""
COMMAND_FILE = "command.txt"
"""File in the folder of a finished stage, which contains the command that produced the stage's result."""


def command_of(folder: Path) -> str | None:
    """Return the command that made the result of a stage, or None if the result was made from Python."""
    file = folder / COMMAND_FILE
    return file.read_text(encoding="utf-8").strip() if file.is_file() else None


def write_command(folder: Path) -> None:
    """Write the command to a stage's folder, unless the stage was called from Python.

    The command is not stored in ``stage.json``, because the hash of ``stage.json`` identifies a data set, and different
    commands with the same settings make the same data.
    """
    if COMMAND in os.environ:
        write_text(folder / COMMAND_FILE, os.environ[COMMAND] + "\n")


def remember_command(argv: Sequence[str]) -> None:
    """Keep a script's command line, without access tokens, for stage records and for model and data set cards."""
    words = ["python", f"scripts/{Path(argv[0]).name}", *argv[1:]]
    os.environ[COMMAND] = re.sub(r"(hub_token=)\S+", r"\1...", shlex.join(words))


def slow_threads(load: float, cores: int, environ: Mapping[str, str]) -> str | None:
    """Return a hint if other processes keep the cores busy, else None. torch starts one thread per core. On a busy
    machine the threads wait for each other, and a step can take several times as long as with a single thread.

    Args:
        load: the machine's load average; see :func:`os.getloadavg`.
        cores: number of cores of the machine.
        environ: environment variables; if they set the number of threads, None is returned.
    """
    if cores < 2 or load < cores or "OMP_NUM_THREADS" in environ:
        return None
    return (
        f"this machine is busy (load {load:.1f} on {cores} cores): if other work keeps running, "
        "OMP_NUM_THREADS=1 in front of the command can make the command several times faster"
    )


def log_slow_threads() -> None:
    """Log the hint of :func:`slow_threads` on a machine without a GPU."""
    if hasattr(os, "getloadavg") and not _gpus():
        hint = slow_threads(os.getloadavg()[0], os.cpu_count() or 1, os.environ)
        if hint is not None:
            log.info(hint)


def environment() -> dict[str, Any]:
    """Return the package versions, git commit and hardware."""
    import importlib.metadata
    import platform

    names = (
        "scramble",
        "torch",
        "transformers",
        "trl",
        "peft",
        "accelerate",
        "datasets",
        "spacy",
        "hydra-core",
        "wandb",
    )
    versions = {name: importlib.metadata.version(name) for name in names}
    commit, changed = (_git(*words) for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "-uno")))
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "gpus": _gpus(),
        "packages": versions,
        "git_commit": commit or None,
        "git_dirty": None if changed is None else bool(changed),
    }


def _gpus() -> list[str]:
    # Importing torch takes seconds, and without a driver (NVIDIA, AMD, Windows Subsystem for Linux) torch would find no
    # GPU.
    if not any(Path("/dev", driver).exists() for driver in ("nvidiactl", "kfd", "dxg")):
        return []
    import torch

    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


def _git(*words: str) -> str | None:
    """Return the output of a git command in the project's folder, or None without git or outside a repository."""
    import subprocess

    try:
        process = subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return process.stdout.strip() if process.returncode == 0 else None
