"""Answer the embedded world's questions from a scene graph: derive the reasoning steps and the answer.

For the graph of an image, the results equal the rationales and answers of the world's questions. For an edited graph,
the results describe a scene that does not exist.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from scramble.records import YES_NO_PROMPT
from scramble.world.grammar import (
    Clause,
    CountClause,
    Exists,
    GrammarError,
    Noun,
    Relation,
    parse_clauses,
    read_noun,
    say,
)
from scramble.world.judge import clause_holds, matching_objects
from scramble.world.scenes import COLOURS, OPPOSITE, SHAPES, SIZES

Graph = dict[str, Any]
WORDS = {"shape": SHAPES, "colour": COLOURS, "size": SIZES}
_NOUN = rf"((?:(?:{'|'.join(SIZES)}) )?(?:(?:{'|'.join(COLOURS)}) )?(?:{'|'.join((*SHAPES, 'object'))}))"
_RELATION = f"({'|'.join(OPPOSITE)})"
_PLURAL = rf"((?:(?:{'|'.join(COLOURS)}) )?(?:{'|'.join(Noun(shape).plural for shape in (*SHAPES, ''))}))"


@dataclass(frozen=True, slots=True)
class Derived:
    """Holds the answer to a question and the clauses that lead to it. The clauses are true of the graph."""

    clauses: tuple[Clause, ...]
    answer: str

    @property
    def steps(self) -> tuple[str, ...]:
        """The clauses as text, in the first wording of the grammar."""
        return tuple(say(clause) for clause in self.clauses)


@lru_cache(maxsize=65536)
def read_step(text: str) -> tuple[Clause, ...] | None:
    """Parse a step into its clauses. Return None for a text outside the grammar."""
    try:
        return parse_clauses(text.strip().removesuffix("."))
    except GrammarError:
        return None


def value_of(entry: dict[str, Any], kind: str) -> str:
    """Return an object's shape, colour or size, as given by ``kind``, or "" if the object has none."""
    if kind == "shape":
        return str(entry["name"])
    return next((word for word in entry["attributes"] if word in WORDS[kind]), "")


def noun_of(entry: dict[str, Any]) -> Noun:
    """Return the noun that describes an object by its colour and shape."""
    return Noun(value_of(entry, "shape"), value_of(entry, "colour"))


def asked_kind(question: str) -> str:
    """Return the kind of attribute that a question asks for, or "" if it does not ask for an attribute."""
    match = re.match(r"What (shape|colour|size) is", question)
    return match[1] if match else ""


def says(clause: Clause, other_clause: Clause) -> bool:
    """Return whether ``clause`` implies ``other_clause``, which may have fewer details. Counts must be equal."""
    if isinstance(clause, CountClause) or isinstance(other_clause, CountClause):
        return clause == other_clause
    if isinstance(clause, Exists) and isinstance(other_clause, Exists):
        return all(any(_refines(noun, other) for noun in clause.nouns) for other in other_clause.nouns)
    if isinstance(clause, Relation) and isinstance(other_clause, Relation):
        return _refines(clause.subject, other_clause.subject) and all(
            any(r == relation and _refines(noun, other) for r, noun in clause.links)
            for relation, other in other_clause.links
        )
    return False


def _refines(noun: Noun, other: Noun) -> bool:
    """Return whether ``noun`` has the shape, colour and size of ``other``, as far as ``other`` specifies them."""
    pairs = ((noun.shape, other.shape), (noun.colour, other.colour), (noun.size, other.size))
    return all(b in ("", a) for a, b in pairs)


def derive(graph: Graph, question: str) -> Derived | None:
    """Derive the steps and the answer of one of the world's questions.

    Return None if a presupposition of the question is false (for example "the circle" if there are two circles), or if
    the text is not one of the world's questions.
    """
    for pattern, answer in _FORMS:
        if match := pattern.fullmatch(question.strip()):
            return answer(graph, *match.groups())
    return None


def _only_match(graph: Graph, noun: Noun) -> dict[str, Any] | None:
    """Return the object that matches the noun, or None if no object or several objects match it."""
    ids = matching_objects(graph, noun)
    return next(e for e in graph["objects"] if e["id"] == ids[0]) if len(ids) == 1 else None


def _attribute(graph: Graph, kind: str, words: str) -> Derived | None:
    noun = read_noun(words)
    entry = _only_match(graph, noun)
    value = "" if entry is None else value_of(entry, kind)
    return Derived((CountClause(1, noun), Exists((replace(noun, **{kind: value}),))), value) if value else None


