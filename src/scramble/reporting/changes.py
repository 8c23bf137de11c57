"""Items that one method answers correctly and another does not, sampled for display."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from scramble.evaluation.scoring.outcomes import Outcome

HEADLINES = ("group", "accuracy")
RIGHT = 0.5
"""An answer with at least this score counts as right (VQA accuracy has the values 0, 0.3, 0.6, 0.9 and 1)."""


@dataclass(frozen=True)
class Change:
    """Changes from method ``before`` to method ``after``: numbers of items, and the ids sampled for display.

    ``gained`` items changed from wrong to right, ``lost`` items from right to wrong.
    """

    before: str
    after: str
    both_right: int
    both_wrong: int
    gained: int
    lost: int
    shown_gained: tuple[str, ...]
    shown_lost: tuple[str, ...]


@dataclass
class Changes:
    """All comparisons on one benchmark; ``why`` maps an item to the comparisons that it is shown for."""

    changes: list[Change] = field(default_factory=list)
    why: dict[str, list[tuple[int, str]]] = field(default_factory=dict)


def is_right(outcome: Outcome) -> bool | None:
    """Whether an item is right by its main score (all four comparisons of a 2x2 item); None if it is not graded."""
    for name in HEADLINES:
        if name in outcome.values:
            return outcome.values[name] >= RIGHT
    return None


def compare(
    outcomes: Mapping[str, Mapping[str, Outcome]], pairs: Sequence[tuple[str, str]], count: int, seed: int = 0
) -> Changes:
    """Compare methods item by item.

    Args:
        outcomes: method -> item id -> outcome.
        pairs: (before, after) methods.
        count: maximum number of items to sample per pair and direction.
        seed: seed of the sample.
    """
    result = Changes()
    for before, after in pairs:
        verdicts = {
            name: (is_right(outcomes[before][name]), is_right(other))
            for name, other in outcomes[after].items()
            if name in outcomes[before]
        }
        gained = [name for name, (first, second) in verdicts.items() if first is False and second is True]
        lost = [name for name, (first, second) in verdicts.items() if first is True and second is False]
        samples = {
            kind: _draw(names, count, f"{seed}/{before}/{after}/{kind}")
            for kind, names in (("gained", gained), ("lost", lost))
        }
        both = list(verdicts.values())
        number = len(result.changes)
        result.changes.append(
            Change(
                before,
                after,
                both.count((True, True)),
                both.count((False, False)),
                len(gained),
                len(lost),
                samples["gained"],
                samples["lost"],
            )
        )
        for kind, names in samples.items():
            for name in names:
                result.why.setdefault(name, []).append((number, kind))
    return result


def _draw(names: Sequence[str], count: int, seed: str) -> tuple[str, ...]:
    """Sample at most ``count`` of the names, in their order."""
    if len(names) <= count:
        return tuple(names)
    places = sorted(random.Random(seed).sample(range(len(names)), count))
    return tuple(names[place] for place in places)
