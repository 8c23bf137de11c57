"""Apply the four interventions in the embedded world: change the graph, derive the new rationale, and check it.

A rationale that is derived from an edited graph would be correct for the edited scene, so only the image shows that the
rationale is wrong.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product

from scramble.pairs.rationales.cases import (
    NotPossible,
    Perturbed,
    PreparedCase,
    RationaleCase,
    Settings,
    draw_omitted,
    weighted_order,
)
from scramble.pairs.rationales.critical import critical_nodes
from scramble.pairs.rationales.graph_edits import Cooccurrence, GraphChange, apply
from scramble.scenegraphs import Node, SceneGraph
from scramble.scenegraphs.world import WORDS, Derived, Graph, asked_kind, derive, noun_of, says, value_of
from scramble.world.grammar import Clause, CountClause, Exists, Noun, Relation, say
from scramble.world.judge import clause_holds, matching_objects

TRIES = 40  # number of changes that are tried before a kind counts as impossible


def label(node: Node) -> str:
    """Return the label that :class:`Cooccurrence` counts for an object: its colour and shape."""
    return f"{_value(node, 'colour')} {node.name}"


def _value(node: Node, kind: str) -> str:
    return node.name if kind == "shape" else next((w for w in node.attributes if w in WORDS[kind]), "")


class WorldInterventions:
    """Perturbs the rationales of the world's questions.

    Args:
        seen: co-occurrence counts of objects (:func:`label`).
    """

    def __init__(self, settings: Settings, seen: Cooccurrence) -> None:
        self.settings = settings
        self._seen = seen
        self._kinds: dict[str, Callable[[_DerivedCase, random.Random, int], Perturbed]] = {
            "swap": lambda case, rng, edits: self._rederive("swap", case, rng, edits, self._swaps),
            "replace": lambda case, rng, edits: self._rederive("replace", case, rng, edits, self._replacements),
            "shorten": self._shorten,
            "overthink": self._overthink,
        }

    def prepare(self, case: RationaleCase) -> _DerivedCase:
        """Derive the rationale of a case from its graph. Raises NotPossible if the case cannot be perturbed."""
        if not case.question.rationale:
            raise NotPossible("question without a rationale")
        graph, question = case.graph.to_json(), case.question.question
        derived = derive(graph, question)
        if derived is None:
            raise NotPossible("question without an answer in the graph")
        if derived.steps != case.question.rationale or derived.answer != case.question.answer:
            raise NotPossible("the rationale or the answer does not follow from the graph")
        named = mentioned(graph, question, derived)
        if not named:
            raise NotPossible("the rationale mentions nothing in the graph")

        def answer(edited: SceneGraph) -> str | None:
            result = derive(edited.to_json(), question)
            return result.answer if result else None

        critical = critical_nodes(case.graph, named, answer, _variants)
        if not critical:
            raise NotPossible("no critical object")
        return _DerivedCase(case, derived.steps, derived.answer, critical, derived, graph)

    def perturb(self, case: _DerivedCase, kind: str, rng: random.Random) -> Perturbed:
        """Return one perturbation of a kind. Raises NotPossible if the question does not allow it."""
        return self._kinds[kind](case, rng, self.settings.draw_edits(rng))

    # ------------------------------------------------------------------------------------------ changes of the graph

    def _rederive(
        self,
        kind: str,
        case: _DerivedCase,
        rng: random.Random,
        edits: int,
        options: Callable[[SceneGraph, Sequence[str], random.Random], Iterator[GraphChange]],
    ) -> Perturbed:
        """Apply ``edits`` changes to the graph in sequence, each of which must change the rationale."""
        graph, current, changed_nodes = case.graph, case.derived, set[str]()
        changes: list[GraphChange] = []
        for _ in range(edits):
            for change in islice(options(graph, case.critical, rng), TRIES):
                if changed_nodes & set(change["nodes"]):
                    continue
                edited = apply(graph, [change])
                derived = derive(edited.to_json(), case.question)
                if derived is None or derived.steps == current.steps or not self._is_valid(case, derived):
                    continue
                graph, current = edited, derived
                changes.append(change)
                changed_nodes |= set(change["nodes"])
                break
            else:
                raise NotPossible(f"no {kind} that the question allows")
        steps = current.steps
        false = tuple(i for i, step in enumerate(steps) if step not in case.steps)
        answer = current.answer if self.settings.answer == "follow" else case.answer
        return Perturbed(
            kind=kind,
            chosen=case.steps,
            rejected=steps,
            chosen_answer=case.answer,
            rejected_answer=answer,
            changes=tuple(changes),
            false_steps=false,
            missing=tuple(s for s in case.steps if s not in steps),
            padding=(),
            distance=len(steps) - 1 - max(false),
            critical=case.critical,
            rule=case.rule,
        )

    def _is_valid(self, case: _DerivedCase, derived: Derived) -> bool:
        """Return whether there are new steps, all of them are false of the image, and the last one is near enough to
        the conclusion.
        """
        new = [i for i, step in enumerate(derived.steps) if step not in case.steps]
        if not new or not self.settings.near_enough(len(derived.steps) - 1 - new[-1]):
            return False
        return not any(clause_holds(case.json, derived.clauses[i]) for i in new)

    def _swaps(self, graph: SceneGraph, critical: Sequence[str], rng: random.Random) -> Iterator[GraphChange]:
        changes: list[GraphChange] = []
        for a, b in product(critical, [node.id for node in graph.nodes]):
            first, second = graph.by_id[a], graph.by_id[b]
            if a == b or (b in critical and critical.index(b) < critical.index(a)):
                continue
            changes.append({"op": "swap", "what": "links", "nodes": [a, b]})
            if first.name != second.name:
                changes.append({"op": "swap", "what": "name", "nodes": [a, b]})
            for kind in ("colour", "size"):
                words = [_value(first, kind), _value(second, kind)]
                if words[0] != words[1]:
                    changes.append({"op": "swap", "what": "attribute", "nodes": [a, b], "words": words})
        rng.shuffle(changes)
        # Exclude labels that never occur in the data, because they would make the rejected side recognisable.
        return (c for c in changes if all(self._seen.counts[label(n)] for n in apply(graph, [c]).nodes))

    def _replacements(self, graph: SceneGraph, critical: Sequence[str], rng: random.Random) -> Iterator[GraphChange]:
        labels = {node.id: label(node) for node in graph.nodes}
        weighted: list[tuple[float, GraphChange]] = []
        for name in critical:
            node = graph.by_id[name]
            others = [text for other, text in labels.items() if other != name]
            for shape, colour, size in product(WORDS["shape"], WORDS["colour"], WORDS["size"]):
                text = f"{colour} {shape}"
                same = text == labels[name] and size != _value(node, "size")
                weight = self._seen.weight(text, others)
                if (same or text not in labels.values()) and weight:
                    change: GraphChange = {
                        "op": "replace",
                        "nodes": [name],
                        "name": shape,
                        "attributes": [colour, size],
                    }
                    weighted.append((weight, change))
        return iter(weighted_order(weighted, rng))

    # ---------------------------------------------------------------------------------------- changes of the words only

    def _shorten(self, case: _DerivedCase, rng: random.Random, edits: int) -> Perturbed:
        last, clauses = len(case.steps) - 1, case.derived.clauses
        # Omitting a step that another step repeats with more detail would not be a defect.
        places = [
            i
            for i in range(last)
            if self.settings.near_enough(last - i)
            and not any(says(clause, clauses[i]) for n, clause in enumerate(clauses) if n != i)
        ]
        omitted, padding = draw_omitted(places, edits, rng), dict[int, str]()
        if self.settings.balance == "pad":
            for place in omitted:
                removed = clauses[place]
                options = [
                    c
                    for c in _fillers(case, removed)
                    if say(c) not in (*case.steps, *padding.values()) and not any(says(c, needed) for needed in clauses)
                ]
                if not options:
                    raise NotPossible("no unneeded true step to pad with")
                size = len(case.steps[place].split())
                nearest = min(abs(len(say(c).split()) - size) for c in options)
                options = [c for c in options if abs(len(say(c).split()) - size) == nearest]
                alike = [c for c in options if type(c) is type(removed)]
                padding[place] = say(rng.choice(alike or options))
        return case.shortened(omitted, padding)

    def _overthink(self, case: _DerivedCase, rng: random.Random, edits: int) -> Perturbed:
        clauses, last = case.derived.clauses, len(case.steps) - 1
        chosen, rejected, changes = list(clauses), list(clauses), list[GraphChange]()
        places, nodes = set[int](), set[str]()
        slots = [s for s in _slots(case) if self.settings.near_enough(last - s[0])]
        rng.shuffle(slots)
        for place, clause, position, kind in slots:
            if place in places:
                continue
            detail = _detail(case.json, clause, position, kind, rng)
            if detail is None:
                continue
            true, false, node, words = detail
            if node in nodes:
                continue
            rejected[place] = false
            if self.settings.balance == "pad":
                chosen[place] = true
            changes.append({"op": "detail", "nodes": [node], "word": words[1], "instead": words[0]})
            places.add(place)
            nodes.add(node)
            if len(places) == edits:
                break
        else:
            raise NotPossible("no place for an unsupported detail")
        return case.altered("overthink", tuple(map(say, chosen)), tuple(map(say, rejected)), changes)


@dataclass
class _DerivedCase(PreparedCase):
    """A case with the clauses of its rationale, and its graph as JSON."""

    rule = "scenealign.template"

    derived: Derived
    json: Graph

    @property
    def question(self) -> str:
        return self.case.question.question


def mentioned(graph: Graph, question: str, derived: Derived) -> list[str]:
    """Return the ids of the objects that the steps name, in order.

    These ids are followed by the ids of all other objects whose name or attribute occurs in the question.
    """
    ids: dict[str, None] = {}
    for clause in derived.clauses:
        ids |= dict.fromkeys(bound(graph, clause))
    words = set(question.replace("?", " ").replace("'", " ").split())
    for entry in graph["objects"]:
        if words & {entry["name"], *entry["attributes"]}:
            ids[entry["id"]] = None
    return list(ids)


def bound(graph: Graph, clause: Clause) -> list[str]:
    """Return the ids of the objects that a clause refers to."""
    if isinstance(clause, CountClause):
        return matching_objects(graph, clause.noun)
    if isinstance(clause, Exists):
        return [node for noun in clause.nouns for node in matching_objects(graph, noun)]
    facts = {(r["subject"], r["predicate"], r["object"]) for r in graph["relations"]}
    others = [(relation, node) for relation, noun in clause.links for node in matching_objects(graph, noun)]
    subjects = [s for s in matching_objects(graph, clause.subject) if any((s, r, o) in facts for r, o in others)]
    return [*subjects, *(node for _, node in others)]


def _variants(graph: SceneGraph, name: str) -> Iterator[SceneGraph]:
    """Yield the graphs in which one word of an object is changed."""
    node = graph.by_id[name]
    for shape in WORDS["shape"]:
        if shape != node.name:
            yield graph.with_node(replace(node, name=shape))
    for kind in ("colour", "size"):
        current = _value(node, kind)
        for word in WORDS[kind]:
            if word != current:
                attributes = tuple(word if w == current else w for w in node.attributes)
                yield graph.with_node(replace(node, attributes=attributes))


def _fillers(case: _DerivedCase, removed: Clause) -> list[Clause]:
    """Return true statements about the scene that can replace the removed step.

    The statements are about the existence of objects that the removed step does not name, or about counts. If the
    removed step is a relation, statements about relations of at least one of these objects are also returned.
    """
    graph = case.json
    excluded = set(bound(graph, removed))
    free = [entry for entry in graph["objects"] if entry["id"] not in excluded]
    options: list[Clause] = [Exists((noun_of(entry),)) for entry in free]
    nouns = {Noun(shape=e["name"]) for e in free} | {Noun(colour=value_of(e, "colour")) for e in free}
    nouns |= {Noun(size=value_of(e, "size")) for e in graph["objects"]} | {Noun()}
    options += [
        CountClause(len(matching_objects(graph, noun)), noun) for noun in sorted(nouns, key=lambda noun: noun.words)
    ]
    facts = [(r["subject"], r["predicate"], r["object"]) for r in graph["relations"]]
    entries = {entry["id"]: entry for entry in graph["objects"]}
    if isinstance(removed, Relation):
        steps = set(case.steps)
        options += [
            clause
            for s, relation, o in facts
            if o not in excluded or s not in excluded
            for clause in [Relation(noun_of(entries[s]), ((relation, noun_of(entries[o])),))]
            if say(clause) not in steps
        ]
    return options


def _slots(case: _DerivedCase) -> list[tuple[int, Exists | Relation, int, str]]:
    """Return the places where a detail can be added.

    A place is a tuple (index of the step, clause of the step, index of the noun in the clause, ``size`` or ``colour``).
    The attribute that the question asks about is excluded.
    """
    slots = []
    for place, clause in enumerate(case.derived.clauses):
        if isinstance(clause, CountClause):
            continue  # a detail would change the objects that are counted
        for position, noun in enumerate(_nouns(clause)):
            open_kinds = [k for k in ("size", "colour") if not getattr(noun, k) and k != asked_kind(case.question)]
            slots += [(place, clause, position, kind) for kind in open_kinds]
    return slots


def _nouns(clause: Exists | Relation) -> list[Noun]:
    if isinstance(clause, Exists):
        return list(clause.nouns)
    return [clause.subject, *(noun for _, noun in clause.links)]


def _with_noun(clause: Exists | Relation, position: int, noun: Noun) -> Exists | Relation:
    if isinstance(clause, Exists):
        return Exists(tuple(noun if i == position else n for i, n in enumerate(clause.nouns)))
    if position == 0:
        return replace(clause, subject=noun)
    return replace(clause, links=tuple((r, noun if i == position - 1 else n) for i, (r, n) in enumerate(clause.links)))


def _detail(
    graph: Graph, clause: Exists | Relation, position: int, kind: str, rng: random.Random
) -> tuple[Clause, Clause, str, tuple[str, str]] | None:
    """Return a true and a false version of a clause, the id of the object, and the words in which the versions differ.

    The versions differ in one attribute (``kind``) of one noun. Return None if there is not exactly one true word,
    or if there is no false word.
    """
    noun = _nouns(clause)[position]
    options = [(word, _with_noun(clause, position, replace(noun, **{kind: word}))) for word in WORDS[kind]]
    true = [(word, option) for word, option in options if clause_holds(graph, option)]
    false = [(word, option) for word, option in options if not clause_holds(graph, option)]
    if len(true) != 1 or not false:
        return None
    (right, right_clause), (wrong, wrong_clause) = true[0], rng.choice(false)
    node = next(n for n in bound(graph, right_clause) if n in matching_objects(graph, replace(noun, **{kind: right})))
    return right_clause, wrong_clause, node, (right, wrong)
