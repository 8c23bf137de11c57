"""Which pairs go into which micro-batch: a pure function of the data's shape and a seed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

LOOK_AHEAD = 64  # images: how far to look for one whose pairs fill a micro-batch exactly


def num_steps(num_pairs: int, batch_size: int, epochs: float, group_by_image: bool) -> int:
    """Optimizer steps in ``epochs`` passes over the pairs.

    Grouped by image, batches are always full and run on across epochs; else the last batch of an epoch may be short.
    """
    if group_by_image:
        return max(1, math.ceil(epochs * num_pairs / batch_size))
    return max(1, math.ceil(epochs * math.ceil(num_pairs / batch_size)))


class MicroBatches(Sampler[list[int]]):
    """The micro-batches (lists of pair indices) of one process, for a whole run.

    An optimizer step takes ``accumulation * world_size`` consecutive micro-batches of the one global list; process r
    gets every ``world_size``-th from the r-th, so one process that accumulates sees the same micro-batches in the
    same order as several processes that do not.

    Args:
        groups: pair indices of each image (pairs of one image share its pass through the model).
        size: pairs in a micro-batch.
        steps: optimizer steps of the run.
        group_by_image: shuffle images and keep the pairs of one together (an image is split only where nothing within
            reach fits); else shuffle pairs one by one exactly as transformers' and TRL's trainers do for this seed.
        seed: of the order; epoch e is shuffled with ``seed + e``.

    Raises:
        ValueError: pairs one by one leave a short batch that several micro-batches would share.
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
                f"trainer.group_by_image=false needs a number of pairs divisible by the batch ({size * per_step}) when "
                f"a step has several micro-batches, and there are {self.num_pairs}: use trainer.group_by_image=true"
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
            waiting = [list(self.groups[index]) for index in self._shuffled(len(self.groups), epoch)]
            waiting.reverse()  # the next image is last
            while waiting:
                space = self.size - len(batch)
                nearest = range(len(waiting) - 1, max(-1, len(waiting) - 1 - LOOK_AHEAD), -1)
                chosen = next((i for i in nearest if len(waiting[i]) <= space), None)
                if chosen is not None:
                    batch += waiting.pop(chosen)
                else:
                    batch += waiting[-1][:space]
                    del waiting[-1][:space]
                if len(batch) == self.size:
                    yield batch
                    batch = []
            epoch += 1
