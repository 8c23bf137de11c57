"""Builds a token trie from lists of token ids, without a model or tensors.

The nodes of the trie are the tokens that must pass through the decoder, which are all tokens before a scored token. The
last token of an answer is predicted but is never an input. It is therefore a *target* and not a node, unless
``TokenRules.last_tokens`` is set.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scramble.trie.backbone import TokenRules

IntArray = NDArray[np.int64]
CAUSAL = TokenRules()  # a text-only causal model


class TrieError(ValueError):
    """Raised if sequences cannot be scored. The message names the item and says what to correct."""


@dataclass(frozen=True, slots=True)
class TokenTrie:
    """Represents the sequences of one image as a trie in depth-first order.

    The trie has N nodes, of which R predict a scored token, and T distinct predictions (pairs of a predicting node and
    a token id). In depth-first order the descendants of a node directly follow it, so one number per node, ``end``,
    defines the whole attention mask.

    Attributes:
        ids: (N,) token ids.
        depths: (N,) depth of each node, which is its index in every sequence that passes through it.
        positions: (A, N) position ids of each node on A axes; equal to the depth unless ``build_trie`` receives
            position ids.
        end: (N,) index after the last descendant: node q may attend to node k iff ``k <= q < end[k]``.
        rows: (R,) nodes that predict at least one scored token, ascending.
        row_starts: (R + 1,) the predictions of row r are ``row_starts[r]:row_starts[r + 1]``.
        target_ids: (T,) the predicted token ids, sorted by row and then by id.
        targets: for each sequence, the index of the prediction of each scored token, in token order.
        features: (N,) index of the node's image feature, or -1.
        num_features: number of image features, which is the same in every sequence.
        block: (N,) index of the bidirectional image block that the node belongs to, or -1.
        sequences: (N,) number of sequences that pass through the node.
    """

    ids: IntArray
    depths: IntArray
    positions: IntArray
    end: IntArray
    rows: IntArray
    row_starts: IntArray
    target_ids: IntArray
    targets: tuple[IntArray, ...]
    features: IntArray
    num_features: int
    block: IntArray
    sequences: IntArray

    def __len__(self) -> int:
        return len(self.ids)


def build_trie(
    sequences: Sequence[Sequence[int]],
    scored: Sequence[Sequence[bool]],
    rules: TokenRules = CAUSAL,
    *,
    positions: Sequence[IntArray] | None = None,
    item_id: str = "",
) -> TokenTrie:
    """Merge the sequences of one image into a trie.

    Args:
        sequences: token ids, one list per sequence. Sequences may be equal, or be prefixes of each other.
        scored: for each sequence, a mask of the tokens to score.
        rules: properties of the model's tokens.
        positions: position ids (A, n) of each sequence; tokens with the same preceding tokens must have the same
            position. None means that the position of a token is its index.
        item_id: id for error messages.

    Raises:
        TrieError: there is no sequence, the masks do not fit the sequences, a sequence has no scored token, the first
            token of a sequence is scored (no token predicts it), or the sequences differ in their image tokens.
    """
    where = f"item {item_id!r}" if item_id else "item"
    if not sequences or len(sequences) != len(scored):
        raise TrieError(
            f"{where}: the number of sequences is {len(sequences)} and the number of masks is {len(scored)}: pass at "
            "least one sequence, and one mask per sequence"
        )
    places = [
        _scored_places(ids, mask, f"{where}, sequence {n}")
        for n, (ids, mask) in enumerate(zip(sequences, scored, strict=True))
    ]
    # Tokens after the last scored token cannot change a score, and the last scored token is an input only for the
    # routers.
    extra = int(rules.last_tokens)
    inputs = [list(ids[: scored_n[-1] + extra]) for ids, scored_n in zip(sequences, places, strict=True)]

    paths, ids, depths, end = _merge(inputs)
    rows, row_starts, target_ids, targets = _predictions(sequences, places, paths)
    features, num_features = _features(sequences, paths, len(ids), rules.features, where)
    node_positions = depths[None]
    if positions is not None:
        node_positions = np.empty((len(positions[0]), len(ids)), np.int64)
        for path, positions_AN in zip(paths, positions, strict=True):
            node_positions[:, path] = positions_AN[:, : len(path)]
    return TokenTrie(
        ids=ids,
        depths=depths,
        positions=node_positions,
        end=end,
        rows=rows,
        row_starts=row_starts,
        target_ids=target_ids,
        targets=targets,
        features=features,
        num_features=num_features,
        block=_blocks(sequences, ids, rules, where),
        sequences=np.bincount(np.concatenate(paths)),
    )


def _scored_places(ids: Sequence[int], mask: Sequence[bool], where: str) -> IntArray:
    """Return the indices of the scored tokens of a sequence."""
    if len(ids) != len(mask):
        raise TrieError(
            f"{where}: the length of the sequence is {len(ids)}, but the length of its mask is {len(mask)}: pass one "
            "entry per token"
        )
    places = np.flatnonzero(np.asarray(mask, dtype=bool))
    if len(places) == 0:
        raise TrieError(f"{where}: the sequence has no scored token: check that its completion is not empty")
    if places[0] == 0:
        raise TrieError(
            f"{where}: the first token cannot be scored, because no earlier token predicts it: set the first entry of "
            "its mask to False"
        )
    return places


def _merge(inputs: list[list[int]]) -> tuple[list[IntArray], IntArray, IntArray, IntArray]:
    """Return the paths (the node indices of each sequence), ids, depths and ends of the trie over ``inputs``.

    The sequences are sorted lexicographically. Among all earlier sequences, the predecessor of a sequence then shares
    the longest prefix with it, so comparing adjacent sequences is enough. Appending the new tokens of each sequence
    therefore produces the nodes in depth-first order.
    """
    paths: list[IntArray] = [np.empty(0, np.int64)] * len(inputs)
    ids: list[int] = []
    depths: list[IntArray] = []
    end: list[int] = []
    path = np.empty(0, np.int64)
    previous: list[int] = []
    for n in sorted(range(len(inputs)), key=inputs.__getitem__):
        tokens = inputs[n]
        shared = common_prefix(previous, tokens)
        for node in path[shared:]:  # these nodes have no further descendants
            end[node] = len(ids)
        new = np.arange(len(ids), len(ids) + len(tokens) - shared)
        path = np.concatenate([path[:shared], new])
        depths.append(np.arange(shared, len(tokens)))
        ids.extend(tokens[shared:])
        end.extend([0] * len(new))  # set when the branch ends
        paths[n] = path
        previous = tokens
    for node in path:
        end[node] = len(ids)
    return paths, np.asarray(ids, np.int64), np.concatenate(depths), np.asarray(end, np.int64)


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the length of the longest common prefix of two sequences."""
    length = min(len(a), len(b))
    # Fast path: list comparison runs in C, and most sequences share a long prompt.
    if a[:length] == b[:length]:
        return length
    return next(n for n in range(length) if a[n] != b[n])


