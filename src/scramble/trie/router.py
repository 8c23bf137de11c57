"""Computes the load-balancing loss of a mixture of experts on a trie.

The result equals the loss of a batch with one sequence per row.

Shape suffixes: B rows, L tokens per row, E experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


def has_routers(decoder: nn.Module) -> bool:
    """Return whether a decoder has a load-balancing loss and router logits that can be recorded.

    Gemma 4 has no load-balancing loss, and its models record router probabilities as ``router_logits``, even without
    experts.
    """
    records = getattr(decoder, "_can_record_outputs", None) or {}
    return "router_logits" in records and hasattr(decoder.config, "router_aux_loss_coef")


@contextmanager
def recorded_router_logits(decoder: nn.Module) -> Iterator[list[Tensor]]:
    """Within the block, record the logits (B L, E) of each router. The list is complete after a forward pass.

    transformers declares which modules of a decoder are routers and which of their outputs are the logits.
    """
    transformers_decoder: Any = decoder
    recorder = transformers_decoder._can_record_outputs["router_logits"]
    logits: list[Tensor] = []

    def record(module: nn.Module, args: Any, output: Any) -> None:
        logits.append(output[recorder.index])

    routers = [module for module in decoder.modules() if isinstance(module, recorder.target_class)]
    handles = [router.register_forward_hook(record) for router in routers]
    try:
        yield logits
    finally:
        for handle in handles:
            handle.remove()


def load_balancing_loss(logits: Sequence[Tensor], sequences_BL: Tensor, experts_per_token: int) -> Tensor:
    """Return the auxiliary loss of the Switch Transformer (arXiv 2101.03961, eqs. 4 to 6), over all layers together.

    A token that S sequences share counts S times, so the result equals the loss of a batch with one sequence per row.

    Args:
        logits: the router logits (B L, E) of each layer.
        sequences_BL: number of sequences that pass through each token, 0 in padding.
        experts_per_token: number of active experts per token.
    """
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    # transformers weights tokens by the mask, which may contain counts instead of zeros and ones.
    layers: Any = tuple(logits)  # the annotation in transformers is a tuple of one tensor
    loss = load_balancing_loss_func(layers, logits[0].shape[-1], experts_per_token, sequences_BL)
    assert isinstance(loss, Tensor)
    return loss
