"""Tests faithfulness scores of true, perturbed and unreadable rationales, in the world and by the parser of English."""

from __future__ import annotations

from pathlib import Path

import pytest

from scramble.engines import ReplyStore
from scramble.engines.openai_server import OpenAIServer
from scramble.evaluation.benchmarks import load_benchmark
from scramble.evaluation.faithfulness import judge_reply
from scramble.evaluation.faithfulness.english import judge_parsed
from scramble.evaluation.faithfulness.world import judge_world
from scramble.evaluation.items import EvaluationError
from scramble.evaluation.judge import Judge, grading
from scramble.evaluation.protocols import named_protocol
from scramble.evaluation.quick import quick_scores
from scramble.grading import rationales
from scramble.records import ImageRecord, Question
from scramble.storage.tables import write_table

OBJECTS = [("o0", "circle", "red", "small"), ("o1", "square", "blue", "large")]
GRAPH = {
    "objects": [{"id": i, "name": n, "attributes": [c, s], "bbox": [0, 0, 1, 1]} for i, n, c, s in OBJECTS],
    "relations": [
        {"subject": "o0", "predicate": "left of", "object": "o1"},
        {"subject": "o1", "predicate": "right of", "object": "o0"},
    ],
}
QUESTION = Question("q", ("i",), "Is the red circle left of or right of the blue square?", "left of")


@pytest.mark.parametrize(
    ("steps", "answer", "expected"),
    [
        (["a red circle", "a blue square", "a red circle left of a blue square"], "left of", {}),
        # A true detail does not lower the scores.
        (["a small red circle", "a blue square", "a red circle left of a blue square"], "left of", {}),
        (
            ["a red circle", "a blue square", "a red circle right of a blue square"],
            "right of",
            {"faithfulness": 2 / 3, "relations": 0.0, "needed": 2 / 3, "accuracy": 0.0},
        ),
        (
            ["a red star", "a blue square", "a red circle left of a blue square"],
            "left of",
            {"faithfulness": 2 / 3, "entities": 3 / 4, "attributes": 3 / 4, "needed": 2 / 3},
        ),
        (
            ["a large red circle", "a blue square", "a red circle left of a blue square"],
            "left of",
            {"faithfulness": 2 / 3, "attributes": 4 / 5, "needed": 2 / 3},
        ),
        (["a red circle", "a red circle left of a blue square"], "left of", {"needed": 2 / 3}),
        (
            ["a red circle", "so it seems", "a blue square", "a red circle left of a blue square"],
            "left of",
            {"faithfulness": 3 / 4},
        ),
        ([], "left of", dict.fromkeys(("faithfulness", "entities", "attributes", "relations", "needed"), 0.0)),
    ],
    ids=["true", "true detail", "swapped", "replaced", "false detail", "shortened", "unreadable step", "nothing"],
)
def test_each_defect_costs_its_own_score(steps: list[str], answer: str, expected: dict[str, float]) -> None:
    values = judge_world(rationales.write(steps, answer), GRAPH, QUESTION).values
    plain = ("faithfulness", "entities", "attributes", "relations", "needed", "accuracy")
    assert {name: values[name] for name in plain} == pytest.approx(dict.fromkeys(plain, 1.0) | expected)
    assert values["faithful"] == float(not expected)
    assert values["right_and_faithful"] == float(not expected)


def test_true_rationales_of_a_world_score_one(world: Path) -> None:
    benchmark = load_benchmark("world_rationales", world)
    for item in benchmark.items:
        assert isinstance(item.record, Question)
        judged = judge_reply(item, rationales.write(item.record.rationale, item.record.answer))
        assert set(judged.values.values()) == {1.0}, item.record


def test_rationales_need_no_language_model_as_judge(world: Path, tmp_path: Path) -> None:
    """The scene graph grades the rationales, so a result records no grading and no missing grading."""
    items, protocol = load_benchmark("world_rationales", world).items, named_protocol("world")
    with OpenAIServer("m", "http://127.0.0.1:1/v1") as engine, ReplyStore(tmp_path) as store:
        assert grading(items, protocol, Judge(engine, store)) == grading(items, protocol, None) == {}
        judged = grading(items, protocol, Judge(engine, store, faithfulness=True))
        assert judged == {"faithfulness": "statements judged by m, own prompt"}


def test_a_random_model_is_scored(world: Path, vlm) -> None:
    scores = quick_scores(vlm, load_benchmark("world_rationales", world, max_new_tokens=12), limit=3)
    assert scores["faithfulness"] == 0.0 and scores["accuracy"] == 0.0
    assert {name.partition("/")[0] for name in scores} >= {"entities", "attributes", "relations", "needed", "faithful"}


def test_english_is_judged_by_the_parser(shared: Path) -> None:
    pipeline = str(shared / "models" / "en_core_standin")
    graph = {
        "objects": [
            {"id": "1", "name": "dog", "attributes": ["brown"]},
            {"id": "2", "name": "bench", "attributes": ["wooden"]},
            {"id": "3", "name": "cat", "attributes": ["black"]},
        ],
        "relations": [{"subject": "1", "predicate": "sitting on", "object": "2"}],
    }
    question = Question("q", ("i",), "What color is the dog on the bench?", "brown")

    def verdicts(text: str) -> list[str]:
        return [step["verdict"] for step in judge_parsed(text, graph, question, pipeline).steps]

    good = "There is a wooden bench.\nThe puppy sits on the bench.\nThe dog is brown.\nFinal answer: brown"
    assert set(judge_parsed(good, graph, question, pipeline).values.values()) == {1.0}
    assert verdicts("The dog is black. The bird is on the bench. Hm.") == ["unsupported", "unsupported", "unreadable"]
    assert verdicts("There is no horse. The cat is not brown.") == ["supported", "supported"]


def test_data_without_graphs_or_of_another_kind_is_refused(tmp_path: Path, world: Path) -> None:
    from scramble.storage.tables import read_table

    record = next(iter(read_table(world, ImageRecord)))
    odd = Question("q", (record.image_id,), "Why?", "so")
    write_table(tmp_path, ImageRecord, [record])
    write_table(tmp_path, Question, [odd])
    with pytest.raises(EvaluationError, match="no answer in its scene graph"):
        load_benchmark("world_rationales", tmp_path)
    write_table(tmp_path, Question, [Question("q", ("elsewhere",), "Why?", "so")])
    with pytest.raises(EvaluationError, match="no question"):
        load_benchmark("rationales", tmp_path)
