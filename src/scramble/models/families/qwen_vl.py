"""Supports Qwen2-VL, Qwen2.5-VL, Qwen3-VL, Qwen3.5 and Qwen3.6 with transformers' native classes.

An image keeps its aspect ratio, but its sides are rounded to multiples of 28 px (32 px since Qwen3-VL). A block of
2 x 2 patches becomes one token. The decoder's rotary embeddings have three axes (time, row, column).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLProcessor,
    Qwen3_5Config,
    Qwen3_5MoeConfig,
    Qwen3VLConfig,
    Qwen3VLMoeConfig,
    Qwen3VLProcessor,
)

from scramble.models.families.image_only import ImageOnly, choose_processor
from scramble.models.family import Family, ModelError, by_prompt
from scramble.trie.backbone import ImageInputs, Positions

LONGEST_RATIO = 200  # largest ratio of an image's longer side to its shorter side that transformers accepts


class Qwen2VLImageProcessor(ImageOnly, Qwen2VLProcessor):
    """Provides the native processor without its video part."""

    video_processor_type = "Qwen2VLVideoProcessor"


class Qwen25VLImageProcessor(ImageOnly, Qwen2_5_VLProcessor):
    """Provides the native processor without its video part."""

    video_processor_type = "Qwen2VLVideoProcessor"


class Qwen3VLImageProcessor(ImageOnly, Qwen3VLProcessor):
    """Provides the native processor without its video part."""

    video_processor_type = "Qwen3VLVideoProcessor"


@dataclass(frozen=True, slots=True)
class GridPositions:
    """Computes position ids on three axes, like transformers' ``get_rope_index`` for images.

    Text tokens have the same position on all axes. An image token has the position of the image's first token plus
    (0, its row, its column). The text after the image continues after the largest of these positions.

    Attributes:
        image_token: id of the image placeholder.
        merge_size: patches per token along each side.
    """

    image_token: int
    merge_size: int

    def __call__(self, ids: Sequence[int], images: ImageInputs | None) -> NDArray[np.int64]:
        """Return the position ids (3, n) of a sequence of n tokens whose images are described by ``image_grid_thw``."""
        positions = np.empty((3, len(ids)), np.int64)
        where = np.flatnonzero(np.asarray(ids) == self.image_token)
        end = position = used = 0
        grids = images["image_grid_thw"].tolist() if images is not None and len(where) else []
        for frames, patch_rows, patch_columns in grids:
            start = int(where[used])
            rows, columns = patch_rows // self.merge_size, patch_columns // self.merge_size
            positions[:, end:start] = np.arange(position, position + start - end)
            position += start - end
            end, used = start + frames * rows * columns, used + frames * rows * columns
            positions[:, start:end] = position + np.indices((frames, rows, columns)).reshape(3, -1)
            position += max(rows, columns)
        positions[:, end:] = np.arange(position, position + len(ids) - end)
        return positions


class QwenVL(Family):
    """Defines what all versions of Qwen-VL and GLM-V have in common.

    Attributes:
        counts_frames: whether the processor's pixel limits count an image as ``temporal_patch_size`` frames.
    """

    vision = ("model.visual",)
    position_inputs = ("image_grid_thw",)
    token_types = "mm_token_type_ids"  # ``generate`` computes positions from these types
    counts_frames: bool = False

    def set_max_pixels(self, processor: Any, max_pixels: int) -> None:
        """Limit the number of pixels per image, which is proportional to the image's number of tokens.

        Raises ModelError if the limit is smaller than the number of pixels that one token represents.
        """
        images = processor.image_processor
        side = images.patch_size * images.merge_size
        if max_pixels < side**2:
            raise ModelError(
                f"model.max_pixels must be at least {side**2}, not {max_pixels}, because each image token "
                f"represents {side} x {side} px"
            )
        limit = max_pixels * (images.temporal_patch_size if self.counts_frames else 1)
        images.size["longest_edge"] = limit
        images.size["shortest_edge"] = min(images.size["shortest_edge"], limit)

    def check_size(self, processor: Any, size: tuple[int, int]) -> None:
        """Raise ModelError if the longer side of an image is more than 200 times the shorter side."""
        height, width = self.image_options.size(size)
        if max(height, width) > LONGEST_RATIO * min(height, width):
            raise ModelError(
                f"an image of {width} x {height} px is too elongated, because {self.name} accepts aspect ratios up to "
                f"{LONGEST_RATIO}: remove the image, or set model.square_padding=true"
            )

    def positions(self, config: Any) -> Positions:
        """Return the function that computes position ids on three axes."""
        return GridPositions(int(config.image_token_id), int(config.vision_config.spatial_merge_size))

    def num_patches(self, config: Any, images: ImageInputs) -> int:
        """Return the number of patches, which are the rows of ``pixel_values``."""
        return len(images["pixel_values"])

    def features(self, model: Any, images: Sequence[ImageInputs]) -> list[Tensor]:
        """Compute each prompt's features (F_i, S D) in token order, in one tower pass. A feature has S vectors."""
        output = model.get_image_features(
            pixel_values=torch.cat([inputs["pixel_values"] for inputs in images]),
            image_grid_thw=torch.cat([inputs["image_grid_thw"] for inputs in images]),
            return_dict=True,
        )
        layers = [output.pooler_output, *(getattr(output, "deepstack_features", None) or ())]
        per_image = [torch.cat(vectors, dim=1) for vectors in zip(*layers, strict=True)]
        return by_prompt(per_image, [len(inputs["image_grid_thw"]) for inputs in images])


