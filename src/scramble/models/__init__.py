"""Model families behind one small interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scramble.models.family import Family, ModelError, Prompt
    from scramble.models.loading import Loaded, load

__all__ = ["Family", "Loaded", "ModelError", "Prompt", "load"]


def __getattr__(name: str) -> Any:
    # Lazy: torch and transformers take seconds to import.
    if name in {"Loaded", "load"}:
        from scramble.models import loading as module
    elif name in {"Family", "ModelError", "Prompt"}:
        from scramble.models import family as module  # type: ignore[no-redef]
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(module, name)
