"""Trains models on preferences: losses, reference cache, and a trainer that encodes each image once per micro-batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scramble.training.config import PreferenceConfig
    from scramble.training.run import train

__all__ = ["PreferenceConfig", "train"]


def __getattr__(name: str) -> Any:
    # The imports are lazy, because torch, transformers and TRL take seconds to import.
    if name == "train":
        from scramble.training.run import train

        return train
    if name == "PreferenceConfig":
        from scramble.training.config import PreferenceConfig

        return PreferenceConfig
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
