"""Generates scenes of coloured shapes that do not overlap, and defines the vocabulary of their captions.

All lengths are fractions of the image's side, so that a scene is independent of the resolution.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SIZES = ("small", "large")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

# Combinations of colour and shape that do not occur in training. There is one combination per colour and per shape.
HELD_OUT = frozenset((colour, SHAPES[(index + 2) % len(SHAPES)]) for index, colour in enumerate(COLOURS))

_RADIUS = {"small": (0.105, 0.12), "large": (0.15, 0.17)}
_GAP = 0.02  # minimum distance between two objects, so that "left of" never depends on one pixel
_TRIES = 200


class WorldError(ValueError):
    """Raised if a world cannot be generated with the given arguments. The message says what to change."""


@dataclass(frozen=True, slots=True)
class Thing:
    """An object: the words that describe it, its centre and radius, and the jitter of its drawing.

    ``angle`` is in degrees. ``tint`` is added to the colour channels, which range from 0 to 1.
    """

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    angle: float = 0.0
    tint: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The box (left, top, right, bottom)."""
        return (self.x - self.radius, self.y - self.radius, self.x + self.radius, self.y + self.radius)

    @property
    def combination(self) -> tuple[str, str]:
        return (self.colour, self.shape)


@dataclass(frozen=True, slots=True)
class Scene:
    """Objects on a light background (``ground`` is its grey level, from 0 to 1)."""

    things: tuple[Thing, ...]
    ground: float = 0.92

    @property
    def signature(self) -> tuple[object, ...]:
        """The content of the scene without jitter. The same captions are true of scenes with the same signature."""
        order = sorted(range(len(self.things)), key=lambda i: (self.things[i].combination, self.things[i].size))
        things = [self.things[i] for i in order]
        words = tuple((t.shape, t.colour, t.size) for t in things)
        pairs = tuple(spatial_relations(a, b) for i, a in enumerate(things) for b in things[i + 1 :])
        return (words, pairs)


def spatial_relations(a: Thing, b: Thing) -> tuple[str, ...]:
    """Return the one or two relations of ``a`` to ``b``, along the axes on which their boxes do not overlap."""
    left_a, top_a, right_a, bottom_a = a.box
    left_b, top_b, right_b, bottom_b = b.box
    result = []
    if right_a <= left_b:
        result.append("left of")
    if right_b <= left_a:
        result.append("right of")
    if bottom_a <= top_b:
        result.append("above")
    if bottom_b <= top_a:
        result.append("below")
    return tuple(result)


def quarter(thing: Thing) -> str:
    """Return the quadrant of the image that contains the object's centre, for example "top left".

    Return "" if the centre is within 3 % of a middle line, because the quadrant is then unclear.
    """
    if min(abs(thing.x - 0.5), abs(thing.y - 0.5)) < 0.03:
        return ""
    return f"{'top' if thing.y < 0.5 else 'bottom'} {'left' if thing.x < 0.5 else 'right'}"


def draw_scene(
    rng: random.Random,
    *,
    objects: tuple[int, int] = (2, 4),
    lookalikes: float = 0.0,
    held_out: str = "without",
) -> Scene:
    """Draw a random scene.

    Args:
        rng: the random generator.
        objects: minimum and maximum number of objects.
        lookalikes: probability that an object after the first gets the shape or colour of an earlier object. Objects
            can also share a shape or colour by chance.
        held_out: ``"without"`` excludes the combinations in ``HELD_OUT``. ``"with"`` draws two objects with these
            combinations.
    Raises:
        WorldError: ``objects`` is not a range within 1 to 6, or the objects do not fit.
    """
    low, high = objects
    if not 1 <= low <= high <= 6:
        raise WorldError(
            f"data.objects must be [minimum, maximum] with 1 <= minimum <= maximum <= 6, not {[low, high]}"
        )
    for _ in range(_TRIES):
        count = rng.randint(low, high)
        combinations = _combinations(rng, count, lookalikes, held_out)
        scene = place(rng, [(shape, colour, rng.choice(SIZES)) for colour, shape in combinations])
        if scene is not None:
            return scene
    raise WorldError(f"{low} to {high} objects did not fit into an image in {_TRIES} tries: lower data.objects")


