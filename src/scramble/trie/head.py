"""Computes log-probabilities of given tokens from hidden states.

No full-vocabulary logits are stored for the backward pass.

Shape suffixes: R predicting positions, T predictions (sorted by row), C rows of a chunk, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 25  # number of logits in memory at a time (128 MiB in float32)


def head_logprobs(
    hidden_RD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    row_starts: Sequence[int],
    target_rows_T: Tensor,
    target_ids_T: Tensor,
    *,
    softcap: float | None = None,
    chunk_elements: int = CHUNK_ELEMENTS,
    with_statistics: bool = False,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the log-softmax (T,) of the head's logits at the given tokens, in nats.

    The dtype is float32, or float64 for a float64 head.

    Without ``softcap``, the gradient of ``log p(y)`` with respect to the hidden state is ``W[y] - softmax(W h) @ W``.
    The second term does not depend on the upstream gradient, so the forward pass computes it for each chunk of rows
    while the logits of the chunk are available. The logits are not stored, and are recomputed only if the head itself
    is trained.

    Args:
        hidden_RD: hidden states of the predicting positions.
        weight_VD, bias_V: the head.
        row_starts: R + 1 indices; the predictions of row r are ``row_starts[r]:row_starts[r + 1]``.
        target_rows_T, target_ids_T: row and token id of each prediction.
        softcap: bound of the logits, see :func:`cap_logits`; None means unbounded.
        chunk_elements: maximum number of logits in memory at a time.
        with_statistics: also return entropy and log sum p^2 of each position's distribution, without gradients.

    Returns:
        The log-probabilities (T,), the entropy -sum p log p (R,) in nats, and log sum p^2 (R,), from which the
        weights of WPO are computed (arXiv 2406.11827). Without statistics, the last two results are None.
    """
    chunk_rows = max(1, chunk_elements // weight_VD.shape[0])
    statistics = hidden_RD.new_empty((2, len(hidden_RD)), dtype=torch.float32) if with_statistics else None
    logps_T: Tensor = _HeadLogProbs.apply(
        hidden_RD, weight_VD, bias_V, row_starts, target_rows_T, target_ids_T, softcap, chunk_rows, statistics
    )
    return (logps_T, None, None) if statistics is None else (logps_T, statistics[0], statistics[1])


def cap_logits(logits: Tensor, softcap: float | None) -> Tensor:
    """Bound logits to (-softcap, softcap) with ``softcap * tanh(logits / softcap)``, as in Gemma.

    If ``softcap`` is None, the logits are unchanged.
    """
    return logits if softcap is None else torch.tanh(logits / softcap) * softcap


class _HeadLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_RD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        row_starts: Sequence[int],
        target_rows_T: Tensor,
        target_ids_T: Tensor,
        softcap: float | None,
        chunk_rows: int,
        statistics_2R: Tensor | None,
    ) -> Tensor:
        needs_hidden_grad = ctx.needs_input_grad[0]
        precision = torch.promote_types(weight_VD.dtype, torch.float32)
        logps_T = hidden_RD.new_empty(len(target_ids_T), dtype=precision)
        expected_RD = torch.empty_like(hidden_RD, dtype=precision) if needs_hidden_grad else None
        slopes_T = None if softcap is None else torch.empty_like(logps_T)
        for start in range(0, len(hidden_RD), chunk_rows):
            stop = min(start + chunk_rows, len(hidden_RD))
            targets = slice(row_starts[start], row_starts[stop])
            rows_T, ids_T = target_rows_T[targets] - start, target_ids_T[targets]
            logits_CV = _logits(hidden_RD[start:stop], weight_VD, bias_V, softcap)
            norm_C = logits_CV.logsumexp(-1)
            if slopes_T is not None and softcap is not None:
                slopes_T[targets] = _slopes(logits_CV[rows_T, ids_T], softcap)
            logps_T[targets] = logits_CV[rows_T, ids_T] - norm_C[rows_T]
            if statistics_2R is not None:
                logps_CV = logits_CV - norm_C[:, None]
                statistics_2R[0, start:stop] = -(logps_CV.exp() * logps_CV).sum(-1)
                statistics_2R[1, start:stop] = (2 * logps_CV).logsumexp(-1)
            if expected_RD is not None:
                slopes_CV = None if softcap is None else _slopes(logits_CV, softcap)
                probs_CV = logits_CV.sub_(norm_C[:, None]).exp_()  # in place, because logits are no longer needed
                if slopes_CV is not None:
                    probs_CV.mul_(slopes_CV)
                expected_RD[start:stop] = _matmul(probs_CV, weight_VD)
        ctx.save_for_backward(hidden_RD, weight_VD, bias_V, target_rows_T, target_ids_T, expected_RD, slopes_T)
        ctx.row_starts, ctx.chunk_rows, ctx.softcap = row_starts, chunk_rows, softcap
        return logps_T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_T,) = grads
        hidden_RD, weight_VD, _, target_rows_T, target_ids_T, expected_RD, slopes_T = ctx.saved_tensors
        # The second term of a row, softmax(W h) @ W, is multiplied by the sum of the upstream gradients of its
        # predictions.
        grad_R = grad_T.new_zeros(len(hidden_RD)).index_add_(0, target_rows_T, grad_T)
        grad_hidden = grad_weight = grad_bias = None
        if expected_RD is not None:
            targets_TD = weight_VD[target_ids_T] * (grad_T if slopes_T is None else grad_T * slopes_T)[:, None]
            grad_hidden = expected_RD.mul(-grad_R[:, None]).index_add_(0, target_rows_T, targets_TD)
            grad_hidden = grad_hidden.to(hidden_RD.dtype)
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            grad_weight, grad_bias = _head_gradients(ctx, grad_T, grad_R)
        return grad_hidden, grad_weight, grad_bias, None, None, None, None, None, None


