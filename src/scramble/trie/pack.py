"""Packs several tries into the rows of one batch and builds the index tensors that the engine uses.

Shape suffixes: B rows of the batch, L tokens per row, F image features, R predicting nodes, T distinct predictions,
M scored tokens, Q sequences, P paths to leaves, N tokens of the longest path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scramble.trie.backbone import ImageInputs, TokenRules
from scramble.trie.build import CAUSAL, TokenTrie, TrieError, build_trie
from scramble.trie.recurrent import Paths, paths_to
from scramble.trie.transfer import SharedTensor, pickled, unpickled


@dataclass(frozen=True, slots=True)
class TrieItem:
    """Groups token sequences that share the same images.

    Attributes:
        sequences: token ids of each prompt and its completion, including image placeholders.
        scored: for each sequence, a mask of the tokens to score.
        images: the processor's output for the images, or None. If several items share an output object, its images
            are encoded once.
        item_id: id for error messages.
    """

    sequences: Sequence[Sequence[int]]
    scored: Sequence[Sequence[bool]]
    images: ImageInputs | None = None
    item_id: str = ""


@dataclass(frozen=True, slots=True)
class TrieBatch:
    """Contains tries, packed into rows for one forward pass.

    Items and sequences are numbered in the order of :func:`pack`'s input.

    Attributes:
        input_ids_BL: token ids, 0 in padding.
        depth_BL: depth of each token in its trie, 0 in padding.
        position_ids_ABL: position ids on A axes, 0 in padding; equal to the depth for most models.
        end_BL: index in the row after the last descendant; padding attends only to itself.
        block_BL: index of the token's bidirectional image block, -1 outside; None for causal models.
        sequences_BL: number of sequences that pass through each token, 0 in padding.
        paths: the paths to all leaves, for recurrent layers; None for decoders without such layers.
        feature_slots_F: flat positions (in B * L) that receive an image feature.
        feature_source_F: for each of these positions, the index of its feature in the concatenated features of all
            items.
        rows_R: flat positions whose next-token distribution is needed.
        row_starts: R + 1 indices; the predictions of row r are ``row_starts[r]:row_starts[r + 1]``. The indices are not
            a tensor, because the head slices with them, and reading them from the GPU would synchronise.
        target_rows_T: row of each prediction, ascending.
        target_ids_T: token id of each prediction.
        token_targets_M: index of each scored token's prediction, sequence by sequence.
        token_sequence_M: index of each scored token's sequence.
        num_sequences: number of sequences of each item.
        num_features: number of image features of each item.
        images: image inputs of each item.
        item_ids: ids of the items.
        num_tokens: number of tokens in all rows, without padding.
    """

    input_ids_BL: Tensor
    depth_BL: Tensor
    position_ids_ABL: Tensor
    end_BL: Tensor
    block_BL: Tensor | None
    sequences_BL: Tensor
    paths: Paths | None
    feature_slots_F: Tensor
    feature_source_F: Tensor
    rows_R: Tensor
    row_starts: tuple[int, ...]
    target_rows_T: Tensor
    target_ids_T: Tensor
    token_targets_M: Tensor
    token_sequence_M: Tensor
    num_sequences: tuple[int, ...]
    num_features: tuple[int, ...]
    images: tuple[ImageInputs | None, ...]
    item_ids: tuple[str, ...]
    num_tokens: int

    @property
    def padding_fraction(self) -> float:
        """Fraction of the batch's positions that are padding, in [0, 1)."""
        return 1.0 - self.num_tokens / self.input_ids_BL.numel()

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TrieBatch:
        """Copy the batch, including images, to ``device``."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> TrieBatch:
        """Copy the batch, including images, to page-locked memory."""
        return self._map(Tensor.pin_memory)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the batch for another process (see :mod:`scramble.trie.transfer`)."""
        packed = self._map(pickled)
        return _unpickled_batch, tuple(getattr(packed, field.name) for field in fields(self))

    def _map(self, move: Callable[[Any], Any]) -> TrieBatch:
        """Return a copy with ``move`` applied to every tensor or array. Shared images remain shared."""
        changes: dict[str, object] = {
            field.name: move(value)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), (Tensor, np.ndarray, SharedTensor))
        }
        if self.paths is not None:
            changes["paths"] = self.paths.map(move)
        moved: dict[int, ImageInputs] = {}  # by identity, so that items still share images
        for images in self.images:
            if images is not None and id(images) not in moved:
                moved[id(images)] = {name: move(tensor) for name, tensor in images.items()}
        changes["images"] = tuple(None if images is None else moved[id(images)] for images in self.images)
        return replace(self, **changes)  # type: ignore[arg-type]


