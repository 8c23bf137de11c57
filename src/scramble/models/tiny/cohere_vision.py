"""Creates a tiny Aya Vision or Command A Vision.

Each model consists of a SigLIP tower and a Cohere2 decoder with attention windows. Images are divided into tiles.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scramble.models.tiny.parts import TinyTokenizer, random_model, save, small_decoder, small_tower

MAX_TILES = 4
SPECIALS = [
    "<PAD>",
    "<BOS_TOKEN>",
    "<|START_OF_TURN_TOKEN|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|USER_TOKEN|>",
    "<|CHATBOT_TOKEN|>",
    "<image>",
    "<|IMG_PATCH|>",
    "<|START_OF_IMG|>",
    "<|END_OF_IMG|>",
    "<|IMG_LINE_BREAK|>",
    "TILE_GLOBAL",
    *(f"TILE_{number}" for number in range(1, MAX_TILES + 1)),
]
TOKENS: dict[str, Any] = {"bos": "<BOS_TOKEN>", "eos": "<|END_OF_TURN_TOKEN|>", "pad": "<PAD>"}
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|START_OF_TURN_TOKEN|>"
    "{{ '<|USER_TOKEN|>' if message['role'] == 'user' else '<|CHATBOT_TOKEN|>' }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<|END_OF_TURN_TOKEN|>{% endfor %}"
    "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}"
)


def save_tiny_aya_vision(folder: str | Path, texts: Iterable[str], seed: int = 0, *, window: int = 4096) -> Path:
    """Write a tiny native Aya Vision and return its folder. A tile of 28 px with patches of 7 px is encoded as 4
    tokens.
    """
    from transformers import (
        AyaVisionConfig,
        AyaVisionForConditionalGeneration,
        AyaVisionProcessor,
        GotOcr2ImageProcessorPil,
    )

    tokens = TinyTokenizer(texts, SPECIALS, **TOKENS)
    config = AyaVisionConfig(
        vision_config=small_tower(28, 7, model_type="siglip_vision_model", vision_use_head=False),
        text_config=_decoder(tokens, window),
        image_token_index=tokens.ids["<|IMG_PATCH|>"],
    )
    processor = AyaVisionProcessor(
        image_processor=GotOcr2ImageProcessorPil(
            size={"height": 28, "width": 28}, crop_to_patches=True, max_patches=MAX_TILES
        ),
        tokenizer=tokens.wrapped(),
        patch_size=7,
        downsample_factor=2,
        img_size=28,
        chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    )
    model = random_model(AyaVisionForConditionalGeneration, config, seed)
    return save(folder, model, processor, tokens.special)


def save_tiny_cohere2_vision(folder: str | Path, texts: Iterable[str], seed: int = 0, *, window: int = 4096) -> Path:
    """Write a tiny native Command A Vision and return its folder. Its image processor needs torchvision.

    A tile of 32 px with patches of 8 px is encoded as 4 tokens.
    """
    from transformers import (
        Cohere2VisionConfig,
        Cohere2VisionForConditionalGeneration,
        Cohere2VisionImageProcessor,
        Cohere2VisionProcessor,
    )

    tokens = TinyTokenizer(texts, SPECIALS, **TOKENS)
    tiles: dict[str, Any] = {"size": {"height": 32, "width": 32}, "max_patches": MAX_TILES, "patch_size": 2}
    config = Cohere2VisionConfig(
        vision_config=small_tower(32, 8, model_type="siglip_vision_model", vision_use_head=False),
        text_config=_decoder(tokens, window),
        image_token_id=tokens.ids["<|IMG_PATCH|>"],
        alignment_intermediate_size=64,
    )
    processor = Cohere2VisionProcessor(
        image_processor=Cohere2VisionImageProcessor(**tiles),
        tokenizer=tokens.wrapped(
            image_token="<|IMG_PATCH|>",
            boi_token="<|START_OF_IMG|>",
            eoi_token="<|END_OF_IMG|>",
            img_line_break_token="<|IMG_LINE_BREAK|>",
        ),
        chat_template=TEMPLATE.replace("IMAGE", "<|IMG_PATCH|>"),
    )
    model = random_model(Cohere2VisionForConditionalGeneration, config, seed)
    return save(folder, model, processor, tokens.special)


def _decoder(tokens: TinyTokenizer, window: int) -> dict[str, Any]:
    return small_decoder(
        model_type="cohere2",
        vocab_size=tokens.size,
        num_hidden_layers=4,  # three with a window, one without
        sliding_window=window,
        **tokens.special,
    )
