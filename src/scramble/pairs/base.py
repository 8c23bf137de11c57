"""Define what pair methods share: skips with their reasons, captions, negatives, generators, and seeded selection.

A *generator* reads a stream of captions and yields all possible negatives of each caption. A generator makes no random
choices. When pairs are built (:mod:`scramble.pairs.captions.assemble`), :func:`choose` selects negatives with a seed,
so that a data set can be rebuilt and audited.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from scramble.records import Edit, ImageFile, PreferencePair

ImageText = tuple[ImageFile, str]
TextScorer = Callable[[Sequence[str]], Sequence[float]]  # returns the score of each text
Similarity = Callable[[Sequence[ImageText]], Sequence[float]]  # returns the similarity of each text and its image


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption of an image.

    ``index`` is the index of the caption among the captions of the image. ``graph`` is the scene graph of the image.
    """

    image_id: str
    index: int
    text: str
    graph: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Negative:
    """A text that is similar to a caption and should be false of its image.

    Attributes:
        kind: kind of change (``swap-object``, ``swap-attribute``, ``swap-relation``, ``swap-number``,
            ``replace-object``, ``replace-attribute``, ``replace-relation``, ``replace-number``, or the name of a
            prompt).
        rule: the rule that made the change (``swap.attributes``), or the hash of a prompt and a model.
        edits: the changed spans.
        weight: probability of selection relative to the other candidates of the same kind.
    """

    text: str
    kind: str
    rule: str
    edits: tuple[Edit, ...] = ()
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class CandidateSet:
    """The possible pairs of one item (for example, a caption), of which at most ``count`` are used.

    Attributes:
        pairs: the pairs in the order in which they are drawn. Without refinement, the first ``count`` pairs are used.
        draws: mean number of draws of each pair over all seeds (:func:`expected_draws`).
    """

    pairs: tuple[PreferencePair, ...]
    draws: tuple[float, ...]
    count: int


@dataclass(frozen=True, slots=True)
class Skip:
    """The reason why an item has no pair, in a few words, so that reasons can be counted (``"abstained"``).

    ``item`` contains the other fields of the item's row in ``skipped.jsonl``: ids and the beginning of the text.
    """

    reason: str
    item: Mapping[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """Return the row for ``skipped.jsonl``."""
        return {**self.item, "reason": self.reason}


class Generator(Protocol):
    """A method that generates negatives. ``name`` is recorded in each pair's provenance."""

    name: str

    def negatives(self, captions: Iterable[Caption]) -> Iterator[tuple[Caption, list[Negative] | Skip]]:
        """Yield each caption, in input order, with all its candidates, or with an empty list or a :class:`Skip`.

        The method is lazy and reads a bounded number of captions ahead. It is deterministic, so the same caption always
        yields the same list.
        """
        ...


def seeded(seed: int, *key: object) -> random.Random:
    """Return a random generator that depends only on ``seed`` and ``key``, not on order, shard or process."""
    digest = hashlib.sha256("\x1f".join(map(str, (seed, *key))).encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))


def choose(candidates: Sequence[Negative], count: int, seed: int, *key: object) -> list[Negative]:
    """Draw ``count`` candidates (or all, if there are fewer), alternating between the kinds in a random order.

    Within a kind, a candidate is drawn in proportion to its weight. If the kinds did not alternate, kinds with many
    candidates (replacements, one per lexicon entry) would be drawn more often than kinds with one candidate (swaps).
    ``key`` identifies the caption (:func:`seeded`).
    """
    rng = seeded(seed, *key)
    by_kind: dict[str, list[Negative]] = {}
    for candidate in candidates:
        by_kind.setdefault(candidate.kind, []).append(candidate)
    kinds = sorted(by_kind)
    rng.shuffle(kinds)
    selected: list[Negative] = []
    while len(selected) < count and any(by_kind.values()):
        for kind in kinds:
            remaining = by_kind[kind]
            if remaining and len(selected) < count:
                (index,) = rng.choices(range(len(remaining)), [c.weight for c in remaining])
                selected.append(remaining.pop(index))
    return selected


def expected_draws(candidates: Sequence[Negative], count: int) -> list[float]:
    """Return how often :func:`choose` draws each candidate on average over all seeds, in [0, 1].

    The number of draws per kind is exact. Within a kind, this number is divided in proportion to the weights. The
    result is exact for one draw, and approximate for several draws without replacement.
    """
    sizes: dict[str, int] = {}
    weights: dict[str, float] = {}
    for candidate in candidates:
        sizes[candidate.kind] = sizes.get(candidate.kind, 0) + 1
        weights[candidate.kind] = weights.get(candidate.kind, 0.0) + candidate.weight
    draws, left = dict.fromkeys(sizes, 0.0), float(count)
    turn = 0
    while left > 0 and (open_kinds := [kind for kind in sizes if sizes[kind] > turn]):
        each = min(1.0, left / len(open_kinds))
        for kind in open_kinds:
            draws[kind] += each
        left -= each * len(open_kinds)
        turn += 1
    return [min(1.0, draws[c.kind] * c.weight / weights[c.kind]) for c in candidates]


def changed_span(before: str, after: str) -> tuple[Edit, ...]:
    """Return the span in which two texts differ, as one edit at word boundaries, or () if the texts are equal.

    Methods that rewrite a whole caption, for example with a language model, record this span as their only edit.
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
