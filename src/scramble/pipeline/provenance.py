"""What a run was made with: versions of packages, git commit, hardware."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from scramble.project import ROOT


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
