"""Generates questions about a scene, with answers and short, true reasoning steps.

Every step is a caption of the grammar.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from scramble.records import YES_NO_PROMPT
from scramble.world.captions import draw_clauses, name
from scramble.world.grammar import CountClause, Exists, Noun, Relation, Wording, render, say
from scramble.world.judge import holds
from scramble.world.scenes import COLOURS, OPPOSITE, SHAPES, Scene, quarter, spatial_relations

QUESTION_KINDS = ("colour", "shape", "size", "place", "count", "existence", "relation", "yes-no")


@dataclass(frozen=True, slots=True)
class SceneQuestion:
    """A question with its answer and the steps that lead to the answer."""

    kind: str
    question: str
    answer: str
    rationale: tuple[str, ...]


def ask(scene: Scene, rng: random.Random, kind: str, *, wording: Wording = "train") -> SceneQuestion | None:
    """Draw a question of a kind. Return None if the scene does not allow this kind of question.

    For example, a question about a relation requires two objects.
    """
    return _ASK[kind](scene, rng, wording)


def _unique(scene: Scene, word: str) -> list[int]:
    """Return the indices of the objects whose attribute ``word`` (shape, colour or size) is unique in the scene."""
    values = [getattr(thing, word) for thing in scene.things]
    return [index for index, value in enumerate(values) if values.count(value) == 1]


def _attribute(scene: Scene, rng: random.Random, kind: str) -> SceneQuestion | None:
    """Ask about an attribute: "What colour is the circle?" or, in two steps, "What colour is the object left of the
    circle?"."""
    hops = _two_step(scene, rng, kind)
    if hops is not None and rng.random() < 0.5:
        return hops
    key = "colour" if kind == "shape" else "shape"
    options = _unique(scene, key)
    if not options:
        return hops
    thing = scene.things[rng.choice(options)]
    noun = Noun(**{key: getattr(thing, key)})
    full = Noun(**{key: getattr(thing, key), kind: getattr(thing, kind)})
    question = f"What {kind} is the {noun.words}?"
    return SceneQuestion(kind, question, getattr(thing, kind), (say(CountClause(1, noun)), say(Exists((full,)))))


def _two_step(scene: Scene, rng: random.Random, kind: str) -> SceneQuestion | None:
    cases = []
    for j, anchor in enumerate(scene.things):
        for relation in OPPOSITE:
            candidates = [i for i, t in enumerate(scene.things) if i != j and relation in spatial_relations(t, anchor)]
            if len(candidates) == 1:
                cases.append((candidates[0], relation, anchor))
    if not cases:
        return None
    index, relation, anchor = rng.choice(cases)
    thing, place = scene.things[index], name(anchor)
    noun = Noun(**{kind: getattr(thing, kind)})
    steps = (say(Exists((place,))), say(Relation(Noun(), ((relation, place),))))
    question = f"What {kind} is the object {relation} the {place.words}?"
    return SceneQuestion(kind, question, getattr(thing, kind), (*steps, say(Relation(noun, ((relation, place),)))))


def _place(scene: Scene, rng: random.Random, _: Wording) -> SceneQuestion | None:
    """Ask "Where is the red circle?" (in a quadrant of the image) or "What is in the top left?" (an object)."""
    quarters = [quarter(thing) for thing in scene.things]
    clear = [i for i, place in enumerate(quarters) if place]
    if not clear:
        return None
    index = rng.choice(clear)
    thing, place = scene.things[index], quarters[index]
    steps = (say(Exists((name(thing),))),)
    alone = all(i == index or (other and other != place) for i, other in enumerate(quarters))
    if alone and rng.random() < 0.5:
        return SceneQuestion("place", f"What is in the {place}?", name(thing).words, steps)
    return SceneQuestion("place", f"Where is the {name(thing).words}?", place, steps)


def _count(scene: Scene, rng: random.Random, _: Wording) -> SceneQuestion:
    pick = rng.randrange(3)
    noun = [Noun(), Noun(shape=rng.choice(SHAPES)), Noun(colour=rng.choice(COLOURS))][pick]
    if pick and rng.random() < 0.7:
        thing = rng.choice(scene.things)
        noun = Noun(shape=thing.shape) if pick == 1 else Noun(colour=thing.colour)
    counted = [t for t in scene.things if noun.shape in ("", t.shape) and noun.colour in ("", t.colour)]
    steps = [say(Exists((name(thing),))) for thing in counted]
    answer = str(len(counted))
    return SceneQuestion(
        "count", f"How many {noun.plural} are there?", answer, (*steps, say(CountClause(len(counted), noun)))
    )


def _existence(scene: Scene, rng: random.Random, _: Wording) -> SceneQuestion:
    thing = rng.choice(scene.things)
    if rng.random() < 0.5:
        noun = name(thing)
    else:  # an absent object that shares its colour or its shape with a present object
        combinations = {t.combination for t in scene.things}
        near = [(thing.colour, s) for s in SHAPES] + [(c, thing.shape) for c in COLOURS]
        colour, shape = rng.choice([pair for pair in near if pair not in combinations])
        noun = Noun(shape=shape, colour=colour)
    number = sum(noun.colour == t.colour and noun.shape == t.shape for t in scene.things)
    step = say(Exists((noun,))) if number else say(CountClause(0, noun))
    return SceneQuestion("existence", f"Is there {noun}?", "Yes" if number else "No", (step,))


def _relation(scene: Scene, rng: random.Random, _: Wording) -> SceneQuestion | None:
    """Ask "Is the red circle left of or right of the blue square?", with the options in random order."""
    if len(scene.things) < 2:
        return None
    a, b = rng.sample(scene.things, 2)
    relation = rng.choice(spatial_relations(a, b))
    options = rng.sample((relation, OPPOSITE[relation]), 2)
    question = f"Is the {name(a).words} {options[0]} or {options[1]} the {name(b).words}?"
    steps = (Exists((name(a),)), Exists((name(b),)), Relation(name(a), ((relation, name(b)),)))
    return SceneQuestion("relation", question, relation, tuple(say(step) for step in steps))


def _yes_no(scene: Scene, rng: random.Random, wording: Wording) -> SceneQuestion | None:
    """Ask a yes/no question about a relation caption. With probability 0.5, the caption's two objects are swapped."""
    (clause,) = draw_clauses(scene, rng, "relation") or (None,)
    if not isinstance(clause, Relation):
        return None
    (relation, other) = clause.links[0]
    question = clause if rng.random() < 0.5 else Relation(other, ((relation, clause.subject),))
    caption = render((question,), rng, wording)
    seen = holds(scene, caption)
    fact = clause if seen else Relation(other, ((OPPOSITE[relation], clause.subject),))
    steps = (say(Exists((clause.subject,))), say(Exists((other,))), say(fact))
    return SceneQuestion("yes-no", YES_NO_PROMPT.format(caption=caption), "Yes" if seen else "No", steps)


_ASK = {
    "colour": lambda scene, rng, wording: _attribute(scene, rng, "colour"),
    "shape": lambda scene, rng, wording: _attribute(scene, rng, "shape"),
    "size": lambda scene, rng, wording: _attribute(scene, rng, "size"),
    "place": _place,
    "count": _count,
    "existence": _existence,
    "relation": _relation,
    "yes-no": _yes_no,
}
