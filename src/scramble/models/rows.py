"""Scores sequences without a token trie. Each sequence is one row of a forward pass of the unmodified model.

The inputs of a prompt are the processor's outputs. Inputs with one value per token (``token_type_ids``,
``mm_token_type_ids``, Mllama's ``cross_attention_mask``) receive the values for the answer's tokens that the model's
``_update_model_kwargs_for_generation`` would append in ``generate``. An answer is therefore scored in exactly the
context in which the model would have generated it. For example, PaliGemma attends bidirectionally in the prompt and
causally in the answer. Rows are padded on the right, so that padding changes neither positions nor what a token attends
to.

TRL's trainers receive the same rows (:mod:`scramble.training.trl_backend`). TRL builds batches without the model, so
this module extends the inputs itself instead of calling the model's method.

Shape legend: B rows, L tokens, K last tokens that are projected to the vocabulary, V vocabulary.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from scramble.models.family import Family, Prompt
from scramble.models.generation import padding_id
from scramble.models.vlm import VLM
from scramble.trie.engine import NonFiniteError
from scramble.trie.score import SequenceScore, default_batch_tokens

# Inputs with one value per token. Gemma's and Qwen's token types mark image tokens. Mllama's mask marks visible images.
PER_TOKEN = frozenset({"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "cross_attention_mask"})


@dataclass(frozen=True, slots=True)
class PromptRow:
    """Holds a prompt and an answer, which form one row.

    Attributes:
        prompt: the encoded prompt.
        completion: token ids of the answer.
        scored: for each token of the answer, whether the token is scored.
        name: name of the row in error messages.
    """

    prompt: Prompt
    completion: list[int]
    scored: list[bool]
    name: str = ""


def iter_row_scores(
    vlm: VLM, groups: Iterable[Sequence[PromptRow]], *, batch_tokens: int | None = None
) -> Iterator[list[SequenceScore]]:
    """Yield a list of the scores of each group's rows, in the order of ``groups``.

    Args:
        vlm: the model; put the model into evaluation mode first if it has dropout.
        groups: groups of rows about the same images; all rows of a batch belong to one group.
        batch_tokens: maximum number of positions per batch, including padding. A longer row forms its own batch. None
            means :func:`scramble.trie.score.default_batch_tokens`.

    Raises:
        NonFiniteError: a log-probability is NaN or infinite. The message names the row.
    """
    if batch_tokens is None:
        batch_tokens = default_batch_tokens(vlm.backbone.head.weight.device)
    for rows in groups:
        scores: list[SequenceScore] = []
        length = max((len(row.prompt.input_ids) + len(row.completion) for row in rows), default=1)
        size = max(1, batch_tokens // length)
        for start in range(0, len(rows), size):
            scores += _score(vlm, rows[start : start + size])
        yield scores


def extend(family: Family, prompt: Prompt, ids: Sequence[int]) -> Prompt:
    """Return the prompt followed by tokens of its answer. Inputs with one value per token are also extended."""
    inputs = dict(prompt.images or {})
    for name in PER_TOKEN & inputs.keys():
        last = inputs[name][:, -1:]  # cross_attention_mask: the answer sees the same images as the end of the prompt
        if name == "token_type_ids":
            last = torch.full_like(last, family.answer_token_type)
        elif name == "mm_token_type_ids":
            last = torch.zeros_like(last)
        inputs[name] = _lengthened(inputs[name], len(ids), last)
    return Prompt([*prompt.input_ids, *ids], inputs)


def collate(rows: Sequence[Mapping[str, Tensor]], padding: int, multiple: int = 1) -> dict[str, Tensor]:
    """Return the arguments of ``model.forward`` for several rows.

    Inputs with one value per token are padded on the right. All other inputs have images, tiles or patches along the
    first axis and are concatenated along this axis. Their remaining axes are padded with zeros to the largest size, as
    in a batch that a processor creates.

    Args:
        rows: the arguments for each row.
        padding: token id used as padding.
        multiple: the length of the padded rows is a multiple of this number of tokens.
    """
    length = -(-max(row["input_ids"].shape[1] for row in rows) // multiple) * multiple
    columns: dict[str, list[Tensor]] = {}
    for row in rows:
        for name, tensor in row.items():
            if name in PER_TOKEN:
                value = torch.full_like(tensor[:, :1], padding if name == "input_ids" else 0)
                tensor = _lengthened(tensor, length - tensor.shape[1], value)
            columns.setdefault(name, []).append(tensor)
    return {name: _concatenated(tensors) for name, tensors in columns.items()}


def _lengthened(tensor: Tensor, tokens: int, value: Tensor) -> Tensor:
    """Return an input with one value per token (1, L, ...), extended by ``tokens`` copies of ``value`` (1, 1, ...)."""
    return torch.cat([tensor, value.expand(-1, tokens, *tensor.shape[2:])], dim=1)


def _concatenated(tensors: Sequence[Tensor]) -> Tensor:
    largest = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    padded = []
    for tensor in tensors:
        missing = [[0, most - size] for most, size in zip(largest, tensor.shape[1:], strict=True)]
        padded.append(pad(tensor, [n for axis in reversed(missing) for n in axis]))
    return torch.cat(padded)


@torch.inference_mode()
def _score(vlm: VLM, rows: Sequence[PromptRow]) -> list[SequenceScore]:
    """Return the scores of rows about the same images from one forward pass."""
    model: Any = vlm.backbone.model
    length = max(len(row.prompt.input_ids) + len(row.completion) for row in rows)
    num_logits = length - min(len(row.prompt.input_ids) for row in rows) + 1
    # The head is the largest layer, so it runs only on the last tokens if forward has this option.
    keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
    options = {"logits_to_keep": num_logits} if keeps else {}
    inputs = [vlm.family.generation_inputs(extend(vlm.family, row.prompt, row.completion), vlm.model) for row in rows]
    batch = collate(inputs, padding_id(vlm.processor.tokenizer))
    logits_BKV = model(**batch, use_cache=False, **options).logits[:, -num_logits:]
    scores = []
    for row, logits_KV in zip(rows, logits_BKV, strict=True):
        # The last token of the prompt predicts the first token of the answer.
        first = len(row.prompt.input_ids) - 1 - (length - num_logits)
        target = torch.tensor(row.completion, device=logits_KV.device)
        logps = logits_KV[first : first + len(target)].float().log_softmax(-1).gather(-1, target[:, None])[:, 0]
        tokens = logps[torch.tensor(row.scored, device=logps.device)].tolist()
        if not all(map(math.isfinite, tokens)):
            raise NonFiniteError(
                f"{row.name or 'a sequence'}: a log-probability is NaN or infinite: set model.dtype=float32"
            )
        scores.append(SequenceScore(tuple(tokens)))
    return scores
