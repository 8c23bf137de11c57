"""Creates a tiny Mistral 3 with a Pixtral tower and a Mistral or Ministral decoder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scramble.models.tiny.parts import TinyTokenizer, random_model, save, small_decoder, small_tower

SPECIALS = ["<unk>", "<s>", "</s>", "<pad>", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"]


def tiny_mistral3_config(ids: dict[str, int], vocab_size: int, decoder: str = "mistral") -> Any:
    """Return a tiny config for images with sides of up to 64 px, whose patches of 8 px are merged 2 x 2."""
    from transformers import Mistral3Config

    return Mistral3Config(
        vision_config=small_tower(64, 8, model_type="pixtral", head_dim=16),
        text_config=small_decoder(
            vocab_size=vocab_size,
            model_type=decoder,
            head_dim=16,
            sliding_window=None,
            bos_token_id=ids["<s>"],
            eos_token_id=ids["</s>"],
            pad_token_id=ids["<pad>"],
        ),
        image_token_index=ids["[IMG]"],
        tie_word_embeddings=False,
    )


def save_tiny_mistral3(folder: str | Path, texts: Iterable[str], seed: int = 0, *, decoder: str = "mistral") -> Path:
    """Write a tiny native Mistral 3 and return its folder. Its processor needs torchvision.

    ``decoder`` is ``mistral`` (Mistral Small 3.1) or ``ministral3`` (Ministral 3).
    """
    from transformers import Mistral3ForConditionalGeneration, PixtralImageProcessor, PixtralProcessor

    tokens = TinyTokenizer(texts, SPECIALS, bos="<s>", eos="</s>", pad="<pad>")
    config = tiny_mistral3_config(tokens.ids, tokens.size, decoder)
    model = random_model(Mistral3ForConditionalGeneration, config, seed)
    processor = PixtralProcessor(
        image_processor=PixtralImageProcessor(size={"longest_edge": 64}, patch_size=16),
        tokenizer=tokens.wrapped(),
        patch_size=8,
        spatial_merge_size=2,
    )
    return save(folder, model, processor, tokens.special)
