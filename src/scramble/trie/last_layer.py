"""Runs parts of the last decoder layer only at positions that predict a scored token.

The outputs of the last layer at all other positions are not used.

Keys and values of the last layer are needed at all positions. The query and output projections and the MLP of this
layer act on each position separately, so they run only on the predicting positions. Their outputs at all other
positions are zero.

Shape suffixes: B rows, L tokens per row, R predicting positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# Module names in decoder layers of transformers and of Molmo. Modules with other names run at all positions.
POSITION_WISE = ("self_attn.q_proj", "self_attn.o_proj", "mlp", "attn_out", "ff_proj", "ff_out")


def last_layer(decoder: nn.Module) -> nn.Module | None:
    """Return the last layer of a decoder, or None if the decoder has no ModuleList of layers."""
    layers = getattr(decoder, "layers", None) or getattr(decoder, "blocks", None)
    return layers[-1] if isinstance(layers, nn.ModuleList) else None


@contextmanager
def only_predicting(decoder: nn.Module, rows_R: Tensor) -> Iterator[None]:
    """Within the block, restrict the last layer to ``rows_R`` (flat positions in B * L) where possible.

    A last layer with gradient checkpointing is not restricted. It is recomputed after the block has ended, without the
    hooks, so the shapes of the recomputed tensors would differ from the shapes in the forward pass.
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
    """Hook a module so that it receives only ``rows_R`` and its output is scattered into zeros of the full shape.

    Hooks work for every model family and with adapters inside the module. Copies of forward methods would have to be
    updated with every change in transformers.
    """
    leading: list[torch.Size] = []  # shapes of the inputs, which gather saves for scatter

    def gather(module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
        (values,) = args
        leading.append(values.shape[:-1])
        # Use one row of R positions, because mixture-of-experts layers unpack (batch, length, width).
        return (values.flatten(0, -2).index_select(0, rows_R)[None],)

    def scatter(module: nn.Module, args: Any, output: Any) -> Any:
        # Some mixture-of-experts layers return (states, router scores). The scores are not used.
        states, others = (output[0], output[1:]) if isinstance(output, tuple) else (output, None)
        shape = leading.pop()
        everywhere = states.new_zeros(shape.numel(), states.shape[-1])
        everywhere = everywhere.index_copy(0, rows_R, states.flatten(0, -2)).unflatten(0, shape)
        return everywhere if others is None else (everywhere, *others)

    stack.callback(module.register_forward_pre_hook(gather).remove)
    stack.callback(module.register_forward_hook(scatter).remove)
