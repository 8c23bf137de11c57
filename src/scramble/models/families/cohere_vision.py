"""Supports Aya Vision and Command A Vision with transformers' native classes (``CohereLabs/...``).

Their decoder, Cohere2, has sliding attention windows of 4,096 tokens in three of four layers.
"""

from __future__ import annotations

from scramble.models.family import Family


class AyaVision(Family):
    """Aya Vision: 169 tokens per tile of 364 px, up to 12 tiles and a thumbnail, each preceded by an index token."""

    name = "aya_vision"
    model_types = ("aya_vision",)
    tile_limit = "max_patches"


class Cohere2Vision(AyaVision):
    """Command A Vision: 256 tokens per tile of 512 px, up to 12 tiles and a thumbnail, each before a line break."""

    name = "cohere2_vision"
    model_types = ("cohere2_vision",)
    needs_torchvision = True
