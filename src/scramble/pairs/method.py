"""Define the base class of pair methods, which create preference pairs from the folder of a split."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from scramble.engines import in_shard
from scramble.pairs.base import CandidateSet, Skip
from scramble.records import ImageRecord, PreferencePair, Question

Item = TypeVar("Item", ImageRecord, Question)
WHOLE = (0, 1)


class PairMethodError(ValueError):
    """Raised if a pair method cannot use settings or data. The message names the key or file and says how to fix it."""


class PairMethod(ABC):
    """A method that creates preference pairs. :mod:`scramble.pairs.registry` lists all methods.

    The constructor only checks settings. :meth:`pairs` opens the resources (an engine, its stored replies), and the end
    of the ``with`` block closes them::

        with make_method({"method": "rules"}, seed=0) as method:
            for pair_or_skip in method.pairs(folder / "train"):
                ...
            counts = method.totals()

    Args:
        seed: random seed. The selection for an item depends only on the seed and the item.
        shard: index of this shard and number of shards. The shard of an item is computed from its id. Only methods that
            use a model can be divided into shards. Each shard stores the model's replies about its items
            (:meth:`store_replies`). A later job without shards reads these replies and makes all pairs.
    Attributes:
        num_items: number of images or questions that this shard has processed.
    """

    def __init__(self, *, seed: int, shard: tuple[int, int] = WHOLE) -> None:
        self.seed, self.shard, self.num_items = seed, shard, 0
        self._excluded: AbstractSet[str] = frozenset()
        self._stack = ExitStack()

    @property
    def asks_model(self) -> bool:
        """Whether the method uses a model and stores its replies, so that the work can be divided into shards."""
        return False

    def prepare(self) -> None:  # noqa: B027 (most methods need nothing)
        """Read the inputs other than the split's folder, to report a missing input before images are prepared.

        Raises:
            StoreError: a file cannot be used.
        """

    @abstractmethod
    def pairs(self, split: Path) -> Iterator[PreferencePair | Skip]:
        """Yield the pairs of a split's folder in a fixed order, and a :class:`Skip` for each item without a pair.

        The pairs are streamed, so memory does not grow with the data, unless the method's documentation says otherwise.

        Raises:
            PairMethodError: the folder lacks data that the method needs.
            EngineError: the server, model or key cannot work. Earlier replies are stored.
        """

    def candidates(self, split: Path) -> Iterator[CandidateSet | Skip]:
        """Yield the possible pairs of each item, for refinement. By default, no pair has an alternative."""
        for pair_or_skip in self.pairs(split):
            yield pair_or_skip if isinstance(pair_or_skip, Skip) else CandidateSet((pair_or_skip,), (1.0,), 1)

    def expand(self, pair: PreferencePair) -> tuple[PreferencePair, ...]:
        """Return the final pairs of a selected candidate. By default, this is the candidate itself."""
        return (pair,)

    def totals(self) -> dict[str, Any]:
        """Return the totals for the split's summary (requests, tokens, outcomes) after :meth:`pairs` has ended."""
        return {}

    def store_replies(self, split: Path) -> int:
        """Store the model's replies about this shard's items of a split, and return the number of items."""
        for _ in self.pairs(split):
            pass
        return self.num_items

    def exclude(self, image_ids: AbstractSet[str]) -> None:
        """Exclude these images from the pairs. Call this before :meth:`pairs`."""
        self._excluded = image_ids

    def share(self, items: Iterable[Item], item_id: Callable[[Item], str]) -> Iterator[Item]:
        """Yield the items of this shard, except items about excluded images."""
        for item in items:
            image_ids = (item.image_id,) if isinstance(item, ImageRecord) else item.image_ids
            if not self._excluded.isdisjoint(image_ids):
                continue
            if self.shard == WHOLE or in_shard(item_id(item), self.shard):
                self.num_items += 1
                yield item

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)  # with the error, so that no incomplete table is created


class DerivedMethod(PairMethod):
    """The base class of methods that process the pairs of another method. They open and close the other method."""

    def __init__(self, method: PairMethod) -> None:
        super().__init__(seed=method.seed, shard=method.shard)
        self._method = self._stack.enter_context(method)

    @property
    def asks_model(self) -> bool:
        return self._method.asks_model

    def prepare(self) -> None:
        self._method.prepare()

    def exclude(self, image_ids: AbstractSet[str]) -> None:
        super().exclude(image_ids)
        self._method.exclude(image_ids)

    def store_replies(self, split: Path) -> int:
        return self._method.store_replies(split)


def collect(stream: Iterable[PreferencePair | Skip]) -> tuple[list[PreferencePair], list[Skip]]:
    """Collect the pairs and the skipped items of a stream in memory."""
    pairs: list[PreferencePair] = []
    skips: list[Skip] = []
    for pair_or_skip in stream:
        if isinstance(pair_or_skip, Skip):
            skips.append(pair_or_skip)
        else:
            pairs.append(pair_or_skip)
    return pairs, skips
