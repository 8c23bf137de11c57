"""Aya Vision and Command A Vision with transformers' native classes (``CohereLabs/...``).

Their decoder, Cohere2, has sliding attention windows of 4,096 tokens in three of four layers.
"""

from __future__ import annotations

from typing import Any

from scramble.models.family import Family


class AyaVision(Family):
    """Aya Vision: 169 tokens per tile of 364 px, up to 12 tiles and a thumbnail, each after a token with its number."""

    name = "aya_vision"
    model_types = ("aya_vision",)

    def set_max_tiles(self, processor: Any, max_tiles: int) -> None:
        """Limit the number of tiles in addition to the thumbnail; with 1 there is only the thumbnail."""
        processor.image_processor.max_patches = max_tiles


class Cohere2Vision(AyaVision):
    """Command A Vision: 256 tokens per tile of 512 px, up to 12 tiles and a thumbnail, a line break after each."""

    name = "cohere2_vision"
    model_types = ("cohere2_vision",)
    needs_torchvision = True
