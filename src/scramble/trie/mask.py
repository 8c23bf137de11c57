"""Builds the attention masks of token tries, in which token q attends to token k iff ``k <= q < end[k]``.

The rule also separates the tries of a row, and padding attends only to itself. For models with bidirectional image
blocks, the tokens of a block also attend to each other. In a layer with a sliding window, token k must also be fewer
than ``window`` tokens before q on q's path. This distance is the difference between the depths of the two tokens.
The window also limits attention within blocks, as in Gemma 3.

Shape suffixes: B rows, L tokens per row, N blocks per row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

    from scramble.trie.pack import TrieBatch

FLEX_BLOCK = 128  # block size of FlexAttention's kernels in tokens


def attention_masks(
    batch: TrieBatch,
    windows: Mapping[str, int | None],
    block_layers: frozenset[str] | None = None,
    *,
    flex: bool = False,
) -> dict[str, object]:
    """Return a dictionary that maps each type of decoder layer to its attention mask.

    ``windows`` maps each type of layer to its attention window in tokens (None means unlimited). ``block_layers`` are
    the layer types with bidirectional image blocks (None means all). With ``flex``, the masks are FlexAttention's
    BlockMasks. Layer types with the same window and the same blocks share a mask. A window that is at least as long as
    the longest path counts as unlimited. Recurrent layers receive the batch's paths.
    """
    longest = int(batch.depth_BL.max()) + 1 if any(windows.values()) else 0
    reached = {kind: None if window is None or window >= longest else window for kind, window in windows.items()}
    make = block_mask if flex else dense_mask
    by_rule: dict[tuple[int | None, bool], object] = {}
    by_kind: dict[str, object] = {}
    for kind, window in reached.items():
        block_BL = batch.block_BL if block_layers is None or kind in block_layers else None
        rule = (window, block_BL is not None)
        if rule not in by_rule:
            by_rule[rule] = make(batch.end_BL, block_BL, batch.depth_BL, window)
        by_kind[kind] = by_rule[rule]
    return by_kind if batch.paths is None else by_kind | {"linear_attention": batch.paths}


def dense_mask(
    end_BL: Tensor, block_BL: Tensor | None = None, depth_BL: Tensor | None = None, window: int | None = None
) -> Tensor:
    """Return the attention rule as a Boolean mask (B, 1, L, L) for scaled_dot_product_attention. True allows attention.

    Args:
        end_BL: index after the last descendant of each token.
        block_BL: index of each token's block, in which attention is bidirectional; -1 for tokens outside blocks.
        depth_BL: depth of each token in its trie; required with ``window``.
        window: number of tokens of its path that a token attends to, including itself; None means all.
    """
    index_L = torch.arange(end_BL.shape[1], device=end_BL.device)
    query_L1 = index_L[:, None]
    mask_BLL = (index_L <= query_L1) & (query_L1 < end_BL[:, None, :])
    if block_BL is not None:
        mask_BLL |= (block_BL[:, :, None] == block_BL[:, None, :]) & (block_BL[:, :, None] >= 0)
    if window is not None and depth_BL is not None:
        mask_BLL &= depth_BL[:, :, None] - depth_BL[:, None, :] < window
    return mask_BLL[:, None]


def block_mask(
    end_BL: Tensor, block_BL: Tensor | None = None, depth_BL: Tensor | None = None, window: int | None = None
) -> BlockMask:
    """Return the rule of :func:`dense_mask` as a FlexAttention BlockMask, computed without an L x L tensor.

    torch's ``create_block_mask`` would evaluate the rule for every pair of tokens, but comparing blocks is enough.
    Without a window and image blocks, all queries of a block attend to all keys of an earlier block if the last query
    is before the smallest end of these keys. No query of the block attends to any of these keys if the first query is
    at or after their largest end.
    """
    from torch.nn.attention.flex_attention import BlockMask

    length = end_BL.shape[1]
    padding = -length % FLEX_BLOCK
    ends_BNk = torch.nn.functional.pad(end_BL, (0, padding)).unflatten(1, (-1, FLEX_BLOCK))
    first_N = torch.arange(0, length, FLEX_BLOCK, device=end_BL.device)
    last_N1 = (first_N + FLEX_BLOCK - 1).clamp(max=length - 1)[:, None]
    earlier_NN = first_N < first_N[:, None]
    own_NN = first_N == first_N[:, None]
    full_BNN = earlier_NN & (last_N1 < ends_BNk.amin(2)[:, None, :])
    some_BNN = own_NN | (earlier_NN & (first_N[:, None] < ends_BNk.amax(2)[:, None, :]))
    if block_BL is not None:
        # Two blocks of tokens may share an image block if their ranges of block numbers overlap. This test can also
        # select two blocks of tokens without a common image block. The rule below is then evaluated unnecessarily.
        members_BNk = torch.nn.functional.pad(block_BL, (0, padding), value=-1).unflatten(1, (-1, FLEX_BLOCK))
        first_BN = members_BNk.masked_fill(members_BNk < 0, torch.iinfo(block_BL.dtype).max).amin(2)
        last_BN = members_BNk.amax(2)
        some_BNN |= (first_BN[:, :, None] <= last_BN[:, None, :]) & (first_BN[:, None, :] <= last_BN[:, :, None])
    if window is not None and depth_BL is not None:
        # Compute the largest and smallest distance between queries and keys of two blocks. Padding repeats the last
        # depth.
        padded = torch.cat([depth_BL, depth_BL[:, -1:].expand(-1, padding)], dim=1).unflatten(1, (-1, FLEX_BLOCK))
        low_BN, high_BN = padded.amin(2), padded.amax(2)
        full_BNN &= high_BN[:, :, None] - low_BN[:, None, :] < window
        some_BNN &= low_BN[:, :, None] - high_BN[:, None, :] < window

    def rule(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        allowed = (k <= q) & (q < end_BL[b, k])
        if block_BL is not None:
            allowed = allowed | ((block_BL[b, q] == block_BL[b, k]) & (block_BL[b, q] >= 0))
        if window is not None and depth_BL is not None:
            allowed = allowed & (depth_BL[b, q] - depth_BL[b, k] < window)
        return allowed

    partial_counts, partial_indices = _ordered(some_BNN & ~full_BNN)
    full_counts, full_indices = _ordered(full_BNN)
    return BlockMask.from_kv_blocks(
        partial_counts,
        partial_indices,
        full_counts,
        full_indices,
        BLOCK_SIZE=FLEX_BLOCK,
        mask_mod=rule,
        seq_lengths=(length, length),
    )


def _ordered(mask_BNN: Tensor) -> tuple[Tensor, Tensor]:
    """Return, for each row of a mask, the number of set blocks and the indices of all blocks, set blocks first.

    FlexAttention requires this format.
    """
    counts = mask_BNN.sum(-1, dtype=torch.int32)
    indices = mask_BNN.to(torch.int8).argsort(dim=-1, descending=True, stable=True).to(torch.int32)
    return counts[:, None], indices[:, None].contiguous()