def _combinations(rng: random.Random, count: int, lookalikes: float, held_out: str) -> list[tuple[str, str]]:
    free = [(c, s) for c in COLOURS for s in SHAPES if (c, s) not in HELD_OUT]
    if held_out == "with":
        chosen = rng.sample(sorted(HELD_OUT), min(2, count))
    else:
        chosen = [rng.choice(free)]
    while len(chosen) < count:
        options = [pair for pair in free if pair not in chosen]
        if rng.random() < lookalikes:
            near = [(c, s) for c, s in options if any(c == colour or s == shape for colour, shape in chosen)]
            options = near or options
        chosen.append(rng.choice(options))
    rng.shuffle(chosen)
    return chosen


def place(rng: random.Random, words: list[tuple[str, str, str]]) -> Scene | None:
    """Place objects (shape, colour, size) at random without overlap. Return None if they do not fit."""
    things: list[Thing] = []
    for shape, colour, size in words:
        for _ in range(40):
            radius = rng.uniform(*_RADIUS[size])
            x, y = rng.uniform(radius, 1 - radius), rng.uniform(radius, 1 - radius)
            thing = jitter(rng, Thing(shape, colour, size, x, y, radius))
            if not any(overlap(thing, other) for other in things):
                things.append(thing)
                break
        else:
            return None
    return Scene(tuple(things), ground=rng.uniform(0.86, 0.97))


def jitter(rng: random.Random, thing: Thing) -> Thing:
    """Return the object with a new angle and a new tint."""
    tint = (rng.uniform(-0.07, 0.07), rng.uniform(-0.07, 0.07), rng.uniform(-0.07, 0.07))
    return replace(thing, angle=rng.uniform(-10, 10), tint=tint)


def overlap(a: Thing, b: Thing) -> bool:
    """Return whether the boxes of two objects overlap, or are separated by less than a small gap."""
    return abs(a.x - b.x) < a.radius + b.radius + _GAP and abs(a.y - b.y) < a.radius + b.radius + _GAP


def swap_places(rng: random.Random, scene: Scene, a: int, b: int) -> Scene | None:
    """Swap the places of two objects and draw new jitter. Return None if the larger object does not fit."""
    things = [jitter(rng, thing) for thing in scene.things]
    first, second = things[a], things[b]
    things[a] = _moved(first, second.x, second.y)
    things[b] = _moved(second, first.x, first.y)
    if any(overlap(p, q) for i, p in enumerate(things) for q in things[i + 1 :]):
        return None
    return Scene(tuple(things), ground=rng.uniform(0.86, 0.97))


def _moved(thing: Thing, x: float, y: float) -> Thing:
    edge = thing.radius
    return replace(thing, x=min(max(x, edge), 1 - edge), y=min(max(y, edge), 1 - edge))


def swap_colours(rng: random.Random, scene: Scene, a: int, b: int) -> Scene:
    """Swap the colours of two objects and draw new jitter."""
    things = [jitter(rng, thing) for thing in scene.things]
    first, second = things[a], things[b]
    things[a] = replace(first, colour=second.colour)
    things[b] = replace(second, colour=first.colour)
    return Scene(tuple(things), ground=rng.uniform(0.86, 0.97))


def swap_sizes(rng: random.Random, scene: Scene, a: int, b: int) -> Scene | None:
    """Swap the sizes of two objects and draw new jitter. Return None if the larger object does not fit."""
    things = [jitter(rng, thing) for thing in scene.things]
    first, second = things[a], things[b]
    things[a] = _moved(replace(first, size=second.size, radius=second.radius), first.x, first.y)
    things[b] = _moved(replace(second, size=first.size, radius=first.radius), second.x, second.y)
    if any(overlap(p, q) for i, p in enumerate(things) for q in things[i + 1 :]):
        return None
    return Scene(tuple(things), ground=rng.uniform(0.86, 0.97))
