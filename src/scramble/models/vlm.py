"""Defines the class of loaded vision-language models, for training, scoring and generation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scramble.models.backbone import FamilyBackbone
from scramble.models.family import Family


@dataclass
class VLM:
    """Holds a loaded model with its processor and family.

    Attributes:
        model: the transformers model, wrapped by PEFT if it has an adapter.
        processor: the model's processor.
        family: the model's family.
        path, revision, adapter: sources from which the model and the adapter were loaded.
    """

    model: Any
    processor: Any
    family: Family
    path: str
    revision: str | None = None
    adapter: str | None = None

    @property
    def has_adapter(self) -> bool:
        """Whether the model is wrapped by PEFT."""
        return self.model is not self.backbone.model

    @property
    def backbone(self) -> FamilyBackbone:
        """The trie engine's interface to the unwrapped model, whose layers contain the adapters."""
        return FamilyBackbone(self.family, self.model)
