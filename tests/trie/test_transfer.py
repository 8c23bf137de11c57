"""Shared memory of batches from workers is reused when, and only when, no tensor uses it any more."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

from scramble.trie.transfer import Segments, SharedTensor


@pytest.mark.parametrize(
    "tensor",
    [torch.arange(6.0).view(2, 3), torch.ones(3, dtype=torch.bfloat16), torch.tensor([True, False]), torch.tensor(7)],
    ids=lambda tensor: str(tensor.dtype),
)
def test_a_tensor_arrives_unchanged(tensor: Tensor) -> None:
    arrived = Segments().share(tensor).tensor()
    assert arrived.dtype == tensor.dtype and torch.equal(arrived, tensor)


def test_a_segment_is_reused_after_its_last_view_is_freed() -> None:
    segments, values = Segments(), torch.arange(8)
    received = segments.share(values).tensor()
    view = received[4:].view(2, 2)
    del received
    other = segments.share(-values).tensor()
    assert len(segments.segments) == 2 and view.flatten().tolist() == [4, 5, 6, 7]
    del view
    third = segments.share(2 * values).tensor()
    assert len(segments.segments) == 2 and torch.equal(other, -values) and torch.equal(third, 2 * values)


def test_memory_is_that_of_the_batches_in_use() -> None:
    """Free segments that are too small for a batch are replaced."""
    segments = Segments()
    for size in (10, 20, 30, 25):
        segments.share(torch.zeros(size, dtype=torch.uint8)).tensor()
    assert [len(segment) for segment in segments.segments] == [31]


def test_a_batch_that_was_not_read_keeps_its_segment() -> None:
    segments = Segments()
    waiting: list[SharedTensor] = [segments.share(torch.full((3,), value)) for value in range(3)]
    assert [lent.tensor().tolist() for lent in waiting] == [[0] * 3, [1] * 3, [2] * 3]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_does_not_free_the_memory_of_its_parent() -> None:
    segments, values = Segments(), torch.arange(8)
    received = segments.share(values).tensor()
    if (child := os.fork()) == 0:
        del received
        os._exit(0)
    os.waitpid(child, 0)
    segments.share(-values)
    assert torch.equal(received, values)
