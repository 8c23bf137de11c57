"""The last layer where it is needed: of its output only the positions that predict a scored token are ever read.

Its keys and values are needed everywhere; its query and output projections and its feed-forward part act on each
position alone, so they run on the predicting positions and leave zeros elsewhere.

Shape suffixes: B rows, L tokens a row, R predicting positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# Names in a decoder layer, in transformers' models and in Molmo; a layer with other names runs in full.
POSITION_WISE = ("self_attn.q_proj", "self_attn.o_proj", "mlp", "attn_out", "ff_proj", "ff_out")


def last_layer(decoder: nn.Module) -> nn.Module | None:
    """The last layer of a decoder that keeps its layers in a list, else None."""
    layers = getattr(decoder, "layers", None) or getattr(decoder, "blocks", None)
    return layers[-1] if isinstance(layers, nn.ModuleList) else None


@contextmanager
def only_predicting(decoder: nn.Module, rows_R: Tensor) -> Iterator[None]:
    """While the block runs, the last layer works on ``rows_R`` (flat positions in B * L) where it may.

    A last layer that is checkpointed runs in full: its recomputation comes after the block has ended.
    """
    layer = last_layer(decoder)
    checkpointed = layer is not None and layer.training and getattr(layer, "gradient_checkpointing", False)
    with ExitStack() as stack:
        if layer is not None and not checkpointed:
            for name, module in layer.named_modules():
                if name in POSITION_WISE:
                    _restrict(module, rows_R, stack)
        yield


def _restrict(module: nn.Module, rows_R: Tensor, stack: ExitStack) -> None:
    leading: list[torch.Size] = []

    def gather(module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
        (values,) = args
        leading.append(values.shape[:-1])
        # One row of R positions: a mixture of experts unpacks (batch, length, width).
        return (values.flatten(0, -2).index_select(0, rows_R)[None],)

    def scatter(module: nn.Module, args: Any, output: Any) -> Any:
        # Some mixtures of experts return (states, router scores); nothing reads the scores.
        states, others = (output[0], output[1:]) if isinstance(output, tuple) else (output, None)
        shape = leading.pop()
        everywhere = states.new_zeros(shape.numel(), states.shape[-1])
        everywhere = everywhere.index_copy(0, rows_R, states.flatten(0, -2)).unflatten(0, shape)
        return everywhere if others is None else (everywhere, *others)

    stack.callback(module.register_forward_pre_hook(gather).remove)
    stack.callback(module.register_forward_hook(scatter).remove)
