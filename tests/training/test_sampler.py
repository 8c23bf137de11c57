"""Tests the order of pairs: images stay together, every pair occurs once per epoch, and processes do not change
batches.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from scramble.training.sampler import MicroBatches, num_steps

GROUPS = [[0, 1, 2], [3], [4, 5, 6, 7, 8, 9], [10, 11], [12, 13, 14], [15]]


def test_every_pair_comes_once_an_epoch() -> None:
    batches = list(MicroBatches(GROUPS, 4, steps=8, seed=3))
    assert all(len(batch) == 4 for batch in batches)
    for epoch in (batches[:4], batches[4:]):
        assert sorted(n for batch in epoch for n in batch) == list(range(16))
    assert batches[:4] != batches[4:]


def test_images_stay_whole_where_that_is_possible() -> None:
    """With batches of 6, the first and the last three groups fit; only a group that is too large is split."""
    batches = list(MicroBatches([[n, n + 100] for n in range(30)], 6, steps=10, seed=0))
    assert all(n % 100 + 100 in batch for batch in batches for n in batch if n < 100)
    cut = list(MicroBatches([list(range(10))], 4, steps=5, seed=0))
    assert cut[0] == [0, 1, 2, 3] and cut[1] == [4, 5, 6, 7] and cut[2] == [8, 9, 0, 1]


def test_processes_share_the_one_list() -> None:
    """Two processes together see the same micro-batches, in the same order, as one process with accumulation."""
    alone = list(MicroBatches(GROUPS, 2, steps=6, seed=5, accumulation=2))
    ranks = [list(MicroBatches(GROUPS, 2, steps=6, seed=5, rank=r, world_size=2)) for r in range(2)]
    assert [batch for both in zip(*ranks, strict=True) for batch in both] == alone


def test_the_seed_decides() -> None:
    def order(seed: int) -> list[list[int]]:
        return list(MicroBatches(GROUPS, 4, steps=4, seed=seed))

    assert order(1) == order(1) != order(2)


def test_pairs_order_is_that_of_transformers() -> None:
    """transformers' seedable sampler permutes with a generator seeded by seed + epoch; the last batch is smaller."""
    batches = list(MicroBatches([[n] for n in range(10)], 4, steps=6, group_by_image=False, seed=7))
    expected = []
    for epoch in range(2):
        permutation = torch.randperm(10, generator=torch.Generator().manual_seed(7 + epoch)).tolist()
        expected += [permutation[:4], permutation[4:8], permutation[8:]]
    assert batches == expected


def test_number_of_steps() -> None:
    assert num_steps(10, 4, 2, True) == 5 and num_steps(10, 4, 2, False) == 6
    assert num_steps(3, 32, 1, True) == 1


def test_a_short_batch_for_several_micro_batches_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a multiple of"):
        MicroBatches(GROUPS, 3, steps=1, group_by_image=False, accumulation=2)


def test_a_large_data_set_is_ordered_in_linear_time() -> None:
    groups = [[2 * n, 2 * n + 1] for n in range(20_000)]
    counted = Counter(n for batch in MicroBatches(groups, 8, steps=5_000, seed=0) for n in batch)
    assert len(counted) == 40_000 and set(counted.values()) == {1}
