"""Decides from the complete scene graph whether a caption is true of a scene."""

from __future__ import annotations

from itertools import permutations
from typing import Any

from scramble.world.grammar import Clause, CountClause, Exists, Noun, parse_clauses
from scramble.world.graphs import scene_graph
from scramble.world.scenes import Scene


def holds(scene: Scene | dict[str, Any], caption: str) -> bool:
    """Return whether every clause of a caption is true.

    "a red circle left of a blue square" is true if some red circle is left of some blue square. The nouns of one clause
    refer to different objects. "two circles" is true if the scene has exactly two circles.

    Args:
        scene: a scene, or its complete scene graph.
        caption: any caption of the grammar.
    Raises:
        GrammarError: the text is outside the grammar.
    """
    graph = scene_graph(scene, 1) if isinstance(scene, Scene) else scene
    return all(clause_holds(graph, clause) for clause in parse_clauses(caption))


def clause_holds(graph: dict[str, Any], clause: Clause) -> bool:
    """Return whether one clause is true of a complete scene graph."""
    if isinstance(clause, CountClause):
        return len(matching_objects(graph, clause.noun)) == clause.number
    nouns = clause.nouns if isinstance(clause, Exists) else (clause.subject, *(noun for _, noun in clause.links))
    required = [] if isinstance(clause, Exists) else [relation for relation, _ in clause.links]
    facts = {(r["subject"], r["predicate"], r["object"]) for r in graph["relations"]}
    candidates = [set(matching_objects(graph, noun)) for noun in nouns]
    return any(
        all(thing in options for thing, options in zip(chosen, candidates, strict=True))
        and all((chosen[0], relation, other) in facts for relation, other in zip(required, chosen[1:], strict=False))
        for chosen in permutations([entry["id"] for entry in graph["objects"]], len(nouns))
    )


def matching_objects(graph: dict[str, Any], noun: Noun) -> list[str]:
    """Return the ids of the objects that match the noun."""
    return [
        entry["id"]
        for entry in graph["objects"]
        if noun.shape in ("", entry["name"]) and {noun.colour, noun.size} - {""} <= set(entry["attributes"])
    ]
