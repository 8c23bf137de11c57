"""Supports InternVL 2.5, 3 and 3.5 with transformers' native classes (the ``-hf``/``-HF`` checkpoints)."""

from __future__ import annotations

from typing import Any

from transformers import InternVLConfig, InternVLProcessor

from scramble.models.families.image_only import ImageOnly, choose_processor
from scramble.models.family import Family


class InternVLImageProcessor(ImageOnly, InternVLProcessor):
    """Provides the native processor without its video part."""

    video_processor_type = "InternVLVideoProcessor"

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        image_seq_length: int = 256,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            image_processor, tokenizer, image_seq_length=image_seq_length, chat_template=chat_template, **kwargs
        )


class InternVL(Family):
    """Supports InternVL, with 1 tile, or 2 to 12 tiles and a thumbnail, of 448 px and 256 tokens each."""

    name = "internvl"
    model_types = ("internvl",)
    processor_class = choose_processor(InternVLConfig, InternVLProcessor, InternVLImageProcessor)
    tile_limit = "max_patches"
