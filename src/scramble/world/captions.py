"""Generates true captions of a scene. Clauses are selected first, and then written as text by the grammar."""

from __future__ import annotations

import random
from collections.abc import Mapping

from scramble.world.grammar import Clause, CountClause, Exists, Noun, Relation, Wording, render
from scramble.world.scenes import Scene, Thing, WorldError, spatial_relations

# Weights of the kinds of captions. "list" names objects, "relation" relates two objects, "chain" relates one object to
# two others, "scene" names all objects and relates two of them, and "count" counts the objects of a kind.
CAPTION_STYLES: dict[str, float] = {"relation": 0.4, "chain": 0.15, "list": 0.2, "scene": 0.15, "count": 0.1}
SIZED = 0.3  # fraction of captions that mention sizes as well as colours and shapes
_TRIES = 50


def captions(
    scene: Scene,
    rng: random.Random,
    count: int,
    *,
    styles: Mapping[str, float] = CAPTION_STYLES,
    sized: float = SIZED,
    wording: Wording = "train",
) -> tuple[str, ...]:
    """Return ``count`` different captions that are true of the scene.

    Raises:
        WorldError: a style is unknown, or too few different captions of the scene were found.
    """
    unknown = sorted(set(styles) - set(_PLANS))
    if unknown:
        raise WorldError(f"unknown caption styles {unknown}: choose data.styles from {sorted(_PLANS)}")
    texts: dict[str, None] = {}
    for _ in range(_TRIES * count):
        style = rng.choices(list(styles), weights=list(styles.values()))[0]
        if clauses := draw_clauses(scene, rng, style, with_size=rng.random() < sized):
            texts[render(clauses, rng, wording)] = None
        if len(texts) == count:
            return tuple(texts)
    raise WorldError(
        f"fewer than {count} captions of a scene were found: lower data.captions_per_image or raise data.objects"
    )


def draw_clauses(scene: Scene, rng: random.Random, style: str, *, with_size: bool = False) -> tuple[Clause, ...]:
    """Draw clauses that are true of the scene. Return () if the scene has too few objects for the style."""
    return _PLANS[style](scene, rng, with_size)


def name(thing: Thing, with_size: bool = False) -> Noun:
    """Return the noun that describes an object by its colour, its shape and, if ``with_size``, its size."""
    return Noun(thing.shape, thing.colour, thing.size if with_size else "")


def relate(scene: Scene, rng: random.Random, subject: int, others: list[int], with_size: bool) -> Relation:
    """Draw a true relation of the object with index ``subject`` to each object with an index in ``others``."""
    things = scene.things
    links = tuple(
        (rng.choice(spatial_relations(things[subject], things[i])), name(things[i], with_size)) for i in others
    )
    return Relation(name(things[subject], with_size), links)


def _relation(scene: Scene, rng: random.Random, with_size: bool) -> tuple[Clause, ...]:
    if len(scene.things) < 2:
        return ()
    a, b = rng.sample(range(len(scene.things)), 2)
    return (relate(scene, rng, a, [b], with_size),)


def _chain(scene: Scene, rng: random.Random, with_size: bool) -> tuple[Clause, ...]:
    if len(scene.things) < 3:
        return ()
    a, b, c = rng.sample(range(len(scene.things)), 3)
    return (relate(scene, rng, a, [b, c], with_size),)


def _list(scene: Scene, rng: random.Random, with_size: bool) -> tuple[Clause, ...]:
    least = min(2, len(scene.things))
    chosen = rng.sample(scene.things, rng.randint(least, len(scene.things)))
    return (Exists(tuple(name(thing, with_size) for thing in chosen)),)


def _scene(scene: Scene, rng: random.Random, with_size: bool) -> tuple[Clause, ...]:
    everything = rng.sample(scene.things, len(scene.things))
    row = Exists(tuple(name(thing, with_size) for thing in everything))
    related = _relation(scene, rng, with_size)
    return (row, *related) if rng.random() < 0.5 else (*related, row)


def _count(scene: Scene, rng: random.Random, with_size: bool) -> tuple[Clause, ...]:
    thing = rng.choice(scene.things)
    noun = rng.choice([Noun(), Noun(shape=thing.shape), Noun(colour=thing.colour), Noun(size=thing.size)])
    number = sum(
        noun.shape in ("", t.shape) and noun.colour in ("", t.colour) and noun.size in ("", t.size)
        for t in scene.things
    )
    return (CountClause(number, noun),)


_PLANS = {"relation": _relation, "chain": _chain, "list": _list, "scene": _scene, "count": _count}
