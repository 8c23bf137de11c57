"""Provides the parts that tiny models share: the tokenizer, the chat template and the random weights."""

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
    """Train a byte-level BPE tokenizer (``tokenizers.Tokenizer``) on ``texts``.

    The same texts always result in the same ids. Common words and ``roles`` become single tokens, and any other text
    can also be represented. With ``prefix_space``, a word has the same token at the start of a turn and within it.
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
    # Repeat the role words once per text, so that they become single tokens before words of the texts fill the
    # vocabulary.
    tokenizer.train_from_iterator([*texts, *(role for role in roles for _ in range(len(texts) + 100))], trainer)
    return tokenizer


class TinyTokenizer:
    """Holds a tokenizer trained on texts (:func:`make_tokenizer`) and its special tokens.

    Args:
        texts: training texts.
        specials: all special tokens.
        eos, pad, bos: special tokens that end, pad and start a text.
        vocab_size: maximum size of the vocabulary.
        options: see :func:`make_tokenizer`.

    Attributes:
        backend: the ``tokenizers.Tokenizer``.
        size: size of the vocabulary.
        ids: ids of the special tokens by their texts.
        special: ids of ``eos``, ``pad`` and ``bos``, with the keys of decoder and generation configs (``eos_token_id``,
            ...).
    """

    def __init__(
        self,
        texts: Iterable[str],
        specials: Sequence[str],
        *,
        eos: str,
        pad: str,
        bos: str | None = None,
        vocab_size: int = 1024,
        **options: Any,
    ) -> None:
        self.backend = make_tokenizer(texts, vocab_size, specials, **options)
        self.size: int = self.backend.get_vocab_size()
        self.ids: dict[str, int] = {token: self.backend.token_to_id(token) for token in specials}
        self._named = {"bos_token": bos, "eos_token": eos, "pad_token": pad}
        self.special: dict[str, Any] = {f"{name}_id": token and self.ids[token] for name, token in self._named.items()}

    def wrapped(self, *, eos: str | None = None, bos: str | None = None, **named: str) -> Any:
        """Return the tokenizer for transformers. ``named`` tokens become attributes (``image_token`` and so on).

        ``eos`` and ``bos`` replace the tokens that the configs name.
        """
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast(
            tokenizer_object=self.backend,
            bos_token=bos or self._named["bos_token"],
            eos_token=eos or self._named["eos_token"],
            pad_token=self._named["pad_token"],
            extra_special_tokens=named,
            clean_up_tokenization_spaces=False,
        )


def chatml_template(image: str) -> str:
    """Return a short ChatML template with the image placeholder ``image``. Short prompts make tiny models fast."""
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


def small_decoder(**others: Any) -> dict[str, Any]:
    """Return the config of a decoder with two layers of width 64 and four heads, updated with ``others``."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "max_position_embeddings": 4096}
    return {**sizes, "num_attention_heads": 4, "num_key_value_heads": 2, **others}


def small_tower(image_size: int, patch_size: int, **others: Any) -> dict[str, Any]:
    """Return the config of a tower with two layers of width 64 and four heads, updated with ``others``."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    return {**sizes, "image_size": image_size, "patch_size": patch_size, **others}


def save(folder: str | Path, model: Any, processor: Any, special: Mapping[str, Any], **options: Any) -> Path:
    """Write a model and its processor, and return the folder.

    Args:
        folder: output folder.
        model: the model, whose generation config gets the ids of ``special``.
        processor: the model's processor.
        special: ids with which ``generate`` starts, stops and pads (see :class:`TinyTokenizer`).
        options: arguments of ``model.save_pretrained``.
    """
    for name, token in special.items():
        setattr(model.generation_config, name, token)
    model.save_pretrained(folder, **options)
    processor.save_pretrained(folder)
    return Path(folder)
