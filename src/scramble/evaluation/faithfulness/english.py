"""Judge English rationales with a parser: each step is parsed into a small graph, which is matched with the image's
graph.

A gold graph describes only a part of an image, and statements about the rest of the image count as unsupported.
Therefore compare the scores only between models on the same images. The synonyms come from the included lexicon.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from scramble.evaluation.faithfulness.verdicts import SUPPORTED, UNREADABLE, UNSUPPORTED, Judged, scored, true_share
from scramble.grading import rationales
from scramble.language.lexicon import load_lexicon
from scramble.records import Question
from scramble.scenegraphs import SceneGraph, read_graph
from scramble.scenegraphs.alignment import bearers, mentions
from scramble.scenegraphs.captions import Parsed, load_caption_parser, parse_captions

_IDLE = frozenset(["the", "a", "an", "to", "of", "be", "is", "are"])
_ENDINGS = re.compile(r"(?:ing|ed|es|s|e)$")


def judge_parsed(text: str, graph: Mapping[str, Any], question: Question, pipeline: str | None = None) -> Judged:
    """Judge an English rationale by the image's graph. ``needed`` is the share of needed objects that the rationale
    names.

    Raises GraphError if the graph is unusable and PipelineError if the spaCy pipeline is not installed.
    """
    gold = read_graph(graph, Counter())  # defects are counted when pairs are generated
    rationale = rationales.read(text)
    parsed = list(parse_captions(rationale.steps, load_caption_parser(pipeline)))
    sorts: dict[str, list[bool]] = {"entities": [], "attributes": [], "relations": []}
    verdicts = []
    for step in parsed:
        facts = _facts(gold, step)
        for sort, values in facts.items():
            sorts[sort] += values
        stated = [value for values in facts.values() for value in values]
        verdicts.append(UNREADABLE if not stated else SUPPORTED if all(stated) else UNSUPPORTED)
    empty = 1.0 if any(verdict != UNREADABLE for verdict in verdicts) else 0.0
    shares = {sort: true_share(values, empty=empty) for sort, values in sorts.items()}
    anchors = list(dict.fromkeys(m.node for m in mentions(gold, [question.question])))
    needed = [*anchors, *bearers(gold, anchors, question.answer.lower())[:1]]
    named = {m.node for m in mentions(gold, rationale.steps)}
    return scored(rationale, verdicts, shares, true_share([node in named for node in needed], empty=1.0), question)


def _facts(gold: SceneGraph, step: Parsed) -> dict[str, list[bool]]:
    """Return whether each statement of a step is supported, by type of statement. A negated statement is supported if
    the graph does not contain the denied fact.
    """
    here = {node.id: _alike(gold, node.name) for node in step.graph.nodes}
    attributes = [
        any(_word(word) in map(_word, gold.by_id[other].attributes) for other in here[node.id])
        for node in step.graph.nodes
        for word in node.attributes
        if not word.isdigit() and word not in ("one", "two", "three", "four", "five", "six")
    ]
    relations = [_related(gold, here[k.subject], k.predicate, here[k.object]) for k in step.graph.links]
    absent = [not _alike(gold, name) for name in step.absent]
    for fact in step.denied:
        if fact[0] == "attribute" and fact[1] in here:
            attributes.append(not any(_word(fact[2]) in map(_word, gold.by_id[n].attributes) for n in here[fact[1]]))
        elif fact[0] == "relation" and fact[1] in here and fact[3] in here:
            relations.append(not _related(gold, here[fact[1]], fact[2], here[fact[3]]))
    return {
        "entities": [bool(ids) for ids in here.values()] + absent,
        "attributes": attributes,
        "relations": relations,
    }


def _alike(gold: SceneGraph, name: str) -> list[str]:
    """Return the ids of the objects to which ``name`` may refer. An object matches if its name, or the last word of its
    name, is ``name`` or a synonym of ``name``.
    """
    return [
        node.id for node in gold.nodes if _name(node.name) == _name(name) or _name(node.name.split()[-1]) == _name(name)
    ]


def _name(name: str) -> str:
    entry = load_lexicon().nouns.get(name)
    return entry[0].lemma if entry else name


def _word(word: str) -> str:
    adjective = load_lexicon().adjectives.get(word)
    return adjective.word if adjective else word


def _related(gold: SceneGraph, subjects: list[str], predicate: str, objects: list[str]) -> bool:
    stems = _stems(predicate)
    return any(k.subject in subjects and k.object in objects and stems & _stems(k.predicate) for k in gold.links)


def _stems(predicate: str) -> set[str]:
    return {_ENDINGS.sub("", word) or word for word in predicate.lower().split() if word not in _IDLE}
