"""Runs recurrent modules of a decoder (gated DeltaNet) along the paths of a trie.

The output of a recurrent module at a token depends on all earlier tokens through a convolution and a state. No
attention mask can describe this dependence. Each path from the first token to a leaf therefore becomes one row of the
module's input. If several paths share a token, the output at this token is the same on all these paths and is read
from one of them. All other layers run on the shared tokens.

Shape suffixes: B rows of the batch, L tokens per row, P paths, N tokens of the longest path, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


@dataclass(frozen=True, slots=True)
class Paths:
    """Describes the paths of a batch. Decoders receive the paths instead of a mask for their recurrent layers.

    Attributes:
        tokens_PN: flat positions (in B * L) of each path's tokens; arbitrary in padding.
        places_BL: for each token, one of its flat indices (in P * N) on the paths; 0 in the batch's padding, whose
            outputs are not used.
        mask_PN: False in padding before the first token, because this padding must not change the state. None if
            padding follows the last token, where it cannot change the outputs of the path.
    """

    tokens_PN: Tensor
    places_BL: Tensor
    mask_PN: Tensor | None = None

    def map(self, move: Callable[[Tensor], Tensor]) -> Paths:
        """Return a copy with ``move`` applied to each tensor."""
        mask_PN = None if self.mask_PN is None else move(self.mask_PN)
        return Paths(move(self.tokens_PN), move(self.places_BL), mask_PN)

    def gather(self, values_BLD: Tensor) -> Tensor:
        """Return the values (P, N, D) along each path. The values are zero in padding before the first token."""
        flat = values_BLD.flatten(0, 1)
        values_PND = flat.index_select(0, self.tokens_PN.flatten()).unflatten(0, self.tokens_PN.shape)
        return values_PND if self.mask_PN is None else values_PND.masked_fill(~self.mask_PN[..., None], 0)

    def scatter(self, values_PND: Tensor) -> Tensor:
        """Return the values (B, L, D) of the tokens."""
        flat = values_PND.flatten(0, 1)
        return flat.index_select(0, self.places_BL.flatten()).unflatten(0, self.places_BL.shape)


def paths_to(ends_BL: Tensor, last_P: Tensor, rows_P: Tensor, *, align_ends: bool = False) -> Paths:
    """Return the paths that end at given tokens.

    Args:
        ends_BL: index in the row after the last descendant of each token.
        last_P: for each path, the index of its last token in the row. Every token except padding must be on a path.
        rows_P: row of each path.
        align_ends: whether padding precedes the paths, so that the state after the last column is the final state of
            every path. Otherwise, padding follows the paths and does not change their outputs.
    """
    length = ends_BL.shape[1]
    index_L = torch.arange(length, device=ends_BL.device)
    # The tokens of a path are its last token and the ancestors of this token.
    member_PL = (index_L <= last_P[:, None]) & (last_P[:, None] < ends_BL[rows_P])
    counts_P = member_PL.sum(1)
    longest = int(counts_P.max())
    paths, tokens = member_PL.nonzero(as_tuple=True)
    columns = member_PL.cumsum(1)[paths, tokens] - 1
    if align_ends:
        columns = columns + (longest - counts_P)[paths]
    tokens_PN = ends_BL.new_zeros((len(last_P), longest))
    mask_PN = torch.zeros_like(tokens_PN, dtype=torch.bool)
    tokens_PN[paths, columns] = flat = rows_P[paths] * length + tokens
    mask_PN[paths, columns] = True
    places_BL = torch.zeros_like(ends_BL)
    places_BL.view(-1)[flat] = paths * longest + columns
    return Paths(tokens_PN, places_BL, mask_PN if align_ends else None)


def single_tokens(like_BL: Tensor) -> Paths:
    """Return a path of one token for every token of a batch with the shape of ``like_BL``."""
    index = torch.arange(like_BL.numel(), device=like_BL.device)
    return Paths(index[:, None], index.view_as(like_BL))


_HOOKED: WeakSet[nn.Module] = WeakSet()


def run_along_paths(module: nn.Module) -> None:
    """Hook a module so that it runs along the paths if it is called with :class:`Paths` as its ``attention_mask``.

    The projections of the module's inputs (``in_proj...``) and of its output (``out_proj``) act on each position
    separately. These projections run on the shared tokens, and only the convolution and the recurrence between them run
    along the paths.

    The hooks are permanent, because gradient checkpointing runs layers again in the backward pass, with the arguments
    of the forward pass. The hooks do not change calls with other masks.
    """
    if module not in _HOOKED:
        hooks = _Hooks()
        module.register_forward_pre_hook(hooks.before, with_kwargs=True)
        module.register_forward_hook(hooks.after)
        _HOOKED.add(module)


class _Hooks:
    """Manages the hooks of one module, and the hooks of its projections during a forward pass.

    The projections are hooked for each pass, because PEFT may replace them between passes.
    """

    def __init__(self) -> None:
        self.handles: list[RemovableHandle] = []

    def before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        self._remove()  # hooks that remain from a failed pass
        paths = kwargs.get("attention_mask")
        if not isinstance(paths, Paths):
            return args, kwargs
        hidden_BLD: Tensor = kwargs["hidden_states"]

        def shared(module: nn.Module, args: Any) -> tuple[Tensor]:
            return (hidden_BLD,)

        def gather(module: nn.Module, args: Any, output_BLD: Tensor) -> Tensor:
            return paths.gather(output_BLD)

        def scatter(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            return (paths.scatter(*args),)

        for name, child in module.named_children():
            if name.startswith("in_proj"):
                self.handles += child.register_forward_pre_hook(shared), child.register_forward_hook(gather)
            elif name == "out_proj":
                self.handles.append(child.register_forward_pre_hook(scatter))
        # The module reads only the shape of its input, because the projections receive the shared tokens.
        shape = (*paths.tokens_PN.shape, hidden_BLD.shape[-1])
        return args, {**kwargs, "hidden_states": hidden_BLD.new_zeros(()).expand(shape), "attention_mask": None}

    def after(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self._remove()

    def _remove(self) -> None:
        while self.handles:
            self.handles.pop().remove()
