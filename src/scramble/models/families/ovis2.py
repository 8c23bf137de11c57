"""Ovis2 with transformers' native classes (``thisisiron/Ovis2-1B-hf`` to ``-34B-hf``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.models.ovis2.image_processing_pil_ovis2 import get_min_tile_covering_grid, get_optimal_tiled_canvas

from scramble.models.family import Family, ModelError

# A patch, and the indicators in the order of ``config.visual_indicator_token_ids``.
PATCH, INDICATORS = "<IMG_ATOM>", ("<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")


class Ovis2(Family):
    """Ovis2: 256 tokens per tile of 448 px, a thumbnail and up to 9 tiles.

    The tower predicts a distribution over a visual vocabulary for each patch; its feature is the expected row of
    ``visual_embeddings_table``. The last rows of this table are the embeddings of the indicator tokens (start and end
    of an image, end of a row, ...), instead of the language model's embeddings.
    """

    name = "ovis2"
    model_types = ("ovis2",)
    vision = ("model.vision_tower", "model.visual_embeddings_table")
    tile_limit = "max_patches"

    def check_processor(self, processor: Any, config: Any) -> None:
        """Raise ModelError if processor and model have different ids of image tokens."""
        found = processor.tokenizer.convert_tokens_to_ids([PATCH, *INDICATORS])
        expected = [config.image_token_id, *config.visual_indicator_token_ids]
        if found != expected:
            raise ModelError(
                f"the processor's image tokens {found} are not the model's {expected}: it belongs to another model; "
                "use the processor saved with the model"
            )

    def mark_images(self, processor: Any, rendered: str) -> str:
        """The prompt with a patch for each image: ``<image>`` need not be a token."""
        return rendered.replace(processor.image_token, PATCH)

    def image_lengths(self, processor: Any, sizes: Sequence[tuple[int, int]]) -> list[int]:
        """Number of tokens of each image of the given (height, width), including all indicators."""
        lengths = []
        for size in sizes:
            rows, columns = _grid(processor.image_processor, self.image_options.size(size))
            length = processor.image_seq_length + 3  # the thumbnail or only tile, start, grid, end
            if rows * columns > 1:
                length += rows * columns * processor.image_seq_length + rows * (columns - 1) + rows - 1
            lengths.append(length)
        return lengths

    def embed_tokens(self, model: Any, input_ids: Tensor) -> Tensor:
        """Token embeddings (..., D) of ids (...); those of indicators are the last rows of the visual table."""
        indicators = torch.tensor(model.config.visual_indicator_token_ids, device=input_ids.device)
        found = input_ids[..., None] == indicators
        table = model.model.visual_embeddings_table
        rows = table.num_embeddings - len(indicators) + found.long().argmax(-1)
        text = super().embed_tokens(model, input_ids)
        return torch.where(found.any(-1, keepdim=True), table(rows).to(text.dtype), text)


def _grid(image_processor: Any, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the tiles of an image of the given (height, width), as the processor chooses them."""
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
