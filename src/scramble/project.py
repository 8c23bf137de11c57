"""Files that ship with the project."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
"""The folder of a clone; an installed copy has no ``data`` there."""
CONFIGS = ROOT / "configs"


def shipped(path: str) -> str:
    """``path``, or where the project has it, for a path below ``data/`` that does not exist in the working directory.

    The configurations name the model and the example that ship with the project by such paths, and scripts may be
    started anywhere.
    """
    inside = path.startswith("data/") and not Path(path).exists() and (ROOT / path).exists()
    return str(ROOT / path) if inside else path


def shipped_values(value: Any) -> Any:
    """Plain values with :func:`shipped` applied to every text in them."""
    if isinstance(value, dict):
        return {key: shipped_values(each) for key, each in value.items()}
    if isinstance(value, list):
        return [shipped_values(each) for each in value]
    return shipped(value) if isinstance(value, str) else value
