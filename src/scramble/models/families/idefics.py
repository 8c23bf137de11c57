"""Supports Idefics3 and SmolVLM with transformers' native classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scramble.models.family import Family, by_prompt
from scramble.trie.backbone import ImageInputs


class Idefics(Family):
    """Supports Idefics3 and SmolVLM, which divide an image into tiles and a global view with 64 to 169 tokens each.

    SmolVLM's processor has a video part, which needs torchvision and num2words.
    """

    name = "smolvlm"
    model_types = ("idefics3", "smolvlm")
    language_model = "model.text_model"
    vision = ("model.vision_model", "model.connector")
    lora_targets = r"model\.text_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"

    def features(self, model: Any, images: Sequence[ImageInputs]) -> list[Tensor]:
        """Compute the features (F_i, D) of each prompt's images in token order, in one tower pass over all images."""
        # The processor's tensors have the shape (1, tiles, ...). The model returns a tensor of features per row of its
        # input, so each tile becomes a row: (tiles, 1, ...).
        names = ("pixel_values", "pixel_attention_mask")
        rows = {name: torch.cat([inputs[name][0] for inputs in images])[:, None] for name in names}
        per_tile = model.get_image_features(**rows, return_dict=True).pooler_output
        return by_prompt(per_tile, [inputs["pixel_values"].shape[1] for inputs in images])
