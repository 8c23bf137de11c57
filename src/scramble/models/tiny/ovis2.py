"""Creates a tiny Ovis2.

The model consists of a tower that predicts visual words, a visual vocabulary, and a Qwen2 decoder. Prompts are in
ChatML format.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from scramble.models.families.ovis2 import INDICATORS, PATCH
from scramble.models.tiny.parts import TinyTokenizer, chatml_template, random_model, save, small_decoder, small_tower

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", PATCH, *INDICATORS]


def save_tiny_ovis2(folder: str | Path, texts: Iterable[str], seed: int = 0, *, image_size: int = 32) -> Path:
    """Write a tiny native Ovis2 and return its folder.

    A tile of 32 px with patches of 8 px, which are merged 2 x 2, is encoded as 4 tokens. An image is encoded as up
    to 6 tiles and a thumbnail.
    """
    from transformers import Ovis2Config, Ovis2ForConditionalGeneration, Ovis2ImageProcessorPil, Ovis2Processor

    tokens = TinyTokenizer(texts, SPECIALS, eos="<|im_end|>", pad="<|endoftext|>")
    config = Ovis2Config(
        vision_config=small_tower(image_size, 8, vocab_size=64, hidden_stride=2),
        text_config=small_decoder(vocab_size=tokens.size, model_type="qwen2", **tokens.special),
        image_token_id=tokens.ids[PATCH],
        visual_indicator_token_ids=[tokens.ids[token] for token in INDICATORS],
        vocab_size=tokens.size,
        hidden_size=64,
        tie_word_embeddings=False,
    )
    model = random_model(Ovis2ForConditionalGeneration, config, seed)
    # The initial values of the visual table are meant for 65,536 visual words and are a hundredth of the text
    # embeddings' scale.
    model.model.visual_embeddings_table.weight.data *= 20
    processor = Ovis2Processor(
        image_processor=Ovis2ImageProcessorPil(
            size={"height": image_size, "width": image_size}, crop_to_patches=True, max_patches=6
        ),
        tokenizer=tokens.wrapped(),
        image_seq_length=(image_size // 8 // 2) ** 2,
        chat_template=chatml_template("<image>"),
    )
    return save(folder, model, processor, tokens.special)
