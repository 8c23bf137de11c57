"""Scores of pairs as columns, and filters as conditions on columns.

A scorer returns a number for each text; :func:`score_pairs` writes ``<name>.chosen`` and ``<name>.rejected`` into a
pair's scores. A filter is ``(column, minimum, maximum)`` and never runs a model. Models are loaded only by the
``load_*`` functions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from scramble.pairs.audit.text_only import plain
from scramble.pairs.captions.surface import problem
from scramble.records import PreferencePair

GRAMMAR_MODEL = "textattack/distilbert-base-uncased-CoLA"
PLAUSIBILITY_MODEL = "liujch1998/vera"
_VERA_WEIGHT, _VERA_BIAS, _VERA_TEMPERATURE = 32099, 32098, 32097  # rows of Vera's embedding that contain its head

TextScorer = Callable[[Sequence[str]], Sequence[float]]
ImageScorer = Callable[[Sequence[tuple[str, str]]], Sequence[float]]  # (image id, text) -> yes-probability


class FilterError(ValueError):
    """A filter that cannot be applied because the column is missing. The message names pair and column."""


# ---------------------------------------------------------------------------------------------------------- columns


def score_pairs(
    pairs: Iterable[PreferencePair], scorers: dict[str, TextScorer], *, batch: int = 256
) -> Iterator[PreferencePair]:
    """Stream the pairs, adding the columns ``<name>.chosen`` and ``<name>.rejected`` of each scorer."""
    stream = iter(pairs)
    while chunk := list(islice(stream, batch)):
        columns: list[dict[str, float]] = [dict(pair.scores) for pair in chunk]
        for name, scorer in scorers.items():
            for side in ("chosen", "rejected"):
                values = scorer([getattr(pair, side) for pair in chunk])
                for column, value in zip(columns, values, strict=True):
                    column[f"{name}.{side}"] = float(value)
        for pair, column in zip(chunk, columns, strict=True):
            yield replace(pair, scores=column)


def score_images(
    pairs: Iterable[PreferencePair], scorer: ImageScorer, *, name: str = "image_yes", batch: int = 64
) -> Iterator[PreferencePair]:
    """Stream the pairs, adding a model's probability of "yes" for both texts (columns as in :func:`score_pairs`).

    The scorer asks the base model (through the trie engine) whether the image shows the text. If it answers yes for
    the rejected text, this text is probably still true of the image.
    """
    stream = iter(pairs)
    while chunk := list(islice(stream, batch)):
        queries = [(p.image_ids[0], text) for p in chunk for text in (p.chosen, p.rejected)]
        values = [float(value) for value in scorer(queries)]
        for place, pair in enumerate(chunk):
            yes = {f"{name}.chosen": values[2 * place], f"{name}.rejected": values[2 * place + 1]}
            yield replace(pair, scores=pair.scores | yes)


def text_columns(pair: PreferencePair) -> dict[str, float]:
    """Columns that need no model: word ratio, share of common words, same words in the same order, and English."""
    chosen, rejected = plain(pair.chosen).split(), plain(pair.rejected).split()
    common = len(set(chosen) & set(rejected)) / max(1, len(set(chosen) | set(rejected)))
    return {
        "length_ratio": len(rejected) / max(1, len(chosen)),
        "common_words": common,
        "same_words": float(chosen == rejected),
        "usable": float(not problem(pair.rejected)),
    }


def lemma_identity(nlp: Any) -> Callable[[PreferencePair], dict[str, float]]:
    """The column ``same_lemmas``: 1 if both texts have the same lemmas in order (lower case, no punctuation)."""

    def column(pair: PreferencePair) -> dict[str, float]:
        lemmas = [[t.lemma_.lower() for t in nlp(text) if not t.is_punct] for text in (pair.chosen, pair.rejected)]
        return {"same_lemmas": float(lemmas[0] == lemmas[1])}

    return column


def add_columns(
    pairs: Iterable[PreferencePair], *columns: Callable[[PreferencePair], dict[str, float]]
) -> Iterator[PreferencePair]:
    """Stream the pairs, adding the columns that each function computes from a pair."""
    for pair in pairs:
        scores = dict(pair.scores)
        for column in columns:
            scores |= column(pair)
        yield replace(pair, scores=scores)


# ---------------------------------------------------------------------------------------------------------- filters


def keep(
    pairs: Iterable[PreferencePair],
    bounds: dict[str, tuple[float | None, float | None]],
    *,
    on_drop: Callable[[PreferencePair, str], None] | None = None,
) -> Iterator[PreferencePair]:
    """The pairs whose columns are within bounds ``{column: (minimum, maximum)}``; None means unbounded.

    ``on_drop`` is called with each dropped pair and the column. Raises FilterError if a pair lacks a column.
    """
    for pair in pairs:
        fault = next((name for name, bound in bounds.items() if not _within(pair, name, bound)), None)
        if fault is None:
            yield pair
        elif on_drop is not None:
            on_drop(pair, fault)


def _within(pair: PreferencePair, name: str, bound: tuple[float | None, float | None]) -> bool:
    if name not in pair.scores:
        raise FilterError(f"pair {pair.pair_id} has no column {name!r} (it has {sorted(pair.scores)}): score it first")
    low, high = bound
    value = pair.scores[name]
    return (low is None or value >= low) and (high is None or value <= high)


def drop_near_duplicates(
    pairs: Iterable[PreferencePair],
    *,
    per_image: bool = True,
    on_drop: Callable[[PreferencePair, str], None] | None = None,
) -> Iterator[PreferencePair]:
    """Keep the first of all pairs with equal words on both sides, for each image or overall.

    Memory grows with the number of distinct pairs (about 8 bytes each).
    """
    seen: set[int] = set()
    for pair in pairs:
        key = hash((pair.image_ids if per_image else (), _bag(pair.chosen), _bag(pair.rejected), plain(pair.rejected)))
        if key in seen:
            if on_drop is not None:
                on_drop(pair, "near duplicate")
            continue
        seen.add(key)
        yield pair


def _bag(text: str) -> frozenset[str]:
    return frozenset(re.sub(r"\b(?:a|an|the|is|are)\b", " ", plain(text)).split())


# ----------------------------------------------------------------------------------------------------------- models


def load_grammar(path: str | Path = GRAMMAR_MODEL, *, device: str = "cpu", batch: int = 64) -> TextScorer:
    """Probability that a text is acceptable English: class 1 of a CoLA classifier (texts truncated to 128 tokens)."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    model: Any = AutoModelForSequenceClassification.from_pretrained(path)
    model.to(device).eval()

    @torch.inference_mode()
    def score(texts: Sequence[str]) -> list[float]:
        values: list[float] = []
        for start in range(0, len(texts), batch):
            part = list(texts[start : start + batch])
            inputs = tokenizer(part, padding=True, truncation=True, max_length=128, return_tensors="pt").to(device)
            values += model(**inputs).logits.float().softmax(-1)[:, 1].tolist()
        return values

    return score


