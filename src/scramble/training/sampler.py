"""Assigns pairs to micro-batches.

The assignment depends only on the images of the pairs, ``group_by_image``, the batch sizes and the seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

from scramble.console import counted

FEW_STEPS = 20  # a run with fewer steps logs a warning, unless the user has set the number of steps
LOOK_AHEAD = 64  # this many images are searched for one whose pairs fit into the rest of a micro-batch


def num_steps(num_pairs: int, batch_size: int, epochs: float, group_by_image: bool) -> int:
    """Return the number of optimizer steps in ``epochs`` passes over the pairs.

    With ``group_by_image``, batches are always full and may span two epochs. Otherwise the last batch of an epoch may
    be smaller.
    """
    if group_by_image:
        return max(1, math.ceil(epochs * num_pairs / batch_size))
    return max(1, math.ceil(epochs * math.ceil(num_pairs / batch_size)))


def few_steps_warning(steps: int, num_examples: int, *, has_warmup: bool) -> str:
    """Return a warning if a run has fewer than :data:`FEW_STEPS` steps, else "".

    With warm-up, the warning says that the first step has learning rate 0.
    """
    if steps >= FEW_STEPS:
        return ""
    first = " (the first step has learning rate 0, see trainer.warmup_ratio)" if has_warmup else ""
    return (
        f"the run has only {counted(steps, 'steps')} for {counted(num_examples, 'examples')}{first}, so the model "
        "hardly changes: set trainer.num_train_epochs or trainer.max_steps to train longer"
    )


class MicroBatches(Sampler[list[int]]):
    """The micro-batches (lists of pair indices) of one process, for a whole run.

    All processes use the same global list of micro-batches. An optimizer step uses ``accumulation * world_size``
    consecutive micro-batches. Process r gets every ``world_size``-th of these, starting at index r. A run on one
    process with accumulation therefore uses the same micro-batches in the same order as a run on several processes.

    Args:
        groups: pair indices of each image. The pairs of an image share one pass through the model.
        size: pairs per micro-batch.
        steps: optimizer steps of the run.
        group_by_image: whether to shuffle images and keep the pairs of an image together. The pairs of an image are
            split over two micro-batches only if none of the next :data:`LOOK_AHEAD` images fits. If False, single pairs
            are shuffled exactly as in transformers' and TRL's trainers with this seed.
        seed: seed of the order; epoch e is shuffled with ``seed + e``.
        accumulation: micro-batches per process and optimizer step.
        rank: index of this process.
        world_size: number of processes.

    Raises:
        ValueError: without ``group_by_image``, an incomplete batch would have to be split into several micro-batches.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[int]],
        size: int,
        steps: int,
        *,
        group_by_image: bool = True,
        seed: int = 0,
        accumulation: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.groups = [list(group) for group in groups]
        self.num_pairs = sum(map(len, self.groups))
        per_step = accumulation * world_size
        if not group_by_image and per_step > 1 and self.num_pairs % (size * per_step):
            raise ValueError(
                "trainer.group_by_image=false with several micro-batches per step needs a multiple of "
                f"{size * per_step} pairs, but there are {self.num_pairs}: use trainer.group_by_image=true"
            )
        self.size, self.group_by_image, self.seed = size, group_by_image, seed
        self.rank, self.world_size = rank, world_size
        self.length = steps * accumulation

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[list[int]]:
        stream = self._by_image() if self.group_by_image else self._by_pair()
        for index in range(self.length * self.world_size):
            batch = next(stream)
            if index % self.world_size == self.rank:
                yield batch

    def _shuffled(self, count: int, epoch: int) -> list[int]:
        return torch.randperm(count, generator=torch.Generator().manual_seed(self.seed + epoch)).tolist()

    def _by_pair(self) -> Iterator[list[int]]:
        epoch = 0
        while True:
            order = self._shuffled(self.num_pairs, epoch)
            yield from (order[start : start + self.size] for start in range(0, len(order), self.size))
            epoch += 1

    def _by_image(self) -> Iterator[list[int]]:
        batch: list[int] = []
        epoch = 0
        while True:
            remaining = [list(self.groups[index]) for index in self._shuffled(len(self.groups), epoch)]
            remaining.reverse()  # the next image is last, because removing from the end of a list is cheap
            while remaining:
                space = self.size - len(batch)
                nearest = range(len(remaining) - 1, max(-1, len(remaining) - 1 - LOOK_AHEAD), -1)
                # First fit: every image that is not split saves one pass of its image tokens.
                fitting = next((i for i in nearest if len(remaining[i]) <= space), None)
                if fitting is not None:
                    batch += remaining.pop(fitting)
                else:
                    batch += remaining[-1][:space]
                    del remaining[-1][:space]
                if len(batch) == self.size:
                    yield batch
                    batch = []
            epoch += 1