def _unpickled_batch(*values: Any) -> TrieBatch:
    return TrieBatch(*values)._map(unpickled)


def build_item(item: TrieItem, rules: TokenRules = CAUSAL) -> TokenTrie:
    """Return the trie of an item. Raises TrieError (see :func:`scramble.trie.build.build_trie`)."""
    positions = None
    if rules.positions is not None:
        positions = [rules.positions(ids, item.images) for ids in item.sequences]
    return build_trie(item.sequences, item.scored, rules, positions=positions, item_id=item.item_id)


def pack(
    items: Sequence[TrieItem],
    rules: TokenRules = CAUSAL,
    *,
    vocab_size: int | None = None,
    row_tokens: int | None = None,
    share_rows: bool = True,
    tries: Sequence[TokenTrie] | None = None,
) -> TrieBatch:
    """Build the tries of ``items`` and pack them into the rows of a batch.

    Args:
        items: at least one item.
        rules: properties of the model's tokens.
        vocab_size: number of rows of the output head; scored ids must be smaller. None skips this check.
        row_tokens: maximum number of tokens per row. The default is the length of the longest trie. With longer rows,
            attention would be computed for more pairs of tokens from different tries, which the mask excludes.
        share_rows: whether short tries may share a row; with False, item b is in row b.
        tries: the items' tries, if they are already built.

    Raises:
        TrieError: a trie does not fit into a row, a scored id is outside the head, or ``build_trie`` fails.
    """
    if not items:
        raise TrieError("there are no items to pack: pass at least one item")
    if tries is None:
        tries = [build_item(item, rules) for item in items]
    for item, trie in zip(items, tries, strict=True):
        _check(item, trie, vocab_size, row_tokens)

    lengths = [len(trie) for trie in tries]
    row_length = max(lengths)
    bins = [[n] for n in range(len(items))]
    if share_rows:
        bins = assign_rows(lengths, row_length if row_tokens is None else row_tokens)
    if row_tokens is not None:  # row_tokens is only a limit, so do not pad beyond the longest row
        row_length = max(sum(lengths[n] for n in members) for members in bins)

    num_rows = len(bins)
    input_ids = np.zeros((num_rows, row_length), np.int64)
    depths = np.zeros((num_rows, row_length), np.int64)
    positions = np.zeros((len(tries[0].positions), num_rows, row_length), np.int64)
    end = np.tile(np.arange(1, row_length + 1), (num_rows, 1))  # padding attends to itself
    block = np.full((num_rows, row_length), -1, np.int64)
    sequences = np.zeros((num_rows, row_length), np.int64)
    num_blocks = 0
    starts = np.zeros(len(items), np.int64)  # flat position of each item's first token
    for row, members in enumerate(bins):
        column = 0
        for n in members:
            trie, span = tries[n], slice(column, column + lengths[n])
            input_ids[row, span] = trie.ids
            depths[row, span] = trie.depths
            sequences[row, span] = trie.sequences
            positions[:, row, span] = trie.positions
            end[row, span] = trie.end + column  # no end is beyond the trie, which separates the tries of a row
            block[row, span] = np.where(trie.block >= 0, trie.block + num_blocks, -1)
            num_blocks += int(trie.block.max()) + 1
            starts[n] = row * row_length + column
            column += lengths[n]

    # Convert indices within a trie to indices within the batch, by adding the offset of the trie's first feature,
    # prediction or token.
    feature_starts = _starts([trie.num_features for trie in tries])
    target_starts = _starts([len(trie.target_ids) for trie in tries])
    row_counts = np.concatenate([np.diff(trie.row_starts) for trie in tries])
    tokens = [target + start for trie, start in zip(tries, target_starts, strict=True) for target in trie.targets]
    paths = None
    if rules.recurrent:
        is_leaf = (end == np.arange(1, row_length + 1)) & (sequences > 0)  # no sequence passes through padding
        leaf_rows, leaves = map(torch.from_numpy, np.nonzero(is_leaf))
        paths = paths_to(torch.from_numpy(end), leaves, leaf_rows)
    return TrieBatch(
        input_ids_BL=torch.from_numpy(input_ids),
        depth_BL=torch.from_numpy(depths),
        position_ids_ABL=torch.from_numpy(positions),
        end_BL=torch.from_numpy(end),
        block_BL=torch.from_numpy(block) if rules.block else None,
        sequences_BL=torch.from_numpy(sequences),
        paths=paths,
        feature_slots_F=_cat([np.flatnonzero(t.features >= 0) + s for t, s in zip(tries, starts, strict=True)]),
        feature_source_F=_cat([t.features[t.features >= 0] + s for t, s in zip(tries, feature_starts, strict=True)]),
        rows_R=_cat([trie.rows + start for trie, start in zip(tries, starts, strict=True)]),
        row_starts=tuple(np.append(0, np.cumsum(row_counts)).tolist()),
        target_rows_T=torch.from_numpy(np.repeat(np.arange(len(row_counts)), row_counts)),
        target_ids_T=_cat([trie.target_ids for trie in tries]),
        token_targets_M=_cat(tokens),
        token_sequence_M=torch.from_numpy(np.repeat(np.arange(len(tokens)), [len(target) for target in tokens])),
        num_sequences=tuple(len(trie.targets) for trie in tries),
        num_features=tuple(trie.num_features for trie in tries),
        images=tuple(item.images for item in items),
        item_ids=tuple(item.item_id or f"#{n}" for n, item in enumerate(items)),
        num_tokens=sum(lengths),
    )


