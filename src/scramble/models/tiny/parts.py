"""Shared parts of the tiny models: tokenizer, chat template, random weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


def set_special_ids(model: Any, *, eos: int, pad: int, bos: int | None = None) -> None:
    """Set the ids that ``generate`` stops and pads with."""
    model.generation_config.bos_token_id = bos
    model.generation_config.eos_token_id = eos
    model.generation_config.pad_token_id = pad


def ids_of(backend: Any, tokens: Sequence[str]) -> dict[str, int]:
    """Ids of the named tokens."""
    return {token: backend.token_to_id(token) for token in tokens}
