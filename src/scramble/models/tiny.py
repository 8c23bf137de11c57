"""Tiny random models in the real file formats, with a tokenizer made from given texts.

They run every experiment on a CPU in seconds (``+debug=tiny``) and are the model of the embedded world.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from scramble.models.internvl import InternVLImageProcessor

INTERNVL_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<IMG_CONTEXT>{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)


def make_tokenizer(
    texts: Iterable[str], vocab_size: int, special_tokens: Iterable[str], roles: Iterable[str] = ("user", "assistant")
) -> Any:
    """A byte-level BPE tokenizer (``tokenizers.Tokenizer``) trained on ``texts``; the same texts give the same ids.

    Common words become single tokens, any other text stays representable; ``roles`` are single tokens always.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    # A prefix space makes a word the same token at the start of a turn and inside it.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special_tokens),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = list(texts)
    # As frequent as texts, the role words are merged whole before rarer words fill the vocabulary.
    tokenizer.train_from_iterator([*texts, *(role for role in roles for _ in range(len(texts) + 100))], trainer)
    return tokenizer


def save_tiny_internvl(
    folder: str | Path,
    texts: Iterable[str],
    seed: int = 0,
    *,
    image_size: int = 48,
    patch_size: int = 6,
    vision_layers: int = 3,
    vision_width: int = 96,
    layers: int = 4,
    width: int = 128,
    heads: int = 4,
    vocab_size: int = 1024,
) -> Path:
    """Write a tiny native InternVL (about 1.2 M parameters at the defaults) and return its folder.

    ViT 3 x 96 on 48 px with patches of 6 px, 16 image tokens after pixel shuffle, Qwen2 decoder 4 x 128.
    ``AutoModelForImageTextToText`` and ``AutoProcessor`` load the folder like a released model.
    """
    from transformers import (
        GotOcr2ImageProcessorPil,
        InternVLConfig,
        InternVLForConditionalGeneration,
        PreTrainedTokenizerFast,
    )

    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"]
    backend = make_tokenizer(texts, vocab_size, specials)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        clean_up_tokenization_spaces=False,
    )
    ids = {token: backend.token_to_id(token) for token in specials}
    config = InternVLConfig(
        vision_config={
            "hidden_size": vision_width,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": 4,
            "intermediate_size": 2 * vision_width,
            "image_size": [image_size, image_size],
            "patch_size": [patch_size, patch_size],
            "attention_bias": True,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": backend.get_vocab_size(),
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "intermediate_size": 352 * width // 128,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        image_token_id=ids["<IMG_CONTEXT>"],
        image_seq_length=(image_size // patch_size // 2) ** 2,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = InternVLForConditionalGeneration(config)
    model.generation_config.eos_token_id = ids["<|im_end|>"]
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    processor = InternVLImageProcessor(
        image_processor=GotOcr2ImageProcessorPil(
            size={"height": image_size, "width": image_size},
            image_mean=[0.485, 0.456, 0.406],
            image_std=[0.229, 0.224, 0.225],
            crop_to_patches=True,
            max_patches=1,
        ),
        tokenizer=tokenizer,
        image_seq_length=config.image_seq_length,
        chat_template=INTERNVL_TEMPLATE,
    )
    folder = Path(folder)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
