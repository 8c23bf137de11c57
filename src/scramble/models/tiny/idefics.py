"""Creates a tiny Idefics3, the architecture of SmolVLM. Unlike SmolVLM's processor, its processor has no video part."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from scramble.models.tiny.parts import TinyTokenizer, random_model, save, small_decoder, small_tower

SPECIALS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<end_of_utterance>",
    "<image>",
    "<fake_token_around_image>",
    "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
]
TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}:"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% elif part['type'] == 'text' %} {{ part['text'] }}{% endif %}"
    "{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


def save_tiny_idefics(folder: str | Path, texts: Iterable[str], seed: int = 0, *, image_size: int = 32) -> Path:
    """Write a tiny native Idefics3 and return its folder. A tile of 32 px with patches of 8 px is encoded as 4
    tokens.
    """
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessorPil,
        Idefics3Processor,
    )

    tokens = TinyTokenizer(
        texts,
        SPECIALS,
        eos="<end_of_utterance>",
        pad="<|endoftext|>",
        roles=("User", "Assistant"),
        prefix_space=False,
    )
    config = Idefics3Config(
        vision_config=small_tower(image_size, 8),
        text_config=small_decoder(
            vocab_size=tokens.size, model_type="llama", **tokens.special | {"bos_token_id": tokens.ids["<|im_start|>"]}
        ),
        scale_factor=2,
        image_token_id=tokens.ids["<image>"],
    )
    model = random_model(Idefics3ForConditionalGeneration, config, seed)
    processor = Idefics3Processor(
        image_processor=Idefics3ImageProcessorPil(
            size={"longest_edge": 2 * image_size}, max_image_size={"longest_edge": image_size}
        ),
        tokenizer=tokens.wrapped(),
        image_seq_len=(image_size // 8 // 2) ** 2,
        chat_template=TEMPLATE,
    )
    return save(folder, model, processor, tokens.special)
