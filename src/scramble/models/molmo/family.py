"""Supports Molmo v1 as a model family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scramble.models.family import Family, check_image_token
from scramble.models.molmo import MolmoProcessor
from scramble.trie.backbone import ImageInputs


class Molmo(Family):
    """Supports Molmo v1, which divides an image into a global view and up to 12 crops with 144 features each.

    Features are added to the embeddings of ``<im_patch>`` tokens. Where crops overlap, duplicate features are dropped.
    """

    name = "molmo"
    model_types = ("molmo",)
    language_model = "model.transformer"
    head = "model.transformer.ff_out"
    vision = ("model.vision_backbone",)
    # The pattern includes the path of the blocks, because the head is also named ff_out.
    lora_targets = r"model\.transformer\.blocks\.\d+\.(att_proj|attn_out|ff_proj|ff_out)"
    combine = "add"
    processor_class = MolmoProcessor  # even if the checkpoint names remote code
    tile_limit = "max_crops"

    def check_processor(self, processor: Any, config: Any) -> None:
        """Raise ModelError if the processor belongs to another model."""
        check_image_token(processor, getattr(processor, "image_patch_token_id", None), self.feature_tokens(config))

    def feature_tokens(self, config: Any) -> frozenset[int]:
        """Return the id of ``<im_patch>``."""
        return frozenset({int(config.image_patch_token_id)})

    def num_patches(self, config: Any, images: ImageInputs) -> int:
        """Return the number of patches. ``images["images"]`` has the shape (..., crops, patches, values per patch)."""
        return int(images["images"].shape[:-1].numel())

    def features(self, model: Any, images: Sequence[ImageInputs]) -> list[Tensor]:
        """Compute the features (F_i, D) of each prompt's images in token order, in one tower pass over all crops."""
        crops = [inputs["images"].flatten(0, -3) for inputs in images]
        masks = [inputs["image_masks"].flatten(0, -2) for inputs in images]
        pooled = model.get_image_features(torch.cat(crops)[None], torch.cat(masks)[None])[0]
        split = pooled.split([len(crop) for crop in crops])
        return [in_token_order(f, i["image_input_idx"]) for f, i in zip(split, images, strict=True)]


def in_token_order(features_CFD: Tensor, image_input_idx: Tensor) -> Tensor:
    """Return the features of a prompt, given as (C, F, D), in the order of their positions in the text.

    Features with negative positions are dropped.
    """
    positions = image_input_idx.flatten().to(features_CFD.device)
    order = positions.argsort()
    return features_CFD.flatten(0, 1)[order[positions[order] >= 0]]
