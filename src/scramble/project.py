"""Defines the paths of files that ship with the project."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_CLONE = Path(__file__).resolve().parents[2]
ROOT = _CLONE if (_CLONE / "configs" / "base.yaml").is_file() else Path(__file__).resolve().parent / "shipped"
"""Folder with ``configs``, ``scripts`` and ``data``: the clone, or the package data of a wheel (see setup.py)."""
CONFIGS = ROOT / "configs"
SCRIPTS = ROOT / "scripts"


def choices_of(group: str) -> list[str]:
    """Return the names of the files in a configuration group, except base files (``_...``), which other files
    include.
    """
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml") if not path.stem.startswith("_"))


def shipped(path: str) -> str:
    """Return the project's path for a path below ``data/`` that exists in the project but not in the working directory.

    All other paths are returned unchanged. The configurations contain paths below ``data/`` for the model and the
    example that ship with the project, and scripts may be started in any directory.
    """
    is_shipped = path.startswith("data/") and not Path(path).exists() and (ROOT / path).exists()
    return str(ROOT / path) if is_shipped else path


def shipped_values(value: Any) -> Any:
    """Apply :func:`shipped` to every string in nested dictionaries and lists."""
    if isinstance(value, dict):
        return {key: shipped_values(each) for key, each in value.items()}
    if isinstance(value, list):
        return [shipped_values(each) for each in value]
    return shipped(value) if isinstance(value, str) else value
