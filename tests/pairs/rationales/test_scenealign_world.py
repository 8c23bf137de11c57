"""Tests the embedded world: rationales are derived from graphs, changed in one recorded way, and judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import pytest

from scramble.grading import rationales
from scramble.pairs.base import Skip
from scramble.pairs.method import collect
from scramble.pairs.rationales import INTERVENTION_KINDS
from scramble.pairs.rationales.assemble_rationales import cases, rationale_pairs
from scramble.pairs.rationales.cases import RationaleCase, SceneAlignError, Settings
from scramble.pairs.rationales.check import faults
from scramble.pairs.rationales.graph_edits import Cooccurrence, apply
from scramble.pairs.rationales.interventions.world_rationales import WorldInterventions, label
from scramble.records import ImageFile, ImageRecord, PreferencePair, Question
from scramble.scenegraphs import GraphError, read_graph
from scramble.scenegraphs.world import derive


def pairs_of(
    stream: Iterable[RationaleCase],
    seen: Cooccurrence,
    settings: Settings | None = None,
    per_question: int = 4,
    seed: int = 0,
) -> tuple[list[PreferencePair], Counter[str]]:
    interventions = WorldInterventions(settings or Settings(), seen)
    pairs, skips = collect(rationale_pairs(stream, interventions, per_question=per_question, seed=seed))
    return pairs, Counter(skip.reason for skip in skips)


@pytest.fixture(scope="module")
def scenes(world_cases) -> dict[str, tuple[RationaleCase, dict]]:
    return {case.question.question_id: (case, graph) for case, graph in world_cases(60)}


@pytest.fixture(scope="module")
def seen(scenes: dict[str, tuple[RationaleCase, dict]]) -> Cooccurrence:
    return Cooccurrence([label(node) for node in case.graph.nodes] for case, _ in scenes.values())


def asked_of(pair: PreferencePair) -> str:
    return pair.pair_id.rpartition("-")[0]


def judge(
    pairs: Iterable[PreferencePair], scenes: dict[str, tuple[RationaleCase, dict]], follow: bool = True
) -> list[str]:
    problems = []
    for pair in pairs:
        case, graph = scenes[asked_of(pair)]
        problems += [f"{pair.pair_id}: {what}" for what in faults(graph, case.question.question, pair, follow=follow)]
    return problems


def test_the_rationale_derived_from_the_graph_equals_the_worlds(scenes: dict[str, tuple[RationaleCase, dict]]) -> None:
    for case, graph in scenes.values():
        derived = derive(graph, case.question.question)
        assert derived is not None
        assert (derived.steps, derived.answer) == (case.question.rationale, case.question.answer)


def test_chosen_is_true_and_rejected_has_exactly_the_recorded_defect(
    scenes: dict[str, tuple[RationaleCase, dict]], seen: Cooccurrence
) -> None:
    pairs, _ = pairs_of([case for case, _ in scenes.values()], seen)
    assert judge(pairs, scenes) == []
    kinds = Counter(pair.details["intervention"] for pair in pairs)
    assert set(kinds) == set(INTERVENTION_KINDS) and min(kinds.values()) > 100


@pytest.mark.parametrize(
    "settings",
    [
        Settings(edits={2: 1.0}),
        Settings(answer="keep"),
        Settings(balance="none"),
        Settings(distance=(0, 0)),
        Settings(kinds={"swap": 1.0, "shorten": 0.0}),
    ],
    ids=["two edits", "keep", "no balance", "conclusion", "swap alone"],
)
def test_every_setting_keeps_its_promise(
    settings: Settings, scenes: dict[str, tuple[RationaleCase, dict]], seen: Cooccurrence
) -> None:
    pairs, _ = pairs_of([c for c, _ in scenes.values()], seen, settings, per_question=1)
    assert len(pairs) > 20
    assert judge(pairs, scenes, follow=settings.answer == "follow") == []
    for pair in pairs:
        assert len(pair.details["changes"]) == next(iter(settings.edits))
        assert settings.near_enough(pair.details["difficulty"]["distance"])
        assert settings.kinds.get(pair.details["intervention"], 0) > 0
        if settings.answer == "keep":
            assert len(set(pair.details["answers"])) == 1


def test_padding_keeps_the_length(scenes: dict[str, tuple[RationaleCase, dict]], seen: Cooccurrence) -> None:
    cases_ = [case for case, _ in scenes.values()]
    settings = {name: Settings(kinds={"shorten": 1, "overthink": 1}, balance=name) for name in ("pad", "none")}
    lines = {}
    for name, chosen in settings.items():
        pairs, _ = pairs_of(cases_, seen, chosen, per_question=2)
        lines[name] = {p.rejected.count("\n") - p.chosen.count("\n") for p in pairs}
    assert lines == {"pad": {0}, "none": {0, -1}}


def test_the_judge_of_pairs_finds_what_is_wrong(
    scenes: dict[str, tuple[RationaleCase, dict]], seen: Cooccurrence
) -> None:
    pairs, _ = pairs_of([case for case, _ in scenes.values()], seen)
    by_kind = {pair.details["intervention"]: pair for pair in pairs if len(pair.chosen.split("\n")) > 2}
    for kind, pair in by_kind.items():
        case, graph = scenes[asked_of(pair)]
        lines = pair.rejected.split("\n")
        broken = {
            "more is false": replace(pair, rejected="\n".join(["there are no objects", *lines[1:]])),
            "nothing is wrong": replace(pair, rejected=pair.chosen.partition("\n")[0] + "\n" + pair.chosen),
            "chosen is false": replace(pair, chosen="\n".join(["there are no objects", *pair.chosen.split("\n")[1:]])),
            "another answer": replace(pair, rejected="\n".join([*lines[:-1], "Final answer: maybe"])),
        }
        for what, defect in broken.items():
            assert faults(graph, case.question.question, defect), (kind, what)


def test_the_same_seed_gives_the_same_pairs_in_any_order(
    scenes: dict[str, tuple[RationaleCase, dict]], seen: Cooccurrence
) -> None:
    cases_ = [case for case, _ in scenes.values()][:60]
    first, _ = pairs_of(cases_, seen, per_question=1)
    again, _ = pairs_of(reversed(cases_), seen, per_question=1)
    other, _ = pairs_of(cases_, seen, per_question=1, seed=1)
    assert {p.pair_id: p for p in first} == {p.pair_id: p for p in again}
    assert first != other


def test_critical_objects_are_those_on_which_the_answer_depends() -> None:
    objects = [("o0", "circle", "red"), ("o1", "square", "blue"), ("o2", "star", "green")]
    graph = {
        "objects": [{"id": i, "name": n, "attributes": [c, "small"], "bbox": [0, 0, 1, 1]} for i, n, c in objects],
        "relations": [
            {"subject": "o0", "predicate": "left of", "object": "o1"},
            {"subject": "o1", "predicate": "right of", "object": "o0"},
        ],
    }
    derived = derive(graph, "What colour is the object left of the blue square?")
    assert derived is not None and derived.answer == "red"
    question = Question(
        "q", ("i",), "What colour is the object left of the blue square?", "red", rationale=derived.steps
    )
    prepared = WorldInterventions(Settings(), Cooccurrence([])).prepare(RationaleCase("i", question, read_graph(graph)))
    assert set(prepared.critical) == {"o0", "o1"}


def test_bad_questions_are_skipped_with_a_counted_reason(seen: Cooccurrence) -> None:
    graph = read_graph({"objects": [{"id": "a", "name": "circle", "attributes": ["red", "small"]}], "relations": []})
    rows = [
        ("What colour is the square?", "red", ("a red square",)),  # no such object
        ("What colour is the circle?", "blue", ("there is one circle", "a blue circle")),  # contradicts the graph
        ("How are you?", "fine", ("well",)),
        ("What colour is the circle?", "red", ()),
        ("How many squares are there?", "0", ("there are no squares",)),
    ]
    stream = [
        RationaleCase("i", Question(f"q{n}", ("i",), *texts[:2], rationale=texts[2]), graph)
        for n, texts in enumerate(rows)
    ]
    pairs, skipped = pairs_of(stream, seen)
    assert pairs == []
    assert skipped == {
        "question without an answer in the graph": 2,
        "the rationale or the answer does not follow from the graph": 1,
        "question without a rationale": 1,
        "the rationale mentions nothing in the graph": 1,
    }


def test_images_without_a_usable_graph_are_skipped() -> None:
    good = {"objects": [{"id": "a", "name": "dog"}, {"id": "a", "name": "cat"}], "relations": [{"subject": "a"}]}
    images = [
        ImageRecord("1", ImageFile(path="x"), graph=None),
        ImageRecord("2", ImageFile(path="x"), graph={"objects": []}),
        ImageRecord("3", ImageFile(path="x"), graph=good),
    ]
    questions = [Question(str(n), ids, "?", "a") for n, ids in enumerate([("1",), ("2",), ("3",), ("4",), ("1", "2")])]
    problems: Counter[str] = Counter()
    outcomes = list(cases(images, questions, problems))
    assert [case.image_id for case in outcomes if isinstance(case, RationaleCase)] == ["3"]
    reasons = Counter(skip.reason for skip in outcomes if isinstance(skip, Skip))
    assert problems == {"duplicate id": 1, "relation without subject, predicate or object": 1}
    assert reasons == {
        "image without a scene graph": 1,
        "unusable scene graph": 1,
        "question about a missing image": 1,
        "question about 2 images": 1,
    }


def test_invalid_settings_are_rejected() -> None:
    for options in (
        {"kinds": {"swop": 1}},
        {"kinds": {"swap": 0}},
        {"edits": {0: 1}},
        {"answer": "x"},
        {"distance": (2, 1)},
    ):
        with pytest.raises(SceneAlignError):
            Settings(**options)
    with pytest.raises(SceneAlignError, match=r"per_question must be between 1 and 2 .* not 3"):
        pairs_of([], Cooccurrence([]), Settings(kinds={"swap": 1, "replace": 1}), per_question=3)


def test_a_change_of_a_missing_object_is_rejected() -> None:
    graph = read_graph({"objects": [{"id": "a", "name": "dog"}]})
    with pytest.raises(GraphError, match="'b'"):
        apply(graph, [{"op": "replace", "nodes": ["b"], "name": "cat", "attributes": []}])


def test_a_rationale_is_read_as_it_was_written() -> None:
    text = rationales.write(["a red circle", "there are two squares"], "2")
    assert rationales.read(text) == rationales.Rationale(("a red circle", "there are two squares"), "2")
    rationale = rationales.read("1. There is a dog. It is brown.\n- So it runs.\n**Answer: brown")
    assert rationale.steps[:3] == ("There is a dog.", "It is brown.", "So it runs.") and rationale.answer == "brown"
    assert rationales.read("") == rationales.Rationale((), "")
    with pytest.raises(ValueError, match="question"):
        rationales.ask("Why?", "Reason.")


@pytest.mark.full
def test_ten_thousand_pairs_without_an_exception(world_cases) -> None:
    case_by_id = {case.question.question_id: (case, graph) for case, graph in world_cases(600, start=1000)}
    table = Cooccurrence([label(node) for node in case.graph.nodes] for case, _ in case_by_id.values())
    pairs, _ = pairs_of([case for case, _ in case_by_id.values()], table)
    assert len(pairs) >= 10_000
    assert judge(pairs, case_by_id) == []
