"""Samples tokens so that each sample depends only on its seed and logits.

Shape suffixes: B rows, V vocabulary, K tokens after top-k filtering.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class RowSampler:
    """Applies top-k and nucleus sampling with the Gumbel trick.

    The argmax of logits / T + Gumbel noise is a sample from the softmax of logits / T. Each row has its own
    ``torch.Generator``. Top-k filtering is applied before nucleus (top-p) filtering. ``top_k=0`` disables top-k
    filtering.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, top_p: float, top_k: int = 0) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._temperature, self._top_p, self._top_k = temperature, top_p, top_k

    def __call__(self, input_ids: Tensor | None, scores: Tensor) -> Tensor:
        """Return the scores (B, V) whose argmax is the sampled token."""
        logits_BV = scores.float() / self._temperature
        if 0 < self._top_k < logits_BV.shape[-1]:
            # The tokens are sorted in vocabulary order, so that near ties get the same noise in any batch.
            index_BK = logits_BV.topk(self._top_k, dim=-1).indices.sort(-1).values
            drawn_BK = self._noised(logits_BV.gather(-1, index_BK))
            return torch.full_like(logits_BV, -torch.inf).scatter_(-1, index_BK, drawn_BK)
        return self._noised(logits_BV)

    def _noised(self, logits_BV: Tensor) -> Tensor:
        """Return the logits plus Gumbel noise for the tokens in the nucleus, and -inf for all others."""
        if self._top_p < 1:
            sorted_BV, order_BV = logits_BV.sort(dim=-1, descending=True)
            before_BV = sorted_BV.softmax(-1).cumsum(-1) - sorted_BV.softmax(-1)
            sorted_BV = sorted_BV.masked_fill(before_BV >= self._top_p, -torch.inf)
            logits_BV = torch.empty_like(logits_BV).scatter_(-1, order_BV, sorted_BV)
        size = logits_BV.shape[-1]
        uniform_BV = torch.stack([torch.rand(size, generator=generator) for generator in self._generators])
        noise_BV = -torch.log(-torch.log(uniform_BV.clamp_min(1e-20)))
        return logits_BV + noise_BV.to(logits_BV.device)
