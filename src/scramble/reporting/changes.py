"""Items that one method has right and another wrong, drawn for a contact sheet."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from scramble.evaluation.scoring.outcomes import Outcome

HEADLINES = ("group", "accuracy")
RIGHT = 0.5
"""An answer with at least this share of its credit counts as right (VQA accuracy gives 0.3, 0.6, 0.9, 1)."""


@dataclass(frozen=True)
class Change:
    """What changed from method ``before`` to method ``after``: numbers of items, and the ids drawn for display.

    ``gained`` went from wrong to right, ``lost`` back.
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
    """All comparisons of one benchmark; ``why`` maps an item to the comparisons that it is shown for."""

    found: list[Change] = field(default_factory=list)
    why: dict[str, list[tuple[int, str]]] = field(default_factory=dict)


def is_right(outcome: Outcome) -> bool | None:
    """Whether an item is right by its benchmark's headline (all four comparisons of a 2x2 item); None if not graded."""
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
        count: most items drawn for each pair and direction, by the seed.
    """
    changes = Changes()
    for before, after in pairs:
        verdicts = {
            name: (is_right(outcomes[before][name]), is_right(other))
            for name, other in outcomes[after].items()
            if name in outcomes[before]
        }
        gained = [name for name, (first, second) in verdicts.items() if first is False and second is True]
        lost = [name for name, (first, second) in verdicts.items() if first is True and second is False]
        drawn = {
            kind: _draw(names, count, f"{seed}/{before}/{after}/{kind}")
            for kind, names in (("gained", gained), ("lost", lost))
        }
        both = list(verdicts.values())
        number = len(changes.found)
        changes.found.append(
            Change(
                before,
                after,
                both.count((True, True)),
                both.count((False, False)),
                len(gained),
                len(lost),
                drawn["gained"],
                drawn["lost"],
            )
        )
        for kind, names in drawn.items():
            for name in names:
                changes.why.setdefault(name, []).append((number, kind))
    return changes


def _draw(names: Sequence[str], count: int, seed: str) -> tuple[str, ...]:
    """At most ``count`` of the names, in their order."""
    if len(names) <= count:
        return tuple(names)
    places = sorted(random.Random(seed).sample(range(len(names)), count))
    return tuple(names[place] for place in places)
