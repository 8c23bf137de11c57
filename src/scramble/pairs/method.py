"""The protocol of pair methods: a split's folder in, preference pairs and skipped items out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from scramble.engines import in_shard
from scramble.pairs.base import Skip
from scramble.records import PreferencePair

Item = TypeVar("Item")
WHOLE = (0, 1)


class PairMethodError(ValueError):
    """Settings or data that a pair method cannot work with. The message names the key or the file and the fix."""


class PairMethod(ABC):
    """One way of making preference pairs. :mod:`scramble.pairs.registry` lists them all.

    The constructor checks settings and opens nothing. :meth:`pairs` opens what it needs (an engine, its stored
    replies), and the end of the ``with`` block closes it::

        with make_method({"method": "rules"}, seed=0) as method:
            for pair_or_skip in method.pairs(folder / "train"):
                ...
            counts = method.totals()

    Args:
        seed: of all choices; what is drawn for an item depends on the seed and the item alone.
        shard: number of this share and how many there are; an item's share follows from its id. Only methods that
            ask a model can be split: a shard stores its replies, and the whole job finds them (:meth:`store_replies`).
    Attributes:
        num_items: how many images or questions this shard has taken so far.
    """

    def __init__(self, *, seed: int, shard: tuple[int, int] = WHOLE) -> None:
        self.seed, self.shard, self.num_items = seed, shard, 0
        self._stack = ExitStack()

    @property
    def asks_model(self) -> bool:
        """Whether a model's replies are stored, so that the work can be split into shards."""
        return False

    @abstractmethod
    def pairs(self, split: Path) -> Iterator[PreferencePair | Skip]:
        """The pairs of a split's folder in a fixed order, and a :class:`Skip` for each item without one.

        Streams: memory does not grow with the data unless the method says so.

        Raises:
            PairMethodError: the folder lacks what the method works on.
            EngineError: the server, model or key cannot work; replies so far are stored.
        """

    def totals(self) -> dict[str, Any]:
        """What the split's summary says of the method, once :meth:`pairs` has ended: requests, tokens, outcomes."""
        return {}

    def store_replies(self, split: Path) -> int:
        """Ask the model about this shard's items of a split; returns how many items. The pairs are not kept."""
        for _ in self.pairs(split):
            pass
        return self.num_items

    def share(self, items: Iterable[Item], item_id: Callable[[Item], str]) -> Iterator[Item]:
        """The items of this shard."""
        for item in items:
            if self.shard == WHOLE or in_shard(item_id(item), self.shard):
                self.num_items += 1
                yield item

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)  # with the error: a half-written table must not appear


def collect(stream: Iterable[PreferencePair | Skip]) -> tuple[list[PreferencePair], list[Skip]]:
    """The pairs and the skipped items of a stream, all in memory."""
    pairs: list[PreferencePair] = []
    skips: list[Skip] = []
    for pair_or_skip in stream:
        if isinstance(pair_or_skip, Skip):
            skips.append(pair_or_skip)
        else:
            pairs.append(pair_or_skip)
    return pairs, skips
