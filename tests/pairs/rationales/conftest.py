"""Provides scenes with questions, and a small English graph, as inputs of interventions."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from scramble.pairs.rationales.cases import RationaleCase
from scramble.records import Question
from scramble.scenegraphs import SceneGraph, read_graph
from scramble.world.graphs import scene_graph
from scramble.world.questions import QUESTION_KINDS, ask
from scramble.world.scenes import draw_scene


def _world_cases(count: int, start: int = 0) -> Iterator[tuple[RationaleCase, dict[str, Any]]]:
    """Yield every kind of question about ``count`` scenes of two to four objects. Half of the scenes have
    look-alikes.
    """
    for index in range(start, start + count):
        rng = random.Random(f"scenealign/{index}")
        scene = draw_scene(rng, objects=(2, 4), lookalikes=0.4 * (index % 2))
        graph = scene_graph(scene, 48)
        for kind in QUESTION_KINDS:
            asked = ask(scene, rng, kind)
            if asked is not None:
                question = Question(
                    f"s{index}/{kind}", (f"s{index}",), asked.question, asked.answer, kind, rationale=asked.rationale
                )
                yield RationaleCase(f"s{index}", question, read_graph(graph), "world"), graph


@pytest.fixture(scope="session")
def world_cases() -> Callable[..., Iterator[tuple[RationaleCase, dict[str, Any]]]]:
    """Return the function ``world_cases(count, start=0)``, which returns questions about scenes, each with the scene's
    graph.
    """
    return _world_cases


@pytest.fixture(scope="session")
def english() -> SceneGraph:
    """Return the graph of a dog on a bench, a cat next to the bench, and a man who holds a fire hydrant."""
    return read_graph(
        {
            "objects": [
                {"id": "1", "name": "dog", "attributes": ["brown", "small"]},
                {"id": "2", "name": "bench", "attributes": ["wooden"]},
                {"id": "3", "name": "cat", "attributes": ["black"]},
                {"id": "4", "name": "fire hydrant", "attributes": ["red"]},
                {"id": "5", "name": "man", "attributes": ["old"]},
                {"id": "6", "name": "tree", "attributes": ["green"]},
            ],
            "relations": [
                {"subject": "1", "predicate": "on", "object": "2"},
                {"subject": "2", "predicate": "under", "object": "1"},
                {"subject": "3", "predicate": "to the left of", "object": "2"},
                {"subject": "5", "predicate": "holding", "object": "4"},
            ],
        }
    )


@pytest.fixture(scope="session")
def english_cases(english: SceneGraph) -> list[RationaleCase]:
    """Return answerable questions, of which the first two have rationales."""
    rows = [
        ("q1", "What animal is on the bench?", "dog", ("There is a wooden bench.", "A brown dog is on the bench.")),
        ("q2", "What is by the bench?", "cat", ("I see a bench.", "An animal, a cat, is to the left of the bench.")),
        ("q3", "What color is the dog?", "brown", ()),
        ("q4", "Is the cat to the left of the bench?", "yes", ()),
        ("q5", "What is the man holding?", "fire hydrant", ()),
    ]
    return [
        RationaleCase("i", Question(key, ("i",), text, answer, rationale=steps), english)
        for key, text, answer, steps in rows
    ]