class Qwen2VL(QwenVL):
    """Supports Qwen2-VL."""

    name = "qwen2_vl"
    model_types = ("qwen2_vl",)
    processor_class = choose_processor(Qwen2VLConfig, Qwen2VLProcessor, Qwen2VLImageProcessor)


class Qwen25VL(QwenVL):
    """Supports Qwen2.5-VL."""

    name = "qwen2_5_vl"
    model_types = ("qwen2_5_vl",)
    processor_class = choose_processor(Qwen2_5_VLConfig, Qwen2_5_VLProcessor, Qwen25VLImageProcessor)


class Qwen3VL(QwenVL):
    """Supports Qwen3-VL, as dense models and as mixtures of experts.

    Features of three intermediate layers of the tower are added to the image tokens' hidden states after the first
    three decoder layers (DeepStack).
    """

    name = "qwen3_vl"
    model_types = ("qwen3_vl", "qwen3_vl_moe")
    processor_class = choose_processor(Qwen3VLConfig, Qwen3VLProcessor, Qwen3VLImageProcessor)

    def vectors_per_feature(self, config: Any) -> int:
        """Return the number of vectors: one for the embedding and one for each tower layer that DeepStack reads."""
        return 1 + len(config.vision_config.deepstack_visual_indexes)


class Qwen35(QwenVL):
    """Supports Qwen3.5 and Qwen3.6, as dense models and as mixtures of experts.

    Three out of every four decoder layers are recurrent (gated DeltaNet). The models can think before they answer. Our
    prompts contain the template's empty thinking block, after which the models answer directly.
    """

    name = "qwen3_5"
    model_types = ("qwen3_5", "qwen3_5_moe")
    recurrent = "linear_attn"
    template_options = MappingProxyType({"enable_thinking": False})
    # This pattern matches all linear layers except the head and the routers, as TRL's target_modules="all-linear" does.
    lora_targets = (
        r"model\.language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj"
        r"|linear_attn\.(in_proj_(qkv|z|a|b)|out_proj)|mlp\.(gate|up|down)_proj"
        r"|mlp\.(shared_expert\.(gate|up|down)_proj|shared_expert_gate))"
    )
    processor_class = choose_processor(Qwen3_5Config, Qwen3VLProcessor, Qwen3VLImageProcessor)


choose_processor(Qwen3_5MoeConfig, Qwen3VLProcessor, Qwen3VLImageProcessor)
choose_processor(Qwen3VLMoeConfig, Qwen3VLProcessor, Qwen3VLImageProcessor)
