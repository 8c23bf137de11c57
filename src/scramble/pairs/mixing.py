"""Mix the pairs of several methods by weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path
from typing import Any

from scramble.pairs.base import Skip, seeded
from scramble.pairs.method import WHOLE, PairMethod, PairMethodError, collect
from scramble.records import PreferencePair


class MixedPairs(PairMethod):
    """A pair method that mixes the pairs of several methods.

    The methods run one after the other, and all pairs are held in memory.

    Args:
        parts: the methods by name.
        weights: see :func:`mix`.
    """

    def __init__(
        self,
        *,
        seed: int,
        shard: tuple[int, int] = WHOLE,
        parts: Mapping[str, PairMethod],
        weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(seed=seed, shard=shard)
        self._parts, self._weights = parts, weights
        self._counts: dict[str, Any] = {}

    @property
    def asks_model(self) -> bool:
        return any(part.asks_model for part in self._parts.values())

    def prepare(self) -> None:
        for part in self._parts.values():
            part.prepare()

    def exclude(self, image_ids: AbstractSet[str]) -> None:
        for part in self._parts.values():
            part.exclude(image_ids)

    def pairs(self, split: Path) -> Iterator[PreferencePair | Skip]:
        pairs_of: dict[str, list[PreferencePair]] = {}
        for name, part in self._parts.items():
            with part:  # only one engine is open at a time
                pairs_of[name], skips = collect(part.pairs(split))
                self._counts[name] = {"pairs": len(pairs_of[name]), **part.totals()}
            yield from (replace(skip, reason=f"{name}: {skip.reason}") for skip in skips)
        self.num_items = sum(part.num_items for part in self._parts.values())
        if split.name != "train":  # a part may have pairs only for training
            pairs_of = {name: pairs for name, pairs in pairs_of.items() if pairs}
        yield from mix(pairs_of, self._weights, seed=self.seed)

    def totals(self) -> dict[str, Any]:
        """Return the number of pairs and the totals of each part."""
        return {"parts": self._counts}

    def store_replies(self, split: Path) -> int:
        """Store the replies for all parts that use a model."""
        items = 0
        for part in self._parts.values():
            if part.asks_model:
                with part:
                    items += part.store_replies(split)
        return items


def mix(
    parts: Mapping[str, Sequence[PreferencePair]], weights: Mapping[str, float] | None = None, *, seed: int = 0
) -> list[PreferencePair]:
    """Return the mixed pairs in random order. The id of each pair gets the name of its part as a prefix.

    Args:
        weights: relative weights of the parts. The result is the largest mix without repeated pairs in which each part
            has its share of the pairs, up to rounding. The seed selects the pairs. None uses all pairs.

    Raises:
        PairMethodError: a weight is not positive, or a part with a weight has no pairs.
    """
    counts = {name: len(pairs) for name, pairs in parts.items()}
    if weights is not None:
        if bad := [name for name in parts if not weights.get(name, 0) > 0]:
            raise PairMethodError(
                f"part {bad[0]} has weight {weights.get(bad[0])}: set pairs.weights.{bad[0]} to a number above 0, or "
                f"remove pairs.parts.{bad[0]}"
            )
        if empty := [name for name, count in counts.items() if not count]:
            raise PairMethodError(
                f"part {empty[0]} contains no pairs, so it cannot have a share of the mix: remove "
                f"pairs.parts.{empty[0]}, or set pairs.weights=null"
            )
        total_weight = sum(weights[name] for name in parts)
        total = min(count * total_weight / weights[name] for name, count in counts.items())
        counts = {name: min(counts[name], round(total * weights[name] / total_weight)) for name in parts}
    mixed = [
        replace(pairs[place], pair_id=f"{name}/{pairs[place].pair_id}")
        for name, pairs in parts.items()
        for place in sorted(seeded(seed, "mix", name).sample(range(len(pairs)), counts[name]))
    ]
    seeded(seed, "mix").shuffle(mixed)
    return mixed
