"""Creates a tiny InternVL with transformers' native classes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from scramble.models.families.internvl import InternVLImageProcessor
from scramble.models.tiny.parts import TinyTokenizer, chatml_template, random_model, save

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"]


def save_tiny_internvl(
    folder: str | Path,
    texts: Iterable[str],
    seed: int = 0,
    *,
    image_size: int = 48,
    patch_size: int = 6,
    vision_layers: int = 3,
    vision_width: int = 96,
    layers: int = 4,
    width: int = 128,
    heads: int = 4,
    vocab_size: int = 1024,
    max_tiles: int = 1,
    experts: int = 0,
) -> Path:
    """Write a tiny native InternVL (about 1.2 M parameters by default) and return its folder.

    By default, the ViT has 3 layers of width 96 and patches of 6 px, an image of 48 px is encoded as 16 tokens (after
    pixel shuffle), and the Qwen2 decoder has 4 layers of width 128. If ``experts`` is not 0, the decoder is a Qwen3
    mixture-of-experts model, as in InternVL3.5-30B-A3B, with this number of experts, of which two are active.
    ``AutoModelForImageTextToText`` and ``AutoProcessor`` can load the folder.
    """
    from transformers import GotOcr2ImageProcessorPil, InternVLConfig, InternVLForConditionalGeneration

    tokens = TinyTokenizer(texts, SPECIALS, eos="<|im_end|>", pad="<|endoftext|>", vocab_size=vocab_size)
    config = InternVLConfig(
        vision_config={
            "hidden_size": vision_width,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": 4,
            "intermediate_size": 2 * vision_width,
            "image_size": [image_size, image_size],
            "patch_size": [patch_size, patch_size],
            "attention_bias": True,
            # The released values (0.02, 0.1) are suitable for widths of about a thousand. At the width of the tiny
            # tower, these values would make the tower almost linear and slow to learn.
            "initializer_range": vision_width**-0.5,
            "layer_scale_init_value": 1.0,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": tokens.size,
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "intermediate_size": 352 * width // 128,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": True,
            "initializer_range": 0.5 * width**-0.5,
            **tokens.special,
            **(_mixture(experts, width // heads) if experts else {}),
        },
        image_token_id=tokens.ids["<IMG_CONTEXT>"],
        image_seq_length=(image_size // patch_size // 2) ** 2,
        tie_word_embeddings=True,
    )
    model = random_model(InternVLForConditionalGeneration, config, seed)
    embeddings = model.model.vision_tower.embeddings
    # Transformers initialises position embeddings to zero. The tower would then learn objects long before positions.
    embeddings.position_embeddings.data[0, 1:] = _positions(image_size // patch_size, vision_width)
    processor = InternVLImageProcessor(
        image_processor=GotOcr2ImageProcessorPil(
            size={"height": image_size, "width": image_size},
            image_mean=[0.485, 0.456, 0.406],
            image_std=[0.229, 0.224, 0.225],
            crop_to_patches=True,
            max_patches=max_tiles,
        ),
        tokenizer=tokens.wrapped(
            start_image_token="<img>",
            end_image_token="</img>",
            context_image_token="<IMG_CONTEXT>",
            video_token="<video>",
        ),
        image_seq_length=config.image_seq_length,
        chat_template=chatml_template("<IMG_CONTEXT>"),
    )
    return save(folder, model, processor, tokens.special)


def _mixture(experts: int, head_dim: int) -> dict[str, Any]:
    sizes = {"num_experts": experts, "num_experts_per_tok": 2, "moe_intermediate_size": 96, "head_dim": head_dim}
    return {"model_type": "qwen3_moe", "norm_topk_prob": True, **sizes}


def _positions(side: int, width: int) -> torch.Tensor:
    """Return the sine and cosine of each patch's row and column, (side * side, width), as in MAE (He et al. 2022)."""
    frequencies = 100 ** -(torch.arange(width // 4) / (width // 4))
    angles = torch.arange(side)[:, None] * frequencies
    line = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows, columns = line[:, None].expand(-1, side, -1), line[None].expand(side, -1, -1)
    return torch.cat([rows, columns], dim=-1).reshape(side * side, -1)
