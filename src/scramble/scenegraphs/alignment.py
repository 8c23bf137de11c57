"""Find a scene graph's objects in English text, find the objects that support an answer, and write rationales."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from scramble.language.inflect import article, plural
from scramble.scenegraphs.graph import Link, Node, SceneGraph

_WORD = re.compile(r"\w+(?:[-']\w+)*")
_BE = {"is", "are", "was", "were", "looks", "look"}
_OPEN = {"yes", "no"}  # answers that are not properties of an object


@dataclass(frozen=True, slots=True)
class Word:
    """Represents a word of a step by its character offsets and its lower-case form."""

    start: int
    end: int
    lower: str


@dataclass(frozen=True, slots=True)
class Mention:
    """Represents a mention of an object: the noun, whether it is plural, and the attributes that the step states."""

    step: int
    node: str
    noun: Word
    is_plural: bool
    attributes: tuple[Word, ...]
    first: int  # start of the phrase, without article


def words_with_offsets(text: str) -> list[Word]:
    """Return the words of a text with their offsets."""
    return [Word(m.start(), m.end(), m[0].lower()) for m in _WORD.finditer(text)]


def mentions(graph: SceneGraph, steps: Sequence[str]) -> list[Mention]:
    """Return all mentions of objects by name, in the singular or plural, in order.

    At each position, the longest matching name is used. If several objects share a name, objects that have all stated
    attributes are preferred. Among these objects, an object that was mentioned before is preferred.
    """
    forms: dict[tuple[str, ...], list[tuple[Node, bool]]] = {}
    for node in graph.nodes:
        for form, many in ((node.name, False), (plural(node.name), True)):
            forms.setdefault(tuple(w.lower for w in words_with_offsets(form)), []).append((node, many))
    longest = max((len(form) for form in forms), default=0)
    result: list[Mention] = []
    for number, step in enumerate(steps):
        tokens, place = words_with_offsets(step), 0
        while place < len(tokens):
            for size in range(min(longest, len(tokens) - place), 0, -1):
                nodes = forms.get(tuple(t.lower for t in tokens[place : place + size]))
                if nodes:
                    result.append(_mention(number, tokens, place, size, nodes, result))
                    place += size
                    break
            else:
                place += 1
    return result


def _mention(
    step: int,
    tokens: list[Word],
    place: int,
    size: int,
    nodes: list[tuple[Node, bool]],
    before: list[Mention],
) -> Mention:
    attributes = {word for node, _ in nodes for word in node.attributes}
    stated, first = [], place
    while first and tokens[first - 1].lower in attributes:
        first -= 1
        stated.append(tokens[first])
    after = place + size
    if after + 1 < len(tokens) and tokens[after].lower in _BE and tokens[after + 1].lower in attributes:
        stated.append(tokens[after + 1])
    stated_words = {word.lower for word in stated}
    fitting = [pair for pair in nodes if stated_words <= set(pair[0].attributes)] or nodes
    mentioned = {m.node for m in before}
    node, many = max(fitting, key=lambda pair: pair[0].id in mentioned)  # the first one if there are several
    noun = Word(tokens[place].start, tokens[after - 1].end, " ".join(t.lower for t in tokens[place:after]))
    return Mention(step, node.id, noun, many, tuple(stated), tokens[first].start)


# ------------------------------------------------------------------------------------------------------------- answers


def answer_support(graph: SceneGraph, anchors: Sequence[str], answer: str) -> str | None:
    """Return the answer in lower case if the graph supports it, otherwise None.

    ``anchors`` are the ids of the objects that the question names. The graph must contain all of them. The answers
    "yes" and "no" and whole numbers are supported if there is an anchor. Any other answer must be the name, an
    attribute or a relation of an object that can be reached from the anchors, or of any object if there is no anchor.
    """
    normalised = " ".join(answer.lower().split())
    if any(anchor not in graph.by_id for anchor in anchors):
        return None
    if normalised in _OPEN or normalised.isdigit():
        return normalised if anchors else None
    return normalised if bearers(graph, anchors, normalised) else None


def bearers(graph: SceneGraph, anchors: Sequence[str], answer: str) -> list[str]:
    """Return the ids of the objects whose name, attribute or relation is the answer, nearest to the anchors first.

    Objects that cannot be reached from the anchors are excluded. Without anchors, all objects are considered.
    """
    related = {end for k in graph.links if k.predicate == answer for end in (k.subject, k.object)}
    ids = [n.id for n in graph.nodes if answer in (n.name, *n.attributes) or n.id in related]
    if not anchors:
        return ids
    away = graph.distances(anchors)
    return sorted((node for node in ids if node in away), key=away.__getitem__)


def variants(graph: SceneGraph, node: str) -> Iterator[SceneGraph]:
    """For each attribute of an object, yield the graph without this attribute.

    If the object has links, a graph without these links is yielded as well.
    """
    entry = graph.by_id[node]
    for word in entry.attributes:
        yield graph.with_node(replace(entry, attributes=tuple(w for w in entry.attributes if w != word)))
    if graph.neighbours[node]:
        yield replace(graph, links=tuple(k for k in graph.links if node not in (k.subject, k.object)))


# -------------------------------------------------------------------------------------------------- rationales by rule


def write_rationale(graph: SceneGraph, nodes: Sequence[str], answer: str) -> tuple[str, ...]:
    """Return the steps of a rationale for a question that has none: sentences about objects and their relations."""
    entries = [graph.by_id[node] for node in nodes]
    steps = [f"There is {article(n.label)} {n.label}." for n in (_short(n, answer) for n in entries)]
    related: set[frozenset[str]] = set()
    for link in graph.part(nodes).links:
        ends = frozenset((link.subject, link.object))
        if ends not in related:
            related.add(ends)
            steps.append(_sentence(graph, link))
    steps += [f"The {n.name} is {answer}." for n in entries if answer in n.attributes][:1]
    return tuple(steps)


def _short(node: Node, answer: str) -> Node:
    """Return an object with at most two attributes, excluding the answer, which the conclusion states."""
    return replace(node, attributes=tuple(word for word in node.attributes if word != answer)[:2])


def _sentence(graph: SceneGraph, link: Link) -> str:
    first = link.predicate.split()[0]
    verb = "" if first.endswith("s") and first not in ("across", "as", "towards") else "is "
    return f"The {graph.by_id[link.subject].name} {verb}{link.predicate} the {graph.by_id[link.object].name}."
