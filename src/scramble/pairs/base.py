"""What pair methods share: the reason of a skip, captions in and candidates out, a seeded choice.

A *generator* reads a stream of captions and yields, for each one in order, all the negatives it can make of it. It
draws nothing at random: the stage that builds pairs (:mod:`scramble.pairs.captions.assemble`) makes the one seeded
choice, with :func:`choose`, so that a data set can be rebuilt and audited.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from scramble.records import Edit


@dataclass(frozen=True, slots=True)
class Caption:
    """One caption of an image. ``index`` is its place among the image's captions; ``graph`` the image's scene graph."""

    image_id: str
    index: int
    text: str
    graph: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Negative:
    """A text that is close to a caption and should be false of its image.

    ``kind`` is what a reader sees changed (``swap-object``, ``swap-attribute``, ``swap-relation``, ``swap-number``,
    ``replace-object``, ``replace-attribute``, ``replace-relation``, ``replace-number``), ``rule`` what changed it
    (``swap.modifiers``, or a prompt hash and a model), ``edits`` the changed stretches, ``weight`` how often it
    should be drawn relative to the other candidates of its kind.
    """

    text: str
    kind: str
    rule: str
    edits: tuple[Edit, ...] = ()
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Skip:
    """Why something gives no pair, in a few words that can be counted (``"abstained"``, ``"no candidate"``).

    ``item`` is what ``skipped.jsonl`` says of it: ids and the beginning of the text.
    """

    reason: str
    item: Mapping[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """The row of ``skipped.jsonl``."""
        return {**self.item, "reason": self.reason}


class Generator(Protocol):
    """A method that makes negatives. ``name`` goes into each pair's provenance."""

    name: str

    def negatives(self, captions: Iterable[Caption]) -> Iterator[tuple[Caption, list[Negative] | Skip]]:
        """Each caption with all its candidates, in input order; an empty list or a :class:`Skip` when there is none.

        Lazy: reads a bounded number of captions ahead. Deterministic: the same caption gives the same list.
        """
        ...


def seeded(seed: int, *key: object) -> random.Random:
    """A random stream that depends on ``seed`` and ``key`` alone: not on order, shard, process or hash seed."""
    digest = hashlib.sha256("\x1f".join(map(str, (seed, *key))).encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))


def choose(candidates: Sequence[Negative], count: int, seed: int, *key: object) -> list[Negative]:
    """``count`` candidates (fewer if there are fewer), drawn so that kinds take turns in a random order.

    Within a kind a candidate is drawn in proportion to its weight. Without the turns, kinds that offer many
    candidates (replacements: one per lexicon entry) would crowd out those that offer one (swaps). ``key`` names the
    caption, see :func:`seeded`.
    """
    rng = seeded(seed, *key)
    by_kind: dict[str, list[Negative]] = {}
    for candidate in candidates:
        by_kind.setdefault(candidate.kind, []).append(candidate)
    kinds = sorted(by_kind)
    rng.shuffle(kinds)
    chosen: list[Negative] = []
    while len(chosen) < count and any(by_kind.values()):
        for kind in kinds:
            left = by_kind[kind]
            if left and len(chosen) < count:
                (index,) = rng.choices(range(len(left)), [c.weight for c in left])
                chosen.append(left.pop(index))
    return chosen


def changed_span(before: str, after: str) -> tuple[Edit, ...]:
    """The stretch in which two texts differ, as one edit on word bounds; nothing when they are equal.

    For methods that rewrite a caption as a whole (a language model) and know no finer edits.
    """
    if before == after:
        return ()
    start = 0
    while start < min(len(before), len(after)) and before[start] == after[start]:
        start += 1
    end = 0
    while end < min(len(before), len(after)) - start and before[-1 - end] == after[-1 - end]:
        end += 1
    while start and before[start - 1].isalnum():
        start -= 1
    while end and before[len(before) - end].isalnum():
        end -= 1
    return (Edit((start, len(before) - end), (start, len(after) - end)),)
