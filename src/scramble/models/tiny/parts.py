"""Shared parts of the tiny models: tokenizer, chat template, random weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch


def make_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    special_tokens: Iterable[str],
    roles: Iterable[str] = ("user", "assistant"),
    prefix_space: bool = True,
) -> Any:
    """Train a byte-level BPE tokenizer (``tokenizers.Tokenizer``) on ``texts``; the same texts result in the same ids.

    Common words become single tokens, and any other text can be represented too. ``roles`` are always single tokens.
    With ``prefix_space`` a word has the same token at the start of a turn and inside it.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special_tokens),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = list(texts)
    # Repeated as often as there are texts, role words become single tokens before rarer words fill the vocabulary.
    tokenizer.train_from_iterator([*texts, *(role for role in roles for _ in range(len(texts) + 100))], trainer)
    return tokenizer


def wrap_tokenizer(backend: Any, *, eos: str, pad: str, bos: str | None = None, **named: str) -> Any:
    """Wrap a tokenizer for transformers; ``named`` tokens become attributes (``image_token`` and so on)."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        extra_special_tokens=named,
        clean_up_tokenization_spaces=False,
    )


def chatml_template(image: str) -> str:
    """A minimal chat template in ChatML's style with placeholder ``image``; it is short, for speed on a CPU."""
    return (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}"
        "{% if message['content'] is string %}{{ message['content'] }}"
        "{% else %}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}" + image + "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
        "{% endfor %}{% endif %}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
    )


def random_model(cls: type, config: Any, seed: int) -> Any:
    """Create a model with random weights from a seed, without changing the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return cls(config)


def ids_of(backend: Any, tokens: Sequence[str]) -> dict[str, int]:
    """Ids of the named tokens."""
    return {token: backend.token_to_id(token) for token in tokens}


def special_ids(backend: Any, *, eos: str, pad: str, bos: str | None = None) -> dict[str, Any]:
    """Ids of special tokens, under the names that the configs of decoders and generation give them."""
    tokens = {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad}
    return {name: None if token is None else backend.token_to_id(token) for name, token in tokens.items()}


def small_decoder(**others: Any) -> dict[str, Any]:
    """Config of a decoder with two layers of width 64 and four heads; ``others`` are added or replace these values."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "max_position_embeddings": 4096}
    return {**sizes, "num_attention_heads": 4, "num_key_value_heads": 2, **others}


def small_tower(image_size: int, patch_size: int, **others: Any) -> dict[str, Any]:
    """Config of a tower with two layers of width 64 and four heads; ``others`` are added or replace these values."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    return {**sizes, "image_size": image_size, "patch_size": patch_size, **others}


def save(folder: str | Path, model: Any, processor: Any, special: Mapping[str, Any], **options: Any) -> Path:
    """Write a model and its processor, and return the folder.

    Args:
        folder: output folder.
        model: its generation config gets the ids of ``special`` (see :func:`special_ids`).
        processor: the model's processor.
        special: ids that ``generate`` starts, stops and pads with.
        options: arguments of ``model.save_pretrained``.
    """
    for name, token in special.items():
        setattr(model.generation_config, name, token)
    model.save_pretrained(folder, **options)
    processor.save_pretrained(folder)
    return Path(folder)
