"""Creates a tiny Gemma 3 with a SigLIP tower and a decoder in which most layers have a sliding window."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from scramble.models.tiny.parts import TinyTokenizer, random_model, save, small_decoder, small_tower

SPECIALS = [
    "<pad>",
    "<eos>",
    "<bos>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<start_of_image>",
    "<image_soft_token>",
    "<end_of_image>",
]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<start_of_turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<start_of_image>"
    "{% elif part['type'] == 'text' %}{{ part['text'] | trim }}{% endif %}"
    "{% endfor %}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def save_tiny_gemma3(
    folder: str | Path, texts: Iterable[str], seed: int = 0, *, image_size: int = 32, sliding_window: int = 12
) -> Path:
    """Write a tiny native Gemma 3 and return its folder. An image of 32 px with patches of 4 px is encoded as 16
    tokens.
    """
    from transformers import (
        Gemma3Config,
        Gemma3ForConditionalGeneration,
        Gemma3ImageProcessorPil,
        Gemma3Processor,
    )

    tokens = TinyTokenizer(
        texts,
        SPECIALS,
        bos="<bos>",
        eos="<end_of_turn>",
        pad="<pad>",
        roles=("user", "model"),
        prefix_space=False,
    )
    config = Gemma3Config(
        vision_config=small_tower(
            image_size,
            4,
            model_type="siglip_vision_model",
            hidden_size=32,
            intermediate_size=64,
            vision_use_head=False,
        ),
        text_config=small_decoder(
            vocab_size=tokens.size,
            num_hidden_layers=4,
            head_dim=16,
            query_pre_attn_scalar=16,
            sliding_window=sliding_window,
            layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
            **tokens.special,
        ),
        mm_tokens_per_image=(image_size // 8) ** 2,
        boi_token_index=tokens.ids["<start_of_image>"],
        eoi_token_index=tokens.ids["<end_of_image>"],
        image_token_index=tokens.ids["<image_soft_token>"],
    )
    model = random_model(Gemma3ForConditionalGeneration, config, seed)
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessorPil(size={"height": image_size, "width": image_size}),
        tokenizer=tokens.wrapped(
            eos="<eos>",
            boi_token="<start_of_image>",
            image_token="<image_soft_token>",
            eoi_token="<end_of_image>",
        ),
        image_seq_length=(image_size // 8) ** 2,
        chat_template=TEMPLATE,
    )
    return save(folder, model, processor, tokens.special)
