"""Supports Aya Vision and Command A Vision with transformers' native classes (``CohereLabs/...``).

Their decoder, Cohere2, has sliding attention windows of 4,096 tokens in three out of every four layers.
"""

from __future__ import annotations

from scramble.models.family import Family


class AyaVision(Family):
    """Supports Aya Vision, with up to 12 tiles of 364 px and, if there are several tiles, a thumbnail.

    Each tile is represented by a marker and 169 image tokens.
    """

    name = "aya_vision"
    model_types = ("aya_vision",)
    tile_limit = "max_patches"


class Cohere2Vision(AyaVision):
    """Supports Command A Vision, with up to 12 tiles of 512 px and, if there are several tiles, a thumbnail.

    The 256 image tokens of each tile are followed by a line break.
    """

    name = "cohere2_vision"
    model_types = ("cohere2_vision",)
    needs_torchvision = True
