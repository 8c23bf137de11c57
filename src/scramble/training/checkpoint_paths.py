"""Defines the paths of checkpoints. A stage can look up these paths without importing transformers."""

from __future__ import annotations

from pathlib import Path


def checkpoint_path(folder: str | Path, step: int) -> Path:
    """Return the folder of the checkpoint of a step."""
    return Path(folder) / f"step-{step:08d}"


def working_path(folder: str | Path, step: int) -> Path:
    """Return the folder that contains the checkpoint of a step until the checkpoint is complete."""
    return Path(folder) / f".step-{step:08d}"


def newest_step(folder: str | Path) -> int | None:
    """Return the step of the newest checkpoint in a folder, or None if there is no checkpoint."""
    return max((int(path.name.partition("-")[2]) for path in Path(folder).glob("step-*")), default=None)