def _two_step(graph: Graph, kind: str, relation: str, words: str) -> Derived | None:
    place = read_noun(words)
    anchor = _only_match(graph, place)
    if anchor is None:
        return None
    facts = {(r["subject"], r["predicate"], r["object"]) for r in graph["relations"]}
    entries = [e for e in graph["objects"] if (e["id"], relation, anchor["id"]) in facts]
    if len(entries) != 1 or not value_of(entries[0], kind):
        return None
    value, link = value_of(entries[0], kind), ((relation, place),)
    return Derived((Exists((place,)), Relation(Noun(), link), Relation(Noun(**{kind: value}), link)), value)


def _where(graph: Graph, words: str) -> Derived | None:
    noun = read_noun(words)
    entry = _only_match(graph, noun)
    place = "" if entry is None else quarter(graph, entry, margin=0.02)
    return Derived((Exists((noun,)),), place) if place else None


def _what_in(graph: Graph, place: str) -> Derived | None:
    entries = [entry for entry in graph["objects"] if quarter(graph, entry) == place]
    if len(entries) != 1:
        return None
    noun = noun_of(entries[0])
    return Derived((Exists((noun,)),), noun.words)


def quarter(graph: Graph, entry: dict[str, Any], *, margin: float = 0.0) -> str:
    """Return the quadrant of the image that contains the centre of an object's box, for example "top left".

    The result is "" if the box or the size of the image is unknown. It is also "" if the distance between the centre
    and a middle line of the image is below ``margin``, a fraction of the image's width or height.
    """
    box, width, height = entry.get("bbox"), graph.get("width"), graph.get("height")
    if not box or not width or not height:
        return ""
    x, y = (box[0] + box[2]) / 2 / width - 0.5, (box[1] + box[3]) / 2 / height - 0.5
    if min(abs(x), abs(y)) < margin:
        return ""
    return f"{'top' if y < 0 else 'bottom'} {'left' if x < 0 else 'right'}"


def _count(graph: Graph, words: str) -> Derived:
    noun = read_noun(words)
    ids = matching_objects(graph, noun)
    things = [Exists((noun_of(entry),)) for entry in graph["objects"] if entry["id"] in ids]
    return Derived((*things, CountClause(len(ids), noun)), str(len(ids)))


def _existence(graph: Graph, words: str) -> Derived:
    noun = read_noun(words)
    is_present = bool(matching_objects(graph, noun))
    return Derived((Exists((noun,)) if is_present else CountClause(0, noun),), "Yes" if is_present else "No")


def _relation(graph: Graph, first: str, one: str, other: str, second: str) -> Derived | None:
    a, b = read_noun(first), read_noun(second)
    if _only_match(graph, a) is None or _only_match(graph, b) is None:
        return None
    true_relations = [r for r in (one, other) if clause_holds(graph, Relation(a, ((r, b),)))]
    if len(true_relations) != 1:
        return None
    return Derived((Exists((a,)), Exists((b,)), Relation(a, ((true_relations[0], b),))), true_relations[0])


def _yes_no(graph: Graph, caption: str) -> Derived | None:
    clauses = read_step(caption)
    if clauses is None or len(clauses) != 1 or not isinstance(clauses[0], Relation) or len(clauses[0].links) != 1:
        return None
    question = clauses[0]
    ((relation, other),) = question.links
    if _only_match(graph, question.subject) is None or _only_match(graph, other) is None:
        return None
    if clause_holds(graph, question):
        return Derived((Exists((question.subject,)), Exists((other,)), question), "Yes")
    fact = Relation(question.subject, ((OPPOSITE[relation], other),))
    if not clause_holds(graph, fact):
        return None
    return Derived((Exists((other,)), Exists((question.subject,)), fact), "No")


_FORMS: tuple[tuple[re.Pattern[str], Callable[..., Derived | None]], ...] = (
    (re.compile(rf"What (shape|colour|size) is the object {_RELATION} the {_NOUN}\?"), _two_step),
    (re.compile(rf"What (shape|colour|size) is the {_NOUN}\?"), _attribute),
    (re.compile(rf"Where is the {_NOUN}\?"), _where),
    (re.compile(r"What is in the ((?:top|bottom) (?:left|right))\?"), _what_in),
    (re.compile(rf"How many {_PLURAL} are there\?"), _count),
    (re.compile(rf"Is there an? {_NOUN}\?"), _existence),
    (re.compile(rf"Is the {_NOUN} {_RELATION} or {_RELATION} the {_NOUN}\?"), _relation),
    (re.compile(re.escape(YES_NO_PROMPT).replace(r"\{caption\}", "(.+)")), _yes_no),
)
