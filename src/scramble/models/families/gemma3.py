"""Supports Gemma 3 with transformers' native classes (``google/gemma-3-4b-it``, ``-12b-it``, ``-27b-it``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scramble.models.family import Family, ModelError, check_image_token


class Gemma3(Family):
    """Supports Gemma 3, with one view of 896 px and 256 tokens per image.

    The tokens of an image attend to each other bidirectionally. Five out of every six decoder layers have a sliding
    window, which also limits the attention to earlier tokens of the same image. Images are not divided into crops,
    because ``do_pan_and_scan`` is false by default.
    """

    name = "gemma3"
    model_types = ("gemma3",)
    block_per_run = True
    token_types = "token_type_ids"

    def check_processor(self, processor: Any, config: Any) -> None:
        """Raise ModelError if the processor belongs to another model or divides images into crops."""
        check_image_token(processor, getattr(processor.tokenizer, "image_token_id", None), self.feature_tokens(config))
        if getattr(processor.image_processor, "do_pan_and_scan", False):
            raise ModelError(
                "the processor divides images into crops: set do_pan_and_scan to false in the processor's configuration"
            )

    def mark_images(self, processor: Any, rendered: str) -> str:
        """Return the prompt with each image's placeholder between the line breaks that the processor adds."""
        start, image, end = (getattr(processor.tokenizer, name) for name in ("boi_token", "image_token", "eoi_token"))
        return rendered.replace(start, f"\n\n{start}{image}{end}\n\n")

    def image_lengths(self, processor: Any, sizes: Sequence[tuple[int, int]]) -> list[int]:
        """Return the number of tokens of each image, without start and end tokens."""
        return [int(processor.image_seq_length)] * len(sizes)

    def image_keys(self, processor: Any) -> frozenset[str]:
        """Return the names of the processor's outputs that are inputs of the tower."""
        return frozenset({"pixel_values"})

    def block_tokens(self, config: Any) -> frozenset[int]:
        """Return the id of the image placeholder."""
        return self.feature_tokens(config)
