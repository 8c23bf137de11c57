"""Draws 2x2 items: two scenes and two captions with the same words. Caption ``i`` is true only of scene ``i``."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from scramble.world.captions import name, relate
from scramble.world.grammar import Clause, Exists, Relation, Wording, render
from scramble.world.judge import holds
from scramble.world.scenes import HELD_OUT, Scene, WorldError, draw_scene, swap_colours, swap_places, swap_sizes

QUAD_KINDS = ("swap-object", "swap-attribute", "swap-size")
_TRIES = 2000


@dataclass(frozen=True, slots=True)
class Square:
    """A 2x2 item: two scenes and two captions."""

    scenes: tuple[Scene, Scene]
    captions: tuple[str, str]


def draw_square(
    rng: random.Random,
    kind: str,
    *,
    objects: tuple[int, int] = (2, 4),
    lookalikes: float = 0.0,
    held_out: bool = False,
    wording: Wording = "train",
) -> Square:
    """Draw a 2x2 item, and check with :func:`holds` that each caption is true only of its own scene.

    Two objects swap places (``swap-object``), colours (``swap-attribute``) or sizes (``swap-size``) in the image and in
    the caption. With ``held_out``, the swapped objects have combinations of colour and shape that do not occur in
    training: in both scenes, or in at least one scene if colours are swapped. Without ``held_out``, all combinations
    occur in training.
    """
    for _ in range(_TRIES):
        scene = draw_scene(rng, objects=objects, lookalikes=lookalikes, held_out="with" if held_out else "without")
        square = _square(rng, scene, kind, held_out, wording)
        if square is not None:
            return square
    raise WorldError(
        f"no {kind} item with {objects[0]} to {objects[1]} objects was found in {_TRIES} tries: change data.objects"
    )


def _square(rng: random.Random, scene: Scene, kind: str, held_out: bool, wording: Wording) -> Square | None:
    rare = [i for i, thing in enumerate(scene.things) if thing.combination in HELD_OUT]
    a, b = rng.sample(rare if held_out else range(len(scene.things)), 2)
    other = _other_scene(rng, scene, kind, a, b)
    if other is None or (not held_out and any(thing.combination in HELD_OUT for thing in other.things)):
        return None
    if len({thing.combination for thing in other.things}) < len(other.things):
        return None  # two objects have the same colour and shape, so a caption cannot distinguish them
    wordings = random.Random(rng.random())
    pair = _meanings(rng, scene, kind, a, b)
    if pair is None:
        return None
    state = wordings.getstate()
    first = render(pair[0], wordings, wording)
    wordings.setstate(state)  # the same wording for both captions
    second = render(pair[1], wordings, wording)
    judged = [holds(image, text) for image in (scene, other) for text in (first, second)]
    return Square((scene, other), (first, second)) if judged == [True, False, False, True] else None


def _other_scene(rng: random.Random, scene: Scene, kind: str, a: int, b: int) -> Scene | None:
    first, second = scene.things[a], scene.things[b]
    if kind == "swap-object":
        return swap_places(rng, scene, a, b)
    if kind == "swap-attribute":
        differ = first.shape != second.shape and first.colour != second.colour
        return swap_colours(rng, scene, a, b) if differ else None
    if kind == "swap-size":
        return swap_sizes(rng, scene, a, b) if first.size != second.size else None
    raise WorldError(f"unknown kind of 2x2 items {kind!r}: choose one of {list(QUAD_KINDS)}")


def _meanings(
    rng: random.Random, scene: Scene, kind: str, a: int, b: int
) -> tuple[tuple[Clause, ...], tuple[Clause, ...]] | None:
    if kind == "swap-object":
        clause = relate(scene, rng, a, [b], False)
        (relation, other) = clause.links[0]
        return (clause,), (Relation(other, ((relation, clause.subject),)),)
    with_size = kind == "swap-size"
    first, second = name(scene.things[a], with_size), name(scene.things[b], with_size)
    if kind == "swap-attribute":
        third, fourth = replace(first, colour=second.colour), replace(second, colour=first.colour)
    else:
        third, fourth = replace(first, size=second.size), replace(second, size=first.size)
    if rng.random() < 0.5:
        return (Exists((first, second)),), (Exists((third, fourth)),)
    relation = relate(scene, rng, a, [b], False).links[0][0]
    return (Relation(first, ((relation, second),)),), (Relation(third, ((relation, fourth),)),)
