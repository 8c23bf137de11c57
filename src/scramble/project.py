"""Files that ship with the project."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_CLONE = Path(__file__).resolve().parents[2]
ROOT = _CLONE if (_CLONE / "configs" / "base.yaml").is_file() else Path(__file__).resolve().parent / "shipped"
"""Where ``configs``, ``scripts`` and ``data`` are: the folder of a clone, or what a wheel holds (see setup.py)."""
CONFIGS = ROOT / "configs"
SCRIPTS = ROOT / "scripts"


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