def load_plausibility(path: str | Path = PLAUSIBILITY_MODEL, *, device: str = "cpu", batch: int = 16) -> TextScorer:
    """Calibrated probability that a statement is true by common sense, by Vera (Liu et al. 2023).

    Vera is a T5 encoder with its head in three spare rows of its embedding: the weight (hidden,) in row 32099, the
    bias in row 32098, entry 0, and the temperature in row 32097, entry 0. The score is
    ``sigmoid((weight . hidden state of the last token + bias) / temperature)``.
    """
    import torch
    from transformers import AutoTokenizer, T5EncoderModel

    tokenizer = AutoTokenizer.from_pretrained(path)
    model: Any = T5EncoderModel.from_pretrained(path)
    model.to(device).eval()
    rows = model.shared.weight.detach().float()
    if rows.shape[0] <= _VERA_WEIGHT:
        raise ValueError(f"{path} is not Vera: its head is in row {_VERA_WEIGHT}, but there are {rows.shape[0]} rows")
    weight, bias, temperature = rows[_VERA_WEIGHT], rows[_VERA_BIAS, 0], rows[_VERA_TEMPERATURE, 0]

    @torch.inference_mode()
    def score(texts: Sequence[str]) -> list[float]:
        values: list[float] = []
        for start in range(0, len(texts), batch):
            part = list(texts[start : start + batch])
            inputs = tokenizer(part, padding=True, truncation=True, max_length=128, return_tensors="pt").to(device)
            hidden = model(**inputs).last_hidden_state.float()
            last = inputs["attention_mask"].sum(-1) - 1
            logits = hidden[torch.arange(len(part)), last] @ weight + bias
            values += torch.sigmoid(logits / temperature).tolist()
        return values

    return score


def load_likelihood(path: str | Path, *, device: str = "cpu", batch: int = 32) -> TextScorer:
    """Log-likelihood of a text in nats under a causal language model, summed over its tokens."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model: Any = AutoModelForCausalLM.from_pretrained(path)
    model.to(device).eval()
    start_id = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id

    @torch.inference_mode()
    def score(texts: Sequence[str]) -> list[float]:
        values: list[float] = []
        for begin in range(0, len(texts), batch):
            part = [[start_id, *tokenizer(t, add_special_tokens=False).input_ids] for t in texts[begin : begin + batch]]
            inputs = tokenizer.pad({"input_ids": part}, return_tensors="pt").to(device)
            logits = model(**inputs).logits[:, :-1].float().log_softmax(-1)
            targets = inputs["input_ids"][:, 1:, None]
            token = logits.gather(-1, targets)[..., 0] * inputs["attention_mask"][:, 1:]
            values += token.sum(-1).tolist()
        if not all(map(math.isfinite, values)):
            raise ValueError(f"{path} gave a log-likelihood that is not finite")
        return values

    return score
