"""Creates a tiny LLaVA-OneVision.

The model consists of a SigLIP tower and a Qwen2 decoder. Images are divided into tiles, and prompts are in ChatML
format.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from scramble.models.families.llava import LlavaOnevisionImageProcessor
from scramble.models.tiny.parts import TinyTokenizer, chatml_template, random_model, save, small_decoder, small_tower

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"]


def save_tiny_llava_onevision(folder: str | Path, texts: Iterable[str], seed: int = 0, *, image_size: int = 28) -> Path:
    """Write a tiny native LLaVA-OneVision and return its folder.

    A view of 28 px with patches of 7 px is encoded as 16 tokens. An image is divided into a grid of up to 4 x 4 tiles.
    A feature grid that is larger than 4 tiles is downscaled to the size of 4 tiles (``anyres_max_4``).
    """
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessorPil,
    )

    tokens = TinyTokenizer(texts, SPECIALS, eos="<|im_end|>", pad="<|endoftext|>")
    grids = [[rows * image_size, columns * image_size] for rows in range(1, 5) for columns in range(1, 5)]
    config = LlavaOnevisionConfig(
        vision_config=small_tower(image_size, 7, model_type="siglip_vision_model", vision_use_head=False),
        text_config=small_decoder(vocab_size=tokens.size, model_type="qwen2", **tokens.special),
        image_token_index=tokens.ids["<image>"],
        video_token_index=tokens.ids["<video>"],
        image_grid_pinpoints=grids,
        vision_aspect_ratio="anyres_max_4",
    )
    model = random_model(LlavaOnevisionForConditionalGeneration, config, seed)
    processor = LlavaOnevisionImageProcessor(
        image_processor=LlavaOnevisionImageProcessorPil(
            size={"height": image_size, "width": image_size}, image_grid_pinpoints=grids
        ),
        tokenizer=tokens.wrapped(image_token="<image>", video_token="<video>"),
        num_image_tokens=(image_size // 7) ** 2,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_4",
        chat_template=chatml_template("<image>"),
    )
    return save(folder, model, processor, tokens.special)
