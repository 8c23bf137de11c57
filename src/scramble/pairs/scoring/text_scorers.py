"""Load models that score texts: grammar (CoLA), plausibility (Vera) and log-likelihood (a causal language model).

Weights must be in safetensors format. Code from model repositories is never run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from scramble.models.family import ModelError
from scramble.models.hub import explain
from scramble.models.loading import quiet
from scramble.pairs.base import TextScorer

GRAMMAR_MODEL = "textattack/distilbert-base-uncased-CoLA"
PLAUSIBILITY_MODEL = "liujch1998/vera"
_VERA_WEIGHT, _VERA_BIAS, _VERA_TEMPERATURE = 32099, 32098, 32097  # rows of Vera's embedding that contain its head


def load_grammar(
    path: str | Path = GRAMMAR_MODEL,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str | None = None,
    batch_size: int = 64,
) -> TextScorer:
    """Load a scorer for the probability that a text is acceptable English.

    This is the probability of class 1 of a CoLA classifier. Texts are truncated to 128 tokens.

    Args:
        path: hub id or folder.
        revision: branch, tag or commit.
        dtype: ``auto`` (as saved), ``float32``, ``bfloat16`` or ``float16``.
        device: device of the model. None selects the GPU if there is one.
    Raises:
        ModelError: the model cannot be loaded.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model, tokenizer, at = load_pretrained(
        AutoModelForSequenceClassification, AutoTokenizer, path, revision, dtype, device
    )
    if model.config.num_labels != 2:
        raise ModelError(f"{path} has {model.config.num_labels} classes: use a CoLA classifier, which has 2 classes")

    def score(texts: list[str]) -> list[float]:
        inputs = tokenizer(texts, padding=True, truncation=True, max_length=128, return_tensors="pt").to(at)
        values: list[float] = model(**inputs).logits.float().softmax(-1)[:, 1].tolist()
        return values

    return _in_batches(score, batch_size)


def load_plausibility(
    path: str | Path = PLAUSIBILITY_MODEL,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str | None = None,
    batch_size: int = 16,
) -> TextScorer:
    """Load Vera (Liu et al. 2023), a scorer for the probability that a statement is true by common sense.

    Vera is a T5 encoder. Three spare rows of its embedding contain its head: row 32099 is the weight (hidden,), entry 0
    of row 32098 is the bias, and entry 0 of row 32097 is the temperature. The calibrated score is
    ``sigmoid((weight . hidden state of the last token + bias) / temperature)``. The arguments are documented
    in :func:`load_grammar`.
    """
    from transformers import AutoTokenizer, T5EncoderModel

    model, tokenizer, at = load_pretrained(T5EncoderModel, AutoTokenizer, path, revision, dtype, device)
    rows = model.shared.weight.detach()
    if rows.shape[0] <= _VERA_WEIGHT:
        raise ModelError(
            f"{path} is not Vera: the embedding has {rows.shape[0]} rows, but Vera's head is in row {_VERA_WEIGHT}: "
            f"use {PLAUSIBILITY_MODEL}"
        )
    weight, bias = rows[_VERA_WEIGHT].float(), rows[_VERA_BIAS, 0].float()
    temperature = rows[_VERA_TEMPERATURE, 0].float()

    def score(texts: list[str]) -> list[float]:
        inputs = tokenizer(texts, padding=True, truncation=True, max_length=128, return_tensors="pt").to(at)
        inputs.pop("token_type_ids", None)
        hidden = model(**inputs).last_hidden_state.float()
        last = inputs["attention_mask"].sum(-1) - 1
        logits = hidden[torch.arange(len(texts)), last] @ weight + bias
        values: list[float] = torch.sigmoid(logits / temperature).tolist()
        return values

    return _in_batches(score, batch_size)


def load_likelihood(
    path: str | Path,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str | None = None,
    batch_size: int = 32,
) -> TextScorer:
    """Load a scorer for the log-likelihood of a text in nats, summed over its tokens.

    The model is a causal language model, or a vision-language model that receives no image. The arguments are
    documented in :func:`load_grammar`. The scorer raises ModelError if a value is not finite.
    """
    from transformers import AutoTokenizer

    model, tokenizer, at = load_pretrained(_text_model(path, revision), AutoTokenizer, path, revision, dtype, device)
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    start_id = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id

    def score(texts: list[str]) -> list[float]:
        ids = [[start_id, *tokenizer(text, add_special_tokens=False).input_ids] for text in texts]
        inputs = tokenizer.pad({"input_ids": ids}, return_tensors="pt").to(at)
        logits = model(**inputs).logits[:, :-1].float().log_softmax(-1)
        targets = inputs["input_ids"][:, 1:, None]
        token = logits.gather(-1, targets)[..., 0] * inputs["attention_mask"][:, 1:]
        values: list[float] = token.sum(-1).tolist()
        if not all(map(math.isfinite, values)):
            raise ModelError(
                f"the model {path} returned a log-likelihood that is not finite: set "
                "pairs.scores.likelihood.dtype=float32"
            )
        return values

    return _in_batches(score, batch_size)


def _in_batches(score: Callable[[list[str]], list[float]], batch_size: int) -> TextScorer:
    """Return a scorer that passes at most ``batch_size`` texts at a time to ``score``."""

    @torch.inference_mode()
    def scorer(texts: Sequence[str]) -> list[float]:
        starts = range(0, len(texts), batch_size)
        return [value for start in starts for value in score(list(texts[start : start + batch_size]))]

    return scorer


def _text_model(path: str | Path, revision: str | None) -> Any:
    """Return the auto class that loads a causal or a vision-language model."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    try:
        config = AutoConfig.from_pretrained(path, revision=revision)
    except (OSError, ValueError):  # the error is reported when the weights are loaded
        return AutoModelForCausalLM
    return AutoModelForImageTextToText if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING else AutoModelForCausalLM


def load_pretrained(
    model_class: Any, processor_class: Any, path: str | Path, revision: str | None, dtype: str, device: str | None
) -> tuple[Any, Any, str]:
    """Load a model in evaluation mode, and return it with its tokenizer or processor and its device.

    ``device=None`` selects the GPU if there is one.

    Raises:
        ModelError: the model cannot be loaded. The message is one line.
    """
    at = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        with quiet():
            processor = processor_class.from_pretrained(path, revision=revision)
            model = model_class.from_pretrained(path, revision=revision, dtype=dtype, use_safetensors=True)
    except (OSError, ValueError, RuntimeError, KeyError) as error:  # transformers raises exceptions of many types
        raise explain(error, str(path), revision, "path") from error
    return model.to(at).eval(), processor, at