def _predictions(
    sequences: Sequence[Sequence[int]], places: list[IntArray], paths: list[IntArray]
) -> tuple[IntArray, IntArray, IntArray, tuple[IntArray, ...]]:
    """Return ``rows``, ``row_starts``, ``target_ids`` and ``targets`` of :class:`TokenTrie`.

    A node that predicts the same token in several sequences gets only one prediction of this token. ``np.unique`` sorts
    the predictions by node and then by id, as :class:`TokenTrie` requires.
    """
    # A token is predicted by the node of the token before it.
    nodes = np.concatenate([path[scored - 1] for path, scored in zip(paths, places, strict=True)])
    ids = np.concatenate(
        [np.asarray(tokens, np.int64)[scored] for tokens, scored in zip(sequences, places, strict=True)]
    )
    pairs, inverse = np.unique(np.stack([nodes, ids]), axis=1, return_inverse=True)
    rows, starts = np.unique(pairs[0], return_index=True)
    bounds = np.cumsum([len(scored) for scored in places])[:-1]
    targets = tuple(np.split(inverse.reshape(-1), bounds))
    return rows, np.append(starts, pairs.shape[1]), pairs[1], targets


def _members(ids: IntArray, tokens: Set[int]) -> NDArray[np.bool_]:
    return np.isin(ids, np.fromiter(tokens, np.int64, len(tokens)))


def _features(
    sequences: Sequence[Sequence[int]], paths: list[IntArray], num_nodes: int, feature_tokens: Set[int], where: str
) -> tuple[IntArray, int]:
    features = np.full(num_nodes, -1, np.int64)
    if not feature_tokens:
        return features, 0
    counts = []
    for tokens, path in zip(sequences, paths, strict=True):
        is_feature = _members(np.asarray(tokens[: len(path)], np.int64), feature_tokens)
        counts.append(int(is_feature.sum()))
        features[path[is_feature]] = np.arange(counts[-1])
    if len(set(counts)) > 1:
        raise TrieError(
            f"{where}: the sequences of an item must have the same number of image tokens, but have "
            f"{sorted(set(counts))}: put sequences with different images into separate items"
        )
    return features, counts[0]


def _blocks(sequences: Sequence[Sequence[int]], ids: IntArray, rules: TokenRules, where: str) -> IntArray:
    """Return the index of each node's bidirectional block, or -1.

    A token of a block attends to later tokens of the block. Its hidden state therefore depends on the whole block, and
    sequences can share the token only if they have all tokens of the block in common. Raises TrieError unless all
    sequences share all blocks.
    """
    if not rules.block:
        return np.full(len(ids), -1, np.int64)
    members = _members(ids, rules.block)
    nodes = int(members.sum())
    for n, tokens in enumerate(sequences):
        count = sum(token in rules.block for token in tokens)
        if count != nodes:
            raise TrieError(
                f"{where}, sequence {n}: the number of image tokens in the sequence is {count}, but {nodes} in the "
                "trie. Image tokens of this family attend bidirectionally, so all sequences of an item must have the "
                "same image tokens: put sequences with different image tokens into separate items"
            )
    starts = members & ~np.append(False, members[:-1])
    numbers = np.cumsum(starts) - 1 if rules.block_per_run else np.zeros(len(ids), np.int64)
    return np.where(members, numbers, -1)
