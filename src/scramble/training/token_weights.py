"""Computes weights from token log-probabilities: WPO weights pairs, and LD-DPO weights tokens.

Suffixes of tensor names: M scored tokens, Q sequences, P pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scramble.training.collator import PairBatch
from scramble.training.policy import PolicyLogps


def wpo_weights(output: PolicyLogps, batch: PairBatch) -> Tensor:
    """Return the weight of each pair (P,), which is the product of the weights of its answers, without gradient.

    An answer's weight, exp(mean over tokens of log p - log sum p^2), is larger if the answer is more likely under the
    policy. This is eq. 2 of WPO (Zhou et al. 2024, 2406.11827).
    """
    assert output.log_sum_squares_M is not None
    sequence_M = batch.tries.token_sequence_M.to(output.tokens_M.device)
    aligned_M = output.tokens_M.detach() - output.log_sum_squares_M
    sums_Q = torch.zeros_like(output.sums_Q).index_add(0, sequence_M, aligned_M)
    weights_Q = torch.exp(sums_Q / output.counts_Q.clamp_min(1))
    weights_P = weights_Q[batch.chosen_P.to(weights_Q.device)]
    if batch.rejected_P is None:
        return weights_P
    return weights_P * weights_Q[batch.rejected_P.to(weights_Q.device)]


def length_desensitised(output: PolicyLogps, batch: PairBatch, alpha: float) -> PolicyLogps:
    """Multiply the log-probabilities of tokens beyond the length of the pair's shorter answer by ``alpha``.

    This is LD-DPO (Liu et al. 2024, 2409.06411). For example, the log-probabilities (-1, -2, -4), a shorter answer of
    one token and alpha = 0.5 give -1 + 0.5 * -6 = -4.
    """
    if batch.rejected_P is None:
        return output
    counts_Q, device = output.counts_Q, output.tokens_M.device
    chosen_P, rejected_P = batch.chosen_P.to(device), batch.rejected_P.to(device)
    shared_P = torch.minimum(counts_Q[chosen_P], counts_Q[rejected_P])
    shared_Q = counts_Q.clone().index_copy_(0, chosen_P, shared_P).index_copy_(0, rejected_P, shared_P)
    sequence_M = batch.tries.token_sequence_M.to(device)
    first_Q = counts_Q.cumsum(0) - counts_Q
    place_M = torch.arange(len(sequence_M), device=device) - first_Q[sequence_M]
    weight_M = torch.where(place_M < shared_Q[sequence_M], 1.0, alpha).to(output.tokens_M)

    def weighted(tokens_M: Tensor | None) -> Tensor | None:
        if tokens_M is None:
            return None
        return torch.zeros_like(output.sums_Q).index_add(0, sequence_M, tokens_M * weight_M)

    sums_Q = weighted(output.tokens_M)
    assert sums_Q is not None
    # The unweighted sums times 0 keep the graph connected to an unused tower (see Policy._untouched_vision).
    return output._replace(sums_Q=sums_Q + 0.0 * output.sums_Q, reference_Q=weighted(output.reference_M))
