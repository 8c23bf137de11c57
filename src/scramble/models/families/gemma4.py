"""Supports Gemma 4 with transformers' native classes.

The checkpoints are ``google/gemma-4-E2B-it``, ``-E4B-it``, ``-26B-A4B-it`` and ``-31B-it``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Gemma4Config, Gemma4Processor, ProcessorMixin

from scramble.models.families.image_only import ImageOnly, choose_processor
from scramble.models.family import Family, ModelError, by_prompt
from scramble.trie.backbone import ImageInputs

TOKEN_LIMITS = (70, 140, 280, 560, 1120)  # per image; transformers accepts only these values


class PresentParts(ProcessorMixin):
    """Drops parts that the native class passes as None, because ``ProcessorMixin`` would reject their names."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{name: part for name, part in kwargs.items() if part is not None})


class Gemma4ImageProcessor(ImageOnly, Gemma4Processor, PresentParts):
    """Provides the native processor without its video and audio parts."""

    video_processor_type = "Gemma4VideoProcessor"

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        image_seq_length: int = 280,
        **kwargs: Any,
    ) -> None:
        parts: dict[str, Any] = {"feature_extractor": None, "video_processor": None}
        super().__init__(
            image_processor, tokenizer, chat_template, **parts, image_seq_length=image_seq_length, **kwargs
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings of the native processor, with its default audio part."""
        return {**super().to_dict(), "feature_extractor": {"feature_extractor_type": "Gemma4AudioFeatureExtractor"}}


class Gemma4(Family):
    """Supports Gemma 4, in which an image keeps its aspect ratio and has at most 280 tokens by default.

    In layers with a sliding window, the tokens of an image attend to each other bidirectionally, except in E2B and E4B.
    These two models have per-layer token embeddings, and their later layers use the keys and values of earlier layers.
    Logits are soft-capped to (-30, 30).
    """

    name = "gemma4"
    model_types = ("gemma4",)
    vision = ("model.vision_tower", "model.embed_vision")
    lora_targets = (
        r"model\.language_model\.(per_layer_model_projection|layers\.\d+\.(self_attn\.(q|k|v|o)_proj"
        r"|mlp\.(gate|up|down)_proj|per_layer_input_gate|per_layer_projection))"
    )
    block_per_run = True
    block_layers = frozenset({"sliding_attention"})
    token_types = "mm_token_type_ids"
    processor_class = choose_processor(Gemma4Config, Gemma4Processor, Gemma4ImageProcessor)

    def set_max_pixels(self, processor: Any, max_pixels: int) -> None:
        """Set the maximum number of tokens per image to the largest value that needs at most ``max_pixels`` pixels.

        The function never raises the processor's maximum. Raises ModelError if even the smallest supported value
        needs more pixels.
        """
        images = processor.image_processor
        pixels = (images.patch_size * images.pooling_kernel_size) ** 2  # per token
        fitting = [n for n in TOKEN_LIMITS if n * pixels <= max_pixels]
        if not fitting:
            raise ModelError(
                f"model.max_pixels must be at least {TOKEN_LIMITS[0] * pixels}, not {max_pixels}, because {self.name} "
                f"uses at least {TOKEN_LIMITS[0]} tokens per image"
            )
        images.max_soft_tokens = min(images.max_soft_tokens, max(fitting))

    def mark_images(self, processor: Any, rendered: str) -> str:
        """Return the prompt with each image's placeholder between the tokens that the processor adds."""
        image = processor.image_token
        return rendered.replace(image, f"{processor.boi_token}{image}{processor.eoi_token}")

    def image_keys(self, processor: Any) -> frozenset[str]:
        """Return the names of the processor's outputs that are inputs of the tower."""
        return frozenset({"pixel_values", "image_position_ids"})

    def block_tokens(self, config: Any) -> frozenset[int]:
        """Return the id of the image placeholder if image tokens attend to each other bidirectionally.

        Raises ModelError if all tokens attend to each other bidirectionally.
        """
        bidirectional = config.get_text_config().use_bidirectional_attention
        if bidirectional == "all":
            raise ModelError(
                "the decoder has use_bidirectional_attention=all, so it does not generate text: choose another model"
            )
        return self.feature_tokens(config) if bidirectional == "vision" else frozenset()

    def logit_softcap(self, config: Any) -> float | None:
        """Return the bound to which the head's logits are soft-capped, or None if they are not capped."""
        return config.get_text_config().final_logit_softcapping

    def features(self, model: Any, images: Sequence[ImageInputs]) -> list[Tensor]:
        """Compute the features (F_i, D) of each prompt's images in token order, in one tower pass over all images."""
        per_image = model.get_image_features(
            pixel_values=torch.cat([inputs["pixel_values"] for inputs in images]),
            image_position_ids=torch.cat([inputs["image_position_ids"] for inputs in images]),
            return_dict=True,
        ).pooler_output
        return by_prompt(per_image, [len(inputs["pixel_values"]) for inputs in images])

    def embed_tokens(self, model: Any, input_ids: Tensor) -> Tensor:
        """Return the token embeddings (..., D) of ids (...). Placeholders are embedded as padding."""
        return super().embed_tokens(model, without_placeholders(model.config, input_ids))

    def decoder_inputs(self, model: Any, input_ids: Tensor | None) -> dict[str, object]:
        """Return the per-layer embeddings of the tokens, or an empty dictionary if there are none."""
        if input_ids is None or not model.config.get_text_config().hidden_size_per_layer_input:
            return {}
        ids = without_placeholders(model.config, input_ids)
        return {"per_layer_inputs": model.get_submodule(self.language_model).get_per_layer_inputs(ids)}


def without_placeholders(config: Any, input_ids: Tensor) -> Tensor:
    """Replace the placeholders of images, videos and sounds with padding, as the native class does before embedding."""
    names = ("image_token_id", "video_token_id", "audio_token_id")
    placeholders = torch.tensor([getattr(config, name) for name in names], device=input_ids.device)
    return input_ids.masked_fill(torch.isin(input_ids, placeholders), config.get_text_config().pad_token_id)
