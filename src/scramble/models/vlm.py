"""A vision-language model with its processor and family: what training, scoring and generation take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scramble.models.backbone import FamilyBackbone
from scramble.models.family import Family


@dataclass
class VLM:
    """A model ready for use: the transformers model (PEFT-wrapped if it has an adapter), processor and family, and
    where they came from."""

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
        """The unwrapped model as the trie engine sees it; adapters live in its layers."""
        return self.family.backbone(self.model)
