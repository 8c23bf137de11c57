"""The families the project knows."""

from __future__ import annotations

from typing import Any

from scramble.models.family import Family, ModelError
from scramble.models.internvl import InternVL

FAMILIES: tuple[Family, ...] = (InternVL(),)


def family_of(config: Any) -> Family:
    """The family that serves a transformers config. Raises ModelError naming the known ones."""
    for family in FAMILIES:
        if config.model_type in family.model_types:
            return family
    known = ", ".join(sorted(t for family in FAMILIES for t in family.model_types))
    raise ModelError(f"no family serves models of type {config.model_type!r}; known types: {known}")
