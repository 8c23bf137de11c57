"""Supports Ovis2 with transformers' native classes (``thisisiron/Ovis2-1B-hf`` to ``-34B-hf``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.models.ovis2.image_processing_pil_ovis2 import get_min_tile_covering_grid, get_optimal_tiled_canvas

from scramble.models.family import Family, ModelError

# The patch token, and the indicator tokens in the order of ``config.visual_indicator_token_ids``.
PATCH, INDICATORS = "<IMG_ATOM>", ("<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")


class Ovis2(Family):
    """Supports Ovis2, with 1 tile, or 2 to 9 tiles and a thumbnail, of 448 px and 256 tokens each.

    For each patch, the tower predicts a distribution over a visual vocabulary, and the patch's feature is the expected
    row of ``visual_embeddings_table``. The last rows of this table replace the language model's embeddings of the
    indicator tokens (for the start and the end of an image, the end of a row, ...).
    """

    name = "ovis2"
    model_types = ("ovis2",)
    vision = ("model.vision_tower", "model.visual_embeddings_table")
    tile_limit = "max_patches"

    def check_processor(self, processor: Any, config: Any) -> None:
        """Raise ModelError if the processor and the model have different ids of image tokens."""
        ids = processor.tokenizer.convert_tokens_to_ids([PATCH, *INDICATORS])
        expected = [config.image_token_id, *config.visual_indicator_token_ids]
        if ids != expected:
            raise ModelError(
                f"the processor has the image tokens {ids}, but the model has the image tokens {expected}, so the "
                "processor belongs to another model: use the processor saved with the model"
            )

    def mark_images(self, processor: Any, rendered: str) -> str:
        """Replace each placeholder ``<image>``, which need not be a token, with a patch token."""
        return rendered.replace(processor.image_token, PATCH)

    def image_lengths(self, processor: Any, sizes: Sequence[tuple[int, int]]) -> list[int]:
        """Return the number of tokens of each image, including all indicator tokens."""
        lengths = []
        for size in sizes:
            rows, columns = _grid(processor.image_processor, self.image_options.size(size))
            length = processor.image_seq_length + 3  # the thumbnail (or the only tile), start, grid, end
            if rows * columns > 1:
                length += rows * columns * processor.image_seq_length + rows * (columns - 1) + rows - 1
            lengths.append(length)
        return lengths

    def embed_tokens(self, model: Any, input_ids: Tensor) -> Tensor:
        """Return the token embeddings (..., D) of ids (...).

        The embeddings of indicator tokens are the last rows of the visual table.
        """
        indicators = torch.tensor(model.config.visual_indicator_token_ids, device=input_ids.device)
        is_indicator = input_ids[..., None] == indicators
        table = model.model.visual_embeddings_table
        rows = table.num_embeddings - len(indicators) + is_indicator.long().argmax(-1)
        text = super().embed_tokens(model, input_ids)
        return torch.where(is_indicator.any(-1, keepdim=True), table(rows).to(text.dtype), text)


def _grid(image_processor: Any, size: tuple[int, int]) -> tuple[int, int]:
    """Return the rows and columns of tiles that the processor selects for an image of this size (height, width)."""
    if not image_processor.crop_to_patches or image_processor.max_patches <= 1:
        return 1, 1
    tile, most = image_processor.size, image_processor.max_patches
    if image_processor.use_covering_area_grid:
        columns, rows = get_min_tile_covering_grid(size, tile["height"], most)
    else:
        columns, rows = get_optimal_tiled_canvas(
            size, (tile["height"], tile["width"]), image_processor.min_patches, most
        )
    return rows, columns
