"""Supports families that need little code on top of transformers' image-text-to-text classes.

A new family here needs its module paths, and ``lora_targets`` if its layers are not named as in Llama.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scramble.models.family import Family, ModelError
from scramble.trie.backbone import ImageInputs

LLAMA_LAYERS = r"\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"


class Idefics(Family):
    """Idefics3 and SmolVLM: tiles and a global view with 64 to 169 tokens each."""

    name = "smolvlm"
    model_types = ("idefics3", "smolvlm")
    language_model = "model.text_model"
    vision = ("model.vision_model", "model.connector")
    lora_targets = r"model\.text_model" + LLAMA_LAYERS

    def load_processor(self, path: str, revision: str | None = None) -> Any:
        """Return the processor. SmolVLM's processor has a video part, which needs torchvision and num2words."""
        try:
            return super().load_processor(path, revision)
        except ImportError as error:
            raise ModelError(f"the processor of {path} cannot be built: {error}") from error

    def features(self, model: Any, images: Sequence[ImageInputs]) -> list[Tensor]:
        """Compute the features (F_i, D) of each prompt's images in token order, in one tower pass over all images."""
        # The processor's output has the shape (1, tiles, 3, H, W). The tower processes all tiles as one batch.
        pixels = torch.cat([inputs["pixel_values"] for inputs in images], dim=1)
        masks = torch.cat([inputs["pixel_attention_mask"] for inputs in images], dim=1)
        pooled = model.get_image_features(pixel_values=pixels, pixel_attention_mask=masks, return_dict=True)
        features = torch.cat(pooled.pooler_output)
        tiles = [inputs["pixel_values"].shape[1] for inputs in images]
        return list(features.split([n * len(features) // sum(tiles) for n in tiles]))
