"""Creates a tiny LLaVA-NeXT with a CLIP tower and a Mistral decoder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from scramble.models.tiny.parts import TinyTokenizer, random_model, save, small_decoder, small_tower

SPECIALS = ["<unk>", "<s>", "</s>", "<pad>", "<image>", "[INST]", "[/INST]"]
# As in llava-v1.6-mistral-7b-hf, there is no BOS, and "<\s>" ends an answer.
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}[INST] "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    " [/INST]{% else %}{{ ' ' + message['content'][0]['text'] + '<\\s> ' }}{% endif %}{% endfor %}"
)


def save_tiny_llava_next(folder: str | Path, texts: Iterable[str], seed: int = 0, *, image_size: int = 28) -> Path:
    """Write a tiny native LLaVA-NeXT and return its folder. A tile of 28 px with patches of 7 px is encoded as 16
    tokens.
    """
    from transformers import (
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessorPil,
        LlavaNextProcessor,
    )

    tokens = TinyTokenizer(texts, SPECIALS, bos="<s>", eos="</s>", pad="<pad>")
    tokens.backend.post_processor = _bos("<s>", tokens.ids["<s>"])
    grids = [[r * image_size, c * image_size] for r, c in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))]
    config = LlavaNextConfig(
        vision_config=small_tower(
            image_size, 7, model_type="clip_vision_model", num_hidden_layers=3, projection_dim=64
        ),
        text_config=small_decoder(vocab_size=tokens.size, model_type="mistral", sliding_window=None, **tokens.special),
        image_token_index=tokens.ids["<image>"],
        image_seq_length=(image_size // 7) ** 2,
        image_grid_pinpoints=grids,
    )
    model = random_model(LlavaNextForConditionalGeneration, config, seed)
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessorPil(
            size={"shortest_edge": image_size},
            crop_size={"height": image_size, "width": image_size},
            image_grid_pinpoints=grids,
        ),
        tokenizer=tokens.wrapped(image_token="<image>"),
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    return save(folder, model, processor, tokens.special)


def _bos(token: str, token_id: int) -> object:
    """Return a post-processor that adds BOS to texts encoded with special tokens, as Llama's tokenizers do."""
    from tokenizers.processors import TemplateProcessing

    return TemplateProcessing(single=f"{token} $A", special_tokens=[(token, token_id)])
