"""Implements the model families, which have a common interface."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scramble.models.family import Family, ModelError, Prompt
    from scramble.models.loading import load_vlm
    from scramble.models.vlm import VLM

__all__ = ["VLM", "Family", "ModelError", "Prompt", "load_vlm"]


# The names are imported on first use, because torch and transformers take seconds to import.
_MODULES = {"VLM": "vlm", "Family": "family", "ModelError": "family", "Prompt": "family", "load_vlm": "loading"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"scramble.models.{_MODULES[name]}"), name)
