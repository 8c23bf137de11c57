"""What a run was made with: versions of packages, git commit, hardware."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scramble.project import ROOT

log = logging.getLogger(__name__)


def slow_threads(load: float, cores: int, environ: Mapping[str, str]) -> str | None:
    """A hint where other work keeps the cores busy and torch would start a thread on each: its threads wait for each
    other, which can make a step several times slower than one thread does it.

    Args:
        load: the machine's load average, see :func:`os.getloadavg`.
        cores: those of the machine.
        environ: environment variables; a number of threads that is set there is the user's choice.
    """
    if cores < 2 or load < cores or "OMP_NUM_THREADS" in environ:
        return None
    return (
        f"this machine is busy (load {load:.1f} on {cores} cores): if other work keeps running, "
        "OMP_NUM_THREADS=1 in front of the command can make it several times faster"
    )


def log_slow_threads() -> None:
    """Log :func:`slow_threads` of this machine; a GPU does the work elsewhere."""
    if hasattr(os, "getloadavg") and not _gpus():
        hint = slow_threads(os.getloadavg()[0], os.cpu_count() or 1, os.environ)
        if hint is not None:
            log.info(hint)


def environment() -> dict[str, Any]:
    """Versions, git commit and hardware, for the run folder."""
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
    root = ROOT
    commit, changed = (_git(root, *words) for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "-uno")))
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
    # torch takes seconds to import; without a driver (NVIDIA's, AMD's, Windows Subsystem's) it would find nothing.
    if not any(Path("/dev", driver).exists() for driver in ("nvidiactl", "kfd", "dxg")):
        return []
    import torch

    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


def _git(root: Path, *words: str) -> str | None:
    """What git says of the project's folder; None without git, or outside a repository."""
    import subprocess

    try:
        done = subprocess.run(["git", "-C", root, *words], capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
