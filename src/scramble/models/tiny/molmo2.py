"""Creates a tiny Molmo2 with transformers' native classes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scramble.models.tiny.parts import TinyTokenizer, chatml_template, random_model, save, small_decoder

# The image tokens in the released order. Their ids follow the vocabulary, and the head has no rows for these ids.
IMAGE_TOKENS = [
    "<im_start>",
    "<im_end>",
    "<im_patch>",
    "<im_col>",
    "<low_res_im_start>",
    "<|image|>",
    "<im_low>",
    "<frame_start>",
    "<frame_end>",
    "<|video|>",
]
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def tiny_molmo2_config(vocab_size: int, image_size: int = 56) -> Any:
    """Return a tiny config whose image tokens have ids from ``vocab_size``, in the released order."""
    from transformers import Molmo2Config

    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "image_size": [image_size, image_size],
    }
    adapter = {
        "hidden_size": 32,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 64,
        "text_hidden_size": 64,
        "vision_feature_layer": [2, 0],
    }
    rope = {"rope_type": "default", "rope_theta": 1e6}
    text = small_decoder(vocab_size=vocab_size, head_dim=16, additional_vocab_size=16, rope_parameters=rope)
    first = vocab_size
    return Molmo2Config(
        vision_config=vision,
        adapter_config=adapter,
        text_config=text,
        image_start_token_id=first,
        image_end_token_id=first + 1,
        image_patch_id=first + 2,
        low_res_image_start_token_id=first + 4,
        frame_start_token_id=first + 7,
        frame_end_token_id=first + 8,
    )


def save_tiny_molmo2(folder: str | Path, texts: Iterable[str], seed: int = 0, *, image_size: int = 56) -> Path:
    """Write a tiny native Molmo2 and return its folder. Its processor needs torchvision."""
    from transformers import (
        Molmo2ForConditionalGeneration,
        Molmo2ImageProcessor,
        Molmo2Processor,
        Molmo2VideoProcessor,
    )

    tokens = TinyTokenizer(texts, SPECIALS, eos="<|im_end|>", pad="<|endoftext|>")
    tokens.backend.add_special_tokens(IMAGE_TOKENS)
    model = random_model(Molmo2ForConditionalGeneration, tiny_molmo2_config(tokens.size, image_size), seed)
    processor = Molmo2Processor(
        image_processor=Molmo2ImageProcessor(
            size={"height": image_size, "width": image_size}, overlap_margins=[1, 1], max_crops=4
        ),
        video_processor=Molmo2VideoProcessor(size={"height": image_size, "width": image_size}),
        tokenizer=tokens.wrapped(bos="<|im_end|>", image_token="<|image|>", video_token="<|video|>"),
        chat_template=chatml_template("<|image|>"),
    )
    return save(folder, model, processor, tokens.special)
