"""Where checkpoints lie. Apart from what writes them, so that a stage can look without importing transformers."""

from __future__ import annotations

from pathlib import Path


def checkpoint_path(folder: str | Path, step: int) -> Path:
    """Where the checkpoint of a step is kept."""
    return Path(folder) / f"step-{step:08d}"


def working_path(folder: str | Path, step: int) -> Path:
    """Where the checkpoint of a step is written before it is sealed."""
    return Path(folder) / f".step-{step:08d}"


def newest_step(folder: str | Path) -> int | None:
    """The step of the newest checkpoint in a folder, None if it holds none."""
    return max((int(path.name.partition("-")[2]) for path in Path(folder).glob("step-*")), default=None)
