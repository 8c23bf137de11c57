"""Creates a tiny LLaVA-1.5 with a CLIP tower, a two-layer projector and a Llama decoder.

The tokenizer adds a space before the first word, as Llama's does.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from scramble.models.families.llava import SYSTEM
from scramble.models.tiny.parts import TinyTokenizer, random_model, save, small_decoder, small_tower

SPECIALS = ["<unk>", "<s>", "</s>", "<pad>", "<image>"]
TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def save_tiny_llava(folder: str | Path, texts: Iterable[str], seed: int = 0, *, image_size: int = 56) -> Path:
    """Write a tiny native LLaVA-1.5 and return its folder. An image of 56 px with patches of 14 px is encoded as 16
    tokens.
    """
    from transformers import CLIPImageProcessorPil, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    tokens = TinyTokenizer([*texts, SYSTEM], SPECIALS, bos="<s>", eos="</s>", pad="<pad>", roles=("USER", "ASSISTANT"))
    config = LlavaConfig(
        vision_config=small_tower(
            image_size, 14, model_type="clip_vision_model", num_hidden_layers=3, projection_dim=64
        ),
        text_config=small_decoder(vocab_size=tokens.size, model_type="llama", num_key_value_heads=4, **tokens.special),
        image_token_index=tokens.ids["<image>"],
        image_seq_length=(image_size // 14) ** 2,
    )
    model = random_model(LlavaForConditionalGeneration, config, seed)
    square = {"height": image_size, "width": image_size}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": image_size}, crop_size=square),
        tokenizer=tokens.wrapped(image_token="<image>"),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    return save(folder, model, processor, tokens.special)
