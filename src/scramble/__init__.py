"""SCRAMBLe generates synthetic preference data and tunes multimodal language models on preferences.

The Python interface (docs/python.md) is imported on first use, so ``import scramble`` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scramble.api import evaluate, make_pairs, score
    from scramble.models import load_vlm
    from scramble.training import PreferenceConfig, train

__version__ = "0.1.0"
__all__ = ["PreferenceConfig", "evaluate", "load_vlm", "make_pairs", "score", "train"]

_MODULES = {
    "PreferenceConfig": "training",
    "evaluate": "api",
    "load_vlm": "models",
    "make_pairs": "api",
    "score": "api",
    "train": "training",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"scramble.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})  # for tab completion in notebooks
