"""Faithfulness of rationales: how much of what a model says on its way to an answer the scene graph supports.

For the embedded world each step is parsed by the world's grammar and judged by its judge, exactly. For real images the
steps are parsed into small graphs (:mod:`scramble.scenegraphs.captions`) and looked for in the image's graph, or a
language model judges them (:class:`scramble.evaluation.judge.Judge`). Source: none of SceneAlign's metrics is public;
these are our own.

Scores, each in [0, 1] per reply: ``faithfulness``, share of steps that the graph supports (a step that cannot be read
is not supported; no step at all gives 0); ``entities``, ``attributes``, ``relations``, share of what the readable steps
say of each sort that is so (1 where nothing of the sort is said, 0 where no step can be read); ``needed``, share of the
steps that the answer needs which are said; ``faithful``, whether all steps are supported and all needed ones said;
``accuracy`` of the answer; ``right_and_faithful``, both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scramble.evaluation.items import EvaluationError, Item
from scramble.grading import final_answers, rationales
from scramble.records import Question
from scramble.scenegraphs.world import Graph, derive, read_step, says
from scramble.world.grammar import Clause, Count, Exists, Noun, Relation
from scramble.world.judge import clause_holds, matches

SUPPORTED, UNSUPPORTED, UNREADABLE = "supported", "unsupported", "unreadable"


@dataclass(frozen=True, slots=True)
class Judged:
    """A judged reply: its scores, each step with its verdict, and the answer it gives ("" for none)."""

    values: dict[str, float]
    steps: list[dict[str, str]]
    answer: str


def judge_reply(item: Item, text: str) -> Judged:
    """Judge a reply to an item of style ``rationale`` by the judge that it names (``world`` or ``parser``)."""
    assert isinstance(item.record, Question)
    if item.details["judge"] == "world":
        return judge_world(text, item.details["graph"], item.record)
    if item.details["judge"] == "parser":
        from scramble.evaluation.faithfulness.english import judge_parsed

        return judge_parsed(text, item.details["graph"], item.record, item.details.get("pipeline"))
    raise EvaluationError(f"item {item.item_id}: no judge of rationales is called {item.details['judge']!r}")


def judge_world(text: str, graph: Graph, question: Question) -> Judged:
    """Judge a rationale about a scene of the embedded world by its complete graph."""
    said = rationales.read(text)
    read = [read_step(step) for step in said.steps]
    verdicts = [
        UNREADABLE if clauses is None else SUPPORTED if all(clause_holds(graph, c) for c in clauses) else UNSUPPORTED
        for clauses in read
    ]
    clauses = [clause for found in read for clause in found or ()]
    truth = derive(graph, question.question)
    needed = truth.clauses if truth else ()
    parts = [_parts(graph, clause) for clause in clauses]
    sorts = {
        sort: _share([value for part in parts for value in part[sort]], empty=1.0 if clauses else 0.0)
        for sort in ("entities", "attributes", "relations")
    }
    return scored(said, verdicts, sorts, _needed(graph, clauses, needed), question)


def _needed(graph: Graph, said: Sequence[Clause], needed: Sequence[Clause]) -> float:
    """Share of the needed clauses that a true clause says, with or without details."""
    true = [clause for clause in said if clause_holds(graph, clause)]
    return _share([any(says(clause, wanted) for clause in true) for wanted in needed], empty=1.0)


def scored(
    said: rationales.Rationale,
    verdicts: Sequence[str],
    sorts: Mapping[str, float],
    needed: float,
    question: Question,
) -> Judged:
    """The scores that follow from the verdicts on a rationale's steps."""
    supported = [verdict == SUPPORTED for verdict in verdicts]
    faithful = float(bool(supported) and all(supported) and needed == 1.0)
    accepted = {_plain(answer) for answer in (question.answer, *question.answers)}
    right = float(any(_plain(form) in accepted for form in final_answers.forms(said.answer)))
    values = {
        "faithfulness": _share(supported, empty=0.0),
        **sorts,
        "needed": needed,
        "faithful": faithful,
        "accuracy": right,
        "right_and_faithful": faithful * right,
    }
    steps = [{"step": step, "verdict": verdict} for step, verdict in zip(said.steps, verdicts, strict=True)]
    return Judged(values, steps, said.answer)


def _parts(graph: Graph, clause: Clause) -> dict[str, list[bool]]:
    """What a clause says of objects, attributes and relations, each true or not."""
    if isinstance(clause, Count):
        nouns = [clause.noun] if clause.number else []
    else:
        nouns = [*clause.nouns] if isinstance(clause, Exists) else [clause.subject, *(n for _, n in clause.links)]
    there = [bool(matches(graph, Noun(shape=noun.shape))) for noun in nouns if noun.shape]
    attributes = [
        bool(matches(graph, Noun(shape=noun.shape, **{kind: getattr(noun, kind)})))
        for noun in nouns
        for kind in ("colour", "size")
        if getattr(noun, kind)
    ]
    links = clause.links if isinstance(clause, Relation) else ()
    related = [clause_holds(graph, Relation(clause.subject, (link,))) for link in links]  # type: ignore[union-attr]
    return {"entities": there, "attributes": attributes, "relations": related}


def _share(values: Sequence[bool], *, empty: float) -> float:
    return sum(values) / len(values) if values else empty


def _plain(answer: str) -> str:
    return " ".join(answer.lower().strip(" .'\"").split())
