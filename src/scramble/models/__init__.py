"""Implements model families with a common interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scramble.models.family import Family, ModelError, Prompt
    from scramble.models.loading import load_vlm
    from scramble.models.vlm import VLM

__all__ = ["VLM", "Family", "ModelError", "Prompt", "load_vlm"]


def __getattr__(name: str) -> Any:
    # The names are imported lazily, because torch and transformers take seconds to import.
    if name == "load_vlm":
        from scramble.models import loading as module
    elif name == "VLM":
        from scramble.models import vlm as module  # type: ignore[no-redef]
    elif name in {"Family", "ModelError", "Prompt"}:
        from scramble.models import family as module  # type: ignore[no-redef]
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(module, name)
