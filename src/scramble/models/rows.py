"""Scores sequences with models without a token trie: each sequence is one row of the unmodified model's forward.

A prompt's inputs are those of the processor. Inputs with one value per token (``token_type_ids``,
``mm_token_type_ids``, Mllama's ``cross_attention_mask``) are continued for the answer's tokens by the model's own
``_update_model_kwargs_for_generation``, as ``generate`` continues them. An answer is therefore scored in exactly the
context in which the model would have generated it; PaliGemma, for example, reads the prompt bidirectionally and the
answer causally. Rows are padded on the right, so that padding changes neither positions nor what a token attends to.

Shape legend: B rows, L tokens, K last tokens that are projected to the vocabulary, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from scramble.models.family import Prompt
from scramble.models.generation import padding_id
from scramble.models.vlm import VLM
from scramble.trie.engine import NonFiniteError
from scramble.trie.score import BATCH_TOKENS_CPU, BATCH_TOKENS_GPU, SequenceScore


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt and an answer.

    Attributes:
        prompt: the encoded prompt.
        completion: token ids of the answer.
        scored: which of the answer's tokens are scored.
        name: shown in errors.
    """

    prompt: Prompt
    completion: list[int]
    scored: list[bool]
    name: str = ""


def iter_scores(
    vlm: VLM, groups: Iterable[Sequence[Row]], *, batch_tokens: int | None = None
) -> Iterator[list[SequenceScore]]:
    """Scores of all rows of each group, streamed in order.

    Args:
        vlm: the model; put it into evaluation mode first if it has dropout.
        groups: rows on the same images, which form batches together.
        batch_tokens: positions per batch, padding included; a longer row forms its own batch. Default 1024 on a CPU and
            8192 on a GPU.

    Raises:
        NonFiniteError: for a log-probability that is NaN or infinite, with the row's name.
    """
    device = vlm.backbone.head.weight.device
    if batch_tokens is None:
        batch_tokens = BATCH_TOKENS_CPU if device.type == "cpu" else BATCH_TOKENS_GPU
    for rows in groups:
        scores: list[SequenceScore] = []
        length = max((len(row.prompt.input_ids) + len(row.completion) for row in rows), default=1)
        size = max(1, batch_tokens // length)
        for start in range(0, len(rows), size):
            scores += _score(vlm, rows[start : start + size])
        yield scores


def extend(vlm: VLM, prompt: Prompt, ids: Sequence[int]) -> Prompt:
    """The prompt followed by tokens of its answer; inputs with one value per token are continued for them."""
    from transformers.utils import ModelOutput

    inputs = dict(prompt.images or {})
    model: Any = vlm.backbone.model
    for _ in ids:
        inputs = model._update_model_kwargs_for_generation(ModelOutput(), inputs, False, num_new_tokens=1)
    return Prompt([*prompt.input_ids, *ids], inputs)


@torch.inference_mode()
def _score(vlm: VLM, rows: Sequence[Row]) -> list[SequenceScore]:
    """Scores of rows with the same images: one forward pass."""
    model: Any = vlm.backbone.model
    length = max(len(row.prompt.input_ids) + len(row.completion) for row in rows)
    kept = length - min(len(row.prompt.input_ids) for row in rows) + 1
    # The head is the largest layer: it runs only on the last tokens if forward has this option.
    keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
    options = {"logits_to_keep": kept} if keeps else {}
    logits_BKV = model(**_batch(vlm, rows, length), use_cache=False, **options).logits[:, -kept:]
    scores = []
    for row, logits_KV in zip(rows, logits_BKV, strict=True):
        first = len(row.prompt.input_ids) - 1 - (length - kept)  # the prompt's last token predicts the answer's first
        target = torch.tensor(row.completion, device=logits_KV.device)
        logps = logits_KV[first : first + len(target)].float().log_softmax(-1).gather(-1, target[:, None])[:, 0]
        tokens = logps[torch.tensor(row.scored, device=logps.device)].tolist()
        if not all(abs(token) < float("inf") for token in tokens):
            raise NonFiniteError(
                f"{row.name or 'a sequence'}: a log-probability is NaN or infinite; try model.dtype=float32"
            )
        scores.append(SequenceScore(tuple(tokens)))
    return scores


def _batch(vlm: VLM, rows: Sequence[Row], length: int) -> dict[str, Tensor]:
    """The arguments of ``model.forward`` for rows with the same images, padded on the right to ``length``.

    Inputs of images are repeated per row; the processor's outputs for a batch have the same form.
    """
    batches: dict[str, list[Tensor]] = {}
    for row in rows:
        whole = extend(vlm, row.prompt, row.completion)
        per_token = {name for name, value in (row.prompt.images or {}).items() if _grew(value, whole.images, name)}
        inputs = vlm.family.generation_inputs(whole, vlm.model)
        missing = length - len(whole.input_ids)
        for name, value in inputs.items():
            if missing and (name in per_token or name in ("input_ids", "attention_mask")):
                # pad() counts axes from the last; the tokens are axis 1
                axes = [0, 0] * (value.dim() - 2) + [0, missing]
                value = pad(value, axes, value=padding_id(vlm.processor.tokenizer) if name == "input_ids" else 0)
            batches.setdefault(name, []).append(value)
    return {name: torch.cat(values) for name, values in batches.items()}


def _grew(value: Tensor, extended: Any, name: str) -> bool:
    return bool(value.shape != extended[name].shape)
