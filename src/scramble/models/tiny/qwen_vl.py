"""Creates a tiny Qwen2-VL, Qwen2.5-VL, Qwen3-VL or Qwen3.5.

Images keep their aspect ratio, and position ids have three axes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scramble.models.families.qwen_vl import Qwen2VLImageProcessor, Qwen3VLImageProcessor, Qwen25VLImageProcessor
from scramble.models.tiny.parts import TinyTokenizer, chatml_template, random_model, save, small_decoder

SPECIALS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
PATCH = 8  # px; 2 x 2 patches become one token
DECODER = small_decoder(
    num_hidden_layers=4,
    rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 2, 2]},
)
TOWER: dict[str, Any] = {"depth": 2, "num_heads": 4, "patch_size": PATCH, "spatial_merge_size": 2}


def save_tiny_qwen2_vl(folder: str | Path, texts: Iterable[str], seed: int = 0, *, max_pixels: int = 64 * 64) -> Path:
    """Write a tiny native Qwen2-VL and return its folder. Each image token represents 16 x 16 px."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    tower = {**TOWER, "embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}
    classes = Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessor
    return _save(folder, texts, seed, *classes, tower, DECODER, max_pixels)


def save_tiny_qwen2_5_vl(
    folder: str | Path, texts: Iterable[str], seed: int = 0, *, max_pixels: int = 64 * 64, vocab_size: int = 1024
) -> Path:
    """Write a tiny native Qwen2.5-VL and return its folder. Each image token represents 16 x 16 px.

    ``vocab_size`` is the maximum size of the tokenizer's vocabulary.
    """
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tower = {
        **TOWER,
        "hidden_size": 32,
        "intermediate_size": 64,
        "out_hidden_size": 64,
        "window_size": 4 * PATCH,
        "fullatt_block_indexes": [1],
    }
    classes = Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen25VLImageProcessor
    return _save(folder, texts, seed, *classes, tower, DECODER, max_pixels, vocab_size)


def save_tiny_qwen3_vl(
    folder: str | Path, texts: Iterable[str], seed: int = 0, *, max_pixels: int = 64 * 64, experts: int = 0
) -> Path:
    """Write a tiny native Qwen3-VL and return its folder. Each image token represents 16 x 16 px.

    Args:
        folder, texts, seed: see :func:`scramble.models.tiny.save_tiny`.
        max_pixels: maximum number of pixels per image.
        experts: number of experts of each layer, of which two are active; 0 for a dense decoder.
    """
    from transformers import (
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLMoeConfig,
        Qwen3VLMoeForConditionalGeneration,
    )

    tower = {
        **TOWER,
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 64,
        "out_hidden_size": 64,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }
    decoder = {**DECODER, "head_dim": 16}
    classes: tuple[Any, Any] = (Qwen3VLConfig, Qwen3VLForConditionalGeneration)
    if experts:
        decoder |= {"num_experts": experts, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
        classes = (Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration)
    return _save(folder, texts, seed, *classes, Qwen3VLImageProcessor, tower, decoder, max_pixels)


def save_tiny_qwen3_5(
    folder: str | Path,
    texts: Iterable[str],
    seed: int = 0,
    *,
    max_pixels: int = 64 * 64,
    vocab_size: int = 1024,
    experts: int = 0,
) -> Path:
    """Write a tiny native Qwen3.5 and return its folder (see :func:`save_tiny_qwen3_vl`).

    Three of its four decoder layers are recurrent. These layers have more value heads than key heads, as in the larger
    released models.
    """
    from transformers import (
        Qwen3_5Config,
        Qwen3_5ForConditionalGeneration,
        Qwen3_5MoeConfig,
        Qwen3_5MoeForConditionalGeneration,
    )

    tower = {**TOWER, "hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 64, "num_position_embeddings": 64}
    rope = {**DECODER["rope_parameters"], "mrope_section": [2, 1, 1], "partial_rotary_factor": 0.5}
    decoder = {
        **DECODER,
        "head_dim": 16,
        "rope_parameters": rope,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
    }
    classes: tuple[Any, Any] = (Qwen3_5Config, Qwen3_5ForConditionalGeneration)
    if experts:
        del decoder["intermediate_size"]
        decoder |= {
            "num_experts": experts,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 32,
        }
        classes = (Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration)
    return _save(folder, texts, seed, *classes, Qwen3VLImageProcessor, tower, decoder, max_pixels, vocab_size)


def _save(
    folder: str | Path,
    texts: Iterable[str],
    seed: int,
    config_class: Any,
    model_class: Any,
    processor_class: Any,
    tower: dict[str, Any],
    decoder: dict[str, Any],
    max_pixels: int,
    vocab_size: int = 1024,
) -> Path:
    from transformers import Qwen2VLImageProcessorPil

    tokens = TinyTokenizer(texts, SPECIALS, eos="<|im_end|>", pad="<|endoftext|>", vocab_size=vocab_size)
    config = config_class(
        vision_config=tower,
        text_config={**decoder, **tokens.special, "vocab_size": tokens.size},
        image_token_id=tokens.ids["<|image_pad|>"],
        video_token_id=tokens.ids["<|video_pad|>"],
        vision_start_token_id=tokens.ids["<|vision_start|>"],
        vision_end_token_id=tokens.ids["<|vision_end|>"],
    )
    model = random_model(model_class, config, seed)
    processor = processor_class(
        image_processor=Qwen2VLImageProcessorPil(
            size={"shortest_edge": 16 * 16, "longest_edge": max_pixels}, patch_size=PATCH, merge_size=2
        ),
        tokenizer=tokens.wrapped(
            image_token="<|image_pad|>",
            video_token="<|video_pad|>",
            vision_start_token="<|vision_start|>",
            vision_end_token="<|vision_end|>",
        ),
        chat_template=chatml_template("<|vision_start|><|image_pad|><|vision_end|>"),
    )
    return save(folder, model, processor, tokens.special)
