"""Creates a tiny GLM-4.1V or GLM-4.5V. Images keep their aspect ratio, and position ids have three axes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scramble.models.families.glm4v import Glm4vImageProcessor
from scramble.models.tiny.parts import TinyTokenizer, random_model, save, small_decoder

SPECIALS = [
    "<|endoftext|>",
    "[gMASK]",
    "<sop>",
    "<|user|>",
    "<|assistant|>",
    "<|begin_of_image|>",
    "<|image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|video|>",
    "<|end_of_video|>",
]
PARTS = (
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|begin_of_image|><|image|><|end_of_image|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
)
# As in the released templates, a finished turn has no end token, and GLM-4.1V's answers are strings.
TEMPLATE = (
    "[gMASK]<sop>{% for message in messages %}<|{{ message['role'] }}|>\n"
    "{% if message['role'] == 'assistant' %}{{ message['content'] }}{% else %}" + PARTS + "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
THINKING_TEMPLATE = (
    "[gMASK]<sop>{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>\n<think></think>\n"
    + PARTS
    + "{% else %}<|user|>\n"
    + PARTS
    + "{% if enable_thinking is defined and not enable_thinking %}/nothink{% endif %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '\\n' }}<think></think>{% endif %}{% endif %}"
)


def save_tiny_glm4v(
    folder: str | Path, texts: Iterable[str], seed: int = 0, *, max_pixels: int = 64 * 64, experts: int = 0
) -> Path:
    """Write a tiny native GLM-4.1V, or a tiny GLM-4.5V if ``experts`` is not 0, and return the model's folder.

    Each image token represents 16 x 16 px.

    Args:
        folder, texts, seed: see :func:`scramble.models.tiny.save_tiny`.
        max_pixels: maximum number of pixels per image.
        experts: number of experts of each layer except the first, of which two are active; 0 for a dense decoder.
    """
    from transformers import (
        Glm4vConfig,
        Glm4vForConditionalGeneration,
        Glm4vImageProcessorPil,
        Glm4vMoeConfig,
        Glm4vMoeForConditionalGeneration,
    )

    tokens = TinyTokenizer(texts, SPECIALS, eos="<|user|>", pad="<|endoftext|>")
    decoder = small_decoder(
        vocab_size=tokens.size,
        num_hidden_layers=3,
        head_dim=16,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.5,
            "mrope_section": [2, 1, 1],
        },
        pad_token_id=tokens.ids["<|endoftext|>"],
    )
    classes: tuple[Any, Any] = (Glm4vConfig, Glm4vForConditionalGeneration)
    if experts:
        decoder |= {"n_routed_experts": experts, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
        classes = (Glm4vMoeConfig, Glm4vMoeForConditionalGeneration)
    config = classes[0](
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "out_hidden_size": 64,
            "num_heads": 4,
            "image_size": 64,
            "patch_size": 8,
        },
        text_config=decoder,
        image_token_id=tokens.ids["<|image|>"],
        video_token_id=tokens.ids["<|video|>"],
        image_start_token_id=tokens.ids["<|begin_of_image|>"],
        image_end_token_id=tokens.ids["<|end_of_image|>"],
        video_start_token_id=tokens.ids["<|begin_of_video|>"],
        video_end_token_id=tokens.ids["<|end_of_video|>"],
    )
    model = random_model(classes[1], config, seed)
    processor = Glm4vImageProcessor(
        image_processor=Glm4vImageProcessorPil(
            # The processor counts an image as two frames.
            size={"shortest_edge": 2 * 16 * 16, "longest_edge": 2 * max_pixels},
            patch_size=8,  # type: ignore[call-arg]
        ),
        tokenizer=tokens.wrapped(
            eos="<|endoftext|>",
            user_token="<|user|>",
            image_token="<|image|>",
            video_token="<|video|>",
        ),
        chat_template=THINKING_TEMPLATE if experts else TEMPLATE,
    )
    return save(folder, model, processor, tokens.special)
