"""Supports Molmo2 with transformers' native classes (``allenai/Molmo2-4B``, ``-8B``, ``-O-7B``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scramble.models.family import Family, ModelError, by_prompt
from scramble.records import Turn
from scramble.trie.backbone import ImageInputs


class Molmo2(Family):
    """Supports Molmo2, with a low-resolution view and up to 8 overlapping crops, pooled over 2 x 2 patches.

    Features are added to the embeddings of ``<im_patch>``. All image tokens of a prompt (patches, columns, starts and
    ends of all its images) attend to each other bidirectionally. ``forward`` requires ``mm_token_type_ids`` in
    training. The trie engine passes its own mask to the decoder and does not need this argument. The embedding has 128
    more rows than the head, so image ids cannot be targets.
    """

    name = "molmo2"
    model_types = ("molmo2",)
    combine = "add"
    needs_torchvision = True
    token_types = "mm_token_type_ids"
    tile_limit = "max_crops"

    def block_tokens(self, config: Any) -> frozenset[int]:
        """Return the ids of patches, columns, starts, ends and low-resolution tokens, as in the released processor."""
        column, low = config.image_patch_id + 1, config.image_patch_id + 4  # see check_processor
        return frozenset(
            {
                config.image_patch_id,
                column,
                low,
                config.image_start_token_id,
                config.low_res_image_start_token_id,
                config.image_end_token_id,
                config.frame_start_token_id,
                config.frame_end_token_id,
            }
        )

    def feature_tokens(self, config: Any) -> frozenset[int]:
        """Return the id of ``<im_patch>``."""
        return frozenset({int(config.image_patch_id)})

    def check_processor(self, processor: Any, config: Any) -> None:
        """Raise ModelError if the processor and the model have different ids of image tokens."""
        if set(processor.image_token_ids) != self.block_tokens(config):
            raise ModelError(
                f"the processor has the image tokens {sorted(processor.image_token_ids)}, but the model has the image "
                f"tokens {sorted(self.block_tokens(config))}, so the processor belongs to another model: use the "
                "processor saved with the model"
            )

    def render_prompt(self, processor: Any, text: str, num_images: int, history: Sequence[Turn] = ()) -> str:
        """Return the prompt as text. It starts with BOS (with EOS for Molmo2, whose tokenizer has no BOS)."""
        tokenizer = processor.tokenizer
        start = tokenizer.bos_token or tokenizer.eos_token
        rendered = super().render_prompt(processor, text, num_images, history)
        return rendered if rendered.startswith(start) else start + rendered

    def num_patches(self, config: Any, images: ImageInputs) -> int:
        """Return the number of patches. ``pixel_values`` has the shape (crops, patches, values per patch)."""
        return int(images["pixel_values"].shape[:-1].numel())

    def features(self, model: Any, images: Sequence[ImageInputs]) -> list[Tensor]:
        """Compute the features (F_i, D) of each prompt's images in token order, in one tower pass over all images."""
        pooling, first_patch = [], 0
        for inputs in images:
            # Convert indices into the patches of one prompt's crops to indices into the whole batch. Index -1 is
            # padding.
            own = inputs["image_token_pooling"]
            pooling.append(torch.where(own >= 0, own + first_patch, own))
            first_patch += inputs["pixel_values"].shape[0] * inputs["pixel_values"].shape[1]
        per_image = model.get_image_features(
            torch.cat([inputs["pixel_values"] for inputs in images]),
            torch.cat(pooling),
            torch.cat([inputs["image_grids"] for inputs in images]),
            return_dict=True,
        ).pooler_output
        return by_prompt(per_image, [len(inputs["image_grids"]) for inputs in images])