def assign_rows(lengths: Sequence[int], row_tokens: int) -> list[list[int]]:
    """Pack lengths into rows of at most ``row_tokens`` by first-fit decreasing, and return the indices in each row."""
    rows: list[list[int]] = []
    free: list[int] = []
    for n in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        row = next((row for row, space in enumerate(free) if space >= lengths[n]), len(rows))
        if row == len(rows):
            rows.append([])
            free.append(row_tokens)
        rows[row].append(n)
        free[row] -= lengths[n]
    return rows


def _check(item: TrieItem, trie: TokenTrie, vocab_size: int | None, row_tokens: int | None) -> None:
    if row_tokens is not None and len(trie) > row_tokens:
        raise TrieError(
            f"item {item.item_id!r}: a trie of {len(trie)} tokens does not fit into a row of {row_tokens} tokens: "
            "raise trainer.row_tokens, use fewer image tiles, or remove the item"
        )
    if vocab_size is not None and (worst := int(trie.target_ids.max())) >= vocab_size:
        raise TrieError(
            f"item {item.item_id!r}: token id {worst} is scored, but the output head has {vocab_size} rows: do not "
            "score image tokens or other tokens that have no row"
        )
    if trie.num_features and item.images is None:
        raise TrieError(
            f"item {item.item_id!r}: the prompt contains image tokens, but the item has no images: set TrieItem.images"
        )


def _starts(counts: Sequence[int]) -> np.ndarray:
    return np.append(0, np.cumsum(counts))[:-1].astype(np.int64)


def _cat(arrays: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(arrays).astype(np.int64))