def _head_gradients(ctx: Any, grad_T: Tensor, grad_R: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the gradients of a trained head's weight and bias. The logits are recomputed, chunk by chunk."""
    hidden_RD, weight_VD, bias_V, target_rows_T, target_ids_T, *_ = ctx.saved_tensors
    grad_weight = torch.zeros_like(weight_VD, dtype=grad_T.dtype)
    grad_bias = None if bias_V is None else torch.zeros_like(bias_V, dtype=grad_T.dtype)
    for start in range(0, len(hidden_RD), ctx.chunk_rows):
        stop = min(start + ctx.chunk_rows, len(hidden_RD))
        targets = slice(ctx.row_starts[start], ctx.row_starts[stop])
        logits_CV = _logits(hidden_RD[start:stop], weight_VD, bias_V, ctx.softcap)
        grad_CV = logits_CV.softmax(-1).mul_(-grad_R[start:stop, None])
        grad_CV.index_put_((target_rows_T[targets] - start, target_ids_T[targets]), grad_T[targets], accumulate=True)
        if ctx.softcap is not None:
            grad_CV.mul_(_slopes(logits_CV, ctx.softcap))
        grad_weight.addmm_(grad_CV.T, hidden_RD[start:stop].to(grad_T.dtype))
        if grad_bias is not None:
            grad_bias += grad_CV.sum(0)
    return grad_weight.to(weight_VD.dtype), None if grad_bias is None else grad_bias.to(bias_V.dtype)


def _logits(hidden_CD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, softcap: float | None) -> Tensor:
    logits_CV = _matmul(hidden_CD, weight_VD.T)
    return cap_logits(logits_CV if bias_V is None else logits_CV.add_(bias_V), softcap)


def _slopes(capped: Tensor, softcap: float) -> Tensor:
    """Return the derivative of :func:`cap_logits` with respect to its input, given the capped logits."""
    return 1 - (capped / softcap) ** 2


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    """Compute ``a @ b`` with operands in b's dtype and a result in float32 or float64.

    On CUDA, ``out_dtype`` makes the kernel return its float32 sums without rounding them to bfloat16.
    """
    a = a.to(b.dtype)
    if b.dtype in (torch.float32, torch.float64):
        return a @ b
    return torch.mm(a, b, out_dtype=torch.float32) if b.is_cuda else (a @ b).float()
