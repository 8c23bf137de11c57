"""Judge rationales about scenes of the embedded world exactly, by the scene's complete graph."""

from __future__ import annotations

from collections.abc import Sequence

from scramble.evaluation.faithfulness.verdicts import SUPPORTED, UNREADABLE, UNSUPPORTED, Judged, scored, true_share
from scramble.grading import rationales
from scramble.records import Question
from scramble.scenegraphs.world import Graph, derive, read_step, says
from scramble.world.grammar import Clause, CountClause, Exists, Noun, Relation
from scramble.world.judge import clause_holds, matching_objects


def judge_world(text: str, graph: Graph, question: Question) -> Judged:
    """Judge a rationale about a scene of the embedded world by the scene's complete graph."""
    rationale = rationales.read(text)
    read = [read_step(step) for step in rationale.steps]
    verdicts = [
        UNREADABLE if clauses is None else SUPPORTED if all(clause_holds(graph, c) for c in clauses) else UNSUPPORTED
        for clauses in read
    ]
    clauses = [clause for parsed in read for clause in parsed or ()]
    truth = derive(graph, question.question)
    needed = truth.clauses if truth else ()
    parts = [_parts(graph, clause) for clause in clauses]
    sorts = {
        sort: true_share([value for part in parts for value in part[sort]], empty=1.0 if clauses else 0.0)
        for sort in ("entities", "attributes", "relations")
    }
    return scored(rationale, verdicts, sorts, _needed(graph, clauses, needed), question)


def _needed(graph: Graph, stated: Sequence[Clause], needed: Sequence[Clause]) -> float:
    """Return the share of the needed clauses that the true clauses state, with or without further details."""
    true = [clause for clause in stated if clause_holds(graph, clause)]
    return true_share([any(says(clause, needed_clause) for clause in true) for needed_clause in needed], empty=1.0)


def _parts(graph: Graph, clause: Clause) -> dict[str, list[bool]]:
    """Return for each object, attribute and relation in a clause whether the graph contains it."""
    if isinstance(clause, CountClause):
        nouns = [clause.noun] if clause.number else []
    else:
        nouns = [*clause.nouns] if isinstance(clause, Exists) else [clause.subject, *(n for _, n in clause.links)]
    there = [bool(matching_objects(graph, Noun(shape=noun.shape))) for noun in nouns if noun.shape]
    attributes = [
        bool(matching_objects(graph, Noun(shape=noun.shape, **{kind: getattr(noun, kind)})))
        for noun in nouns
        for kind in ("colour", "size")
        if getattr(noun, kind)
    ]
    related = []
    if isinstance(clause, Relation):
        related = [clause_holds(graph, Relation(clause.subject, (link,))) for link in clause.links]
    return {"entities": there, "attributes": attributes, "relations": related}
