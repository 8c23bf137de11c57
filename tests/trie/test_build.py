"""Tests the trie's layout, by hand and against its definition.

The sequences are 1 2 3 4, 1 2 3 5 6 and 1 2 7. All tokens but the first are scored; 4, 6 and 7 are never inputs.

1 - 2 - 3 - (4)
|       `- 5 - (6)
`     2 - (7)
"""

from __future__ import annotations

import random

import numpy as np
import pytest

from scramble.trie import TokenRules, TokenTrie, TrieError, build_trie


def scored_after(length: int, prompt: int) -> list[bool]:
    return [n >= prompt for n in range(length)]


def test_layout_by_hand() -> None:
    sequences = [[1, 2, 3, 4], [1, 2, 3, 5, 6], [1, 2, 7]]
    trie = build_trie(sequences, [scored_after(len(s), 1) for s in sequences])
    assert trie.ids.tolist() == [1, 2, 3, 5]
    assert trie.depths.tolist() == [0, 1, 2, 3]
    assert trie.end.tolist() == [4, 4, 4, 4]
    assert trie.rows.tolist() == [0, 1, 2, 3]
    assert trie.row_starts.tolist() == [0, 1, 3, 5, 6]  # node 1 predicts 3 and 7, node 2 predicts 4 and 5
    assert trie.target_ids.tolist() == [2, 3, 7, 4, 5, 6]
    assert [t.tolist() for t in trie.targets] == [[0, 1, 3], [0, 1, 4, 5], [0, 2]]


def test_branches_do_not_see_each_other() -> None:
    trie = build_trie([[1, 2, 3, 9], [1, 4, 5, 9]], [[False, False, False, True]] * 2)
    assert trie.ids.tolist() == [1, 2, 3, 4, 5]
    assert trie.depths.tolist() == [0, 1, 2, 1, 2]
    assert trie.end.tolist() == [5, 3, 3, 5, 5]


def read_back(trie: TokenTrie, n: int) -> list[tuple[list[int], int]]:
    """Return for each scored token of a sequence the tokens to which its predictor attends, in order, and the token."""
    row_of = np.repeat(np.arange(len(trie.rows)), np.diff(trie.row_starts))
    result = []
    for target in trie.targets[n]:
        node = trie.rows[row_of[target]]
        seen = [k for k in range(len(trie)) if k <= node < trie.end[k]]
        assert [trie.depths[k] for k in seen] == list(range(len(seen)))
        result.append(([int(trie.ids[k]) for k in seen], int(trie.target_ids[target])))
    return result


@pytest.mark.parametrize("seed", range(30))
def test_every_scored_token_is_predicted_from_exactly_its_prefix(seed: int) -> None:
    rng = random.Random(seed)
    sequences = [[0, *(rng.randrange(3) for _ in range(rng.randint(1, 7)))] for _ in range(rng.randint(1, 8))]
    scored = [[False, *(rng.random() < 0.5 for _ in s[1:])] for s in sequences]
    for mask in scored:
        mask[rng.randrange(1, len(mask))] = True
    trie = build_trie(sequences, scored)
    prefixes = {
        tuple(s[:n]) for s, mask in zip(sequences, scored, strict=True) for n in range(1, len(s)) if any(mask[n:])
    }
    assert len(trie) == len(prefixes)  # each prefix has exactly one node
    predictors = {tuple(s[:n]) for s, mask in zip(sequences, scored, strict=True) for n in range(len(s)) if mask[n]}
    assert len(trie.rows) == len(predictors)
    for n, (ids, mask) in enumerate(zip(sequences, scored, strict=True)):
        assert read_back(trie, n) == [(ids[:t], ids[t]) for t in range(len(ids)) if mask[t]]


def test_features_are_numbered_along_the_path() -> None:
    sequences = [[8, 8, 1, 8, 2, 5], [8, 8, 3, 8, 4, 5]]
    trie = build_trie(sequences, [[False] * 5 + [True]] * 2, TokenRules(frozenset({8})))
    assert trie.ids.tolist() == [8, 8, 1, 8, 2, 3, 8, 4]
    assert trie.features.tolist() == [0, 1, -1, 2, -1, -1, 2, -1]
    assert trie.num_features == 3


@pytest.mark.parametrize(
    ("sequences", "scored", "message"),
    [
        ([[1, 2]], [[False, False]], "item 'x', sequence 0: the sequence has no scored token"),
        ([[1, 2], [1, 3]], [[False, True], [True, True]], "sequence 1: the first token cannot be scored"),
        ([[1, 2]], [[True]], "the length of the sequence is 2, but the length of its mask is 1"),
        ([], [], "the number of sequences is 0"),
        (
            [[8, 1], [1, 2]],
            [[False, True], [False, True]],
            "must have the same number of image tokens, but have \\[0, 1\\]",
        ),
    ],
)
def test_bad_input(sequences: list[list[int]], scored: list[list[bool]], message: str) -> None:
    with pytest.raises(TrieError, match=message):
        build_trie(sequences, scored, TokenRules(frozenset({8})), item_id="x")


def test_two_way_block_must_be_shared() -> None:
    rules = TokenRules(frozenset({8}), block=frozenset({7, 8}))
    trie = build_trie([[7, 8, 1, 2], [7, 8, 1, 3]], [[False, False, False, True]] * 2, rules)
    assert trie.block.tolist() == [0, 0, -1]
    with pytest.raises(TrieError, match="item 'y', sequence 0: the number of image tokens in the sequence is "):
        build_trie([[7, 1, 8, 2], [7, 3, 8, 2]], [[False, False, False, True]] * 2, rules, item_id="y")


@pytest.mark.parametrize(("per_run", "expected"), [(False, [0, 0, -1, 0, -1, -1]), (True, [0, 0, -1, 1, -1, -1])])
def test_a_block_is_a_run_or_all_image_tokens(per_run: bool, expected: list[int]) -> None:
    rules = TokenRules(frozenset({8}), block=frozenset({8}), block_per_run=per_run)
    trie = build_trie([[8, 8, 1, 8, 2, 5], [8, 8, 1, 8, 3, 5]], [[False] * 5 + [True]] * 2, rules)
    assert trie.block.tolist() == expected


def test_positions_follow_the_path() -> None:
    sequences = [[1, 8, 2, 5, 6], [1, 8, 3, 5]]
    positions = [np.array([[0, 7, 9, 10, 11], [0, 5, 9, 10, 11]]), np.array([[0, 7, 9, 10], [0, 5, 9, 10]])]
    trie = build_trie(sequences, [[False] * 3 + [True] * 2, [False] * 3 + [True]], positions=positions)
    assert trie.ids.tolist() == [1, 8, 2, 5, 3]
    assert trie.depths.tolist() == [0, 1, 2, 3, 2]
    assert trie.positions.tolist() == [[0, 7, 9, 10, 9], [0, 5, 9, 10, 9]]
