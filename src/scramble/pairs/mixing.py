"""Several data sets of pairs as one, in given shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from scramble.pairs.base import seeded
from scramble.records import PreferencePair


class MixError(ValueError):
    """Weights that cannot be kept. The message names the part."""


def mix(
    parts: Mapping[str, Sequence[PreferencePair]], weights: Mapping[str, float] | None = None, *, seed: int = 0
) -> list[PreferencePair]:
    """The pairs of all parts in a random order, their ids preceded by the part's name.

    Args:
        weights: shares of the parts: as many pairs as can be had without repeating one or missing a share by more than
            a pair, drawn by the seed. None takes all pairs.

    Raises:
        MixError: a weight that is not positive, or a part with a weight and no pairs.
    """
    counts = {name: len(pairs) for name, pairs in parts.items()}
    if weights is not None:
        if bad := [name for name in parts if not weights.get(name, 0) > 0]:
            raise MixError(
                f"part {bad[0]} has weight {weights.get(bad[0])}: weights must be above 0; leave the part out"
            )
        if empty := [name for name, count in counts.items() if not count]:
            raise MixError(f"part {empty[0]} has no pairs, so no mix has its share: leave it out, or weights=null")
        whole = sum(weights[name] for name in parts)
        total = min(count * whole / weights[name] for name, count in counts.items())
        counts = {name: min(counts[name], round(total * weights[name] / whole)) for name in parts}
    mixed = [
        replace(pairs[place], pair_id=f"{name}/{pairs[place].pair_id}")
        for name, pairs in parts.items()
        for place in sorted(seeded(seed, "mix", name).sample(range(len(pairs)), counts[name]))
    ]
    seeded(seed, "mix").shuffle(mixed)
    return mixed
