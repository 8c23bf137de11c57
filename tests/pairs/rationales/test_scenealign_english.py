"""Tests English rationales: mentions are aligned, words are replaced by rule or language model, other changes are
rejected.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scramble.engines import EngineError, Reply, ReplyStore, open_engine
from scramble.pairs.method import collect
from scramble.pairs.rationales.assemble_rationales import rationale_pairs
from scramble.pairs.rationales.cases import RationaleCase, Settings
from scramble.pairs.rationales.graph_edits import Cooccurrence
from scramble.pairs.rationales.interventions.english import WordInterventions
from scramble.pairs.rationales.interventions.language_model import EngineInterventions, read_steps
from scramble.records import PreferencePair
from scramble.scenegraphs import SceneGraph
from scramble.scenegraphs.alignment import mentions
from tests.loopback import Loopback

SEEN = Cooccurrence([["dog", "bench", "cat", "man"], ["horse", "man"], ["dog", "sofa", "chair"], ["tree", "bench"]])


def make_pairs(
    cases: list[RationaleCase], interventions: WordInterventions, per_question: int = 4
) -> tuple[list[PreferencePair], Counter[str]]:
    pairs, skips = collect(rationale_pairs(cases, interventions, per_question=per_question))
    return pairs, Counter(skip.reason for skip in skips)


def test_mentions_are_aligned_with_objects(english: SceneGraph) -> None:
    steps = ["The brown dog sits by two benches.", "A red fire hydrant; the cat is black."]
    aligned = [
        (m.step, m.node, m.noun.lower, m.is_plural, [w.lower for w in m.attributes]) for m in mentions(english, steps)
    ]
    assert aligned == [
        (0, "1", "dog", False, ["brown"]),
        (0, "2", "benches", True, []),
        (1, "4", "fire hydrant", False, ["red"]),
        (1, "3", "cat", False, ["black"]),
    ]


def test_each_kind_changes_what_it_records_and_nothing_else(english_cases: list[RationaleCase]) -> None:
    pairs, skipped = make_pairs(english_cases, WordInterventions(Settings(), SEEN))
    assert not skipped
    texts = {pair.pair_id: (pair.chosen, pair.rejected) for pair in pairs}
    assert {name.split("-")[1] for name in texts} == {"swap", "replace", "shorten", "overthink"}
    for pair in pairs:
        chosen, rejected = pair.chosen.lower(), pair.rejected.lower()
        (change,) = pair.details["changes"]
        if change["op"] == "replace":
            assert change["name"] in rejected and change["name"] not in chosen
        elif change["op"] == "detail":
            assert change["word"] in rejected and change["instead"] in chosen
        elif change["op"] == "leave-out":
            assert change["step"] in pair.chosen and change["step"] not in pair.rejected
        assert not re.search(r"\ba [aeiou]|\ban [bcdfgjklmnpqrstvwxz]", rejected)
    assert texts["q3-swap"][1].endswith("Final answer: black")  # the answer follows the edited graph


def test_what_a_relation_says_of_two_objects_is_turned_round(
    english: SceneGraph, english_cases: list[RationaleCase]
) -> None:
    plain = replace(english, nodes=tuple(replace(node, attributes=()) for node in english.nodes))
    cat = replace(english_cases[3], graph=plain)  # only the relation can be swapped
    pairs, _ = make_pairs([cat], WordInterventions(Settings(kinds={"swap": 1.0}), SEEN), 1)
    assert [pair.rejected.split("\n")[2] for pair in pairs] == ["The bench is to the left of the cat."]
    symmetric = replace(plain, links=tuple(replace(link, predicate="next to") for link in plain.links))
    assert (
        make_pairs([replace(cat, graph=symmetric)], WordInterventions(Settings(kinds={"swap": 1.0}), SEEN), 1)[0] == []
    )


def test_questions_and_rationales_outside_of_the_graph_are_counted(
    english: SceneGraph, english_cases: list[RationaleCase]
) -> None:
    first = english_cases[0].question
    bad = [
        replace(first, question="What color is the sky?", answer="blue"),
        replace(first, answer=""),
        replace(first, rationale=("Nothing of this is there.",)),
        replace(first, question="How are you?", answer="yes", rationale=()),
    ]
    pairs, skipped = make_pairs(
        [RationaleCase("i", question, english) for question in bad], WordInterventions(Settings(), SEEN)
    )
    assert pairs == []
    assert skipped == {
        "question without an answer in the graph": 3,
        "the rationale mentions nothing in the graph": 1,
    }
    alone = replace(english, links=())  # without relations no path leads from the bench to the dog
    assert make_pairs([RationaleCase("i", first, alone)], WordInterventions(Settings(), SEEN))[1].total() == 1


# ------------------------------------------------------------------------------------------------------ language models


def obedient(prompt: str) -> str:
    """Return the steps of the prompt with the prompt's facts changed, as a good model would write them."""
    steps = re.findall(r"^\d+\. (.+)$", prompt, re.M)
    removed = re.findall(r"no longer true: (?:(.+) is )?(.+)$", prompt, re.M)
    new = re.findall(r"true instead: (?:(.+) is )?(.+)$", prompt, re.M)
    for (_, old), (_, other) in zip(removed[:1], new[:1], strict=False):
        steps = [re.sub(rf"\b{old}\b", other, step) for step in steps]
    return json.dumps({"steps": steps})


@contextmanager
def model(server: Loopback, folder: Path) -> Iterator[EngineInterventions]:
    with open_engine("openai", model="m", base_url=server.url, attempts=1) as engine, ReplyStore(folder) as store:
        settings = Settings(kinds={"replace": 1, "shorten": 1})
        yield EngineInterventions(settings, SEEN, engine, store)


@pytest.fixture
def server(server: Loopback) -> Loopback:
    server.answer = obedient
    return server


def test_a_model_words_the_changes_and_its_replies_are_asked_for_once(
    english_cases: list[RationaleCase], server: Loopback, tmp_path: Path
) -> None:
    with model(server, tmp_path) as interventions:
        pairs, skipped = make_pairs(english_cases, interventions, 2)
    replaced = [pair for pair in pairs if pair.kind == "rationale-replace"]
    assert len(replaced) >= 3 and not skipped
    assert all(pair.rule.startswith("scenealign.engine@") and pair.rule.endswith(" m") for pair in replaced)
    asked_before = server.asked.total()
    with model(server, tmp_path) as interventions:
        again, _ = make_pairs(english_cases, interventions, 2)
        assert interventions.totals()["rewriter"]["num_requests"] == 0
    assert again == pairs and server.asked.total() == asked_before


def test_an_interrupted_run_resumes(english_cases: list[RationaleCase], server: Loopback, tmp_path: Path) -> None:
    with model(server, tmp_path / "whole") as interventions:
        whole, _ = make_pairs(english_cases, interventions, 2)
    needed = server.asked.total()
    with model(server, tmp_path / "cut") as interventions:
        stream: Any = rationale_pairs(english_cases, interventions, per_question=2)
        for pair in stream:
            if isinstance(pair, PreferencePair) and pair.kind == "rationale-replace":
                break  # the process ends here
        stream.close()
    stored = len((tmp_path / "cut" / "replies.jsonl").read_text().splitlines())
    assert stored >= 1
    with model(server, tmp_path / "cut") as interventions:
        resumed, _ = make_pairs(english_cases, interventions, 2)
        assert interventions.totals()["rewriter"]["num_requests"] == needed - stored
    assert resumed == whole


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda prompt: "I cannot.", "no steps in the reply"),
        (lambda prompt: '{"steps": ["One step."]}', "rewriting: the number of steps changed"),
        (lambda prompt: re.sub(r'"\]', ' Also a purple elephant."]', obedient(prompt)), "rewriting: "),
        (lambda prompt: json.dumps({"steps": re.findall(r"^\d+\. (.+)$", prompt, re.M)}), "rewriting: "),
    ],
    ids=["refusal", "steps", "more than asked", "nothing changed"],
)
def test_other_changes_by_a_model_are_rejected_and_counted(
    answer, reason: str, english_cases: list[RationaleCase], tmp_path: Path
) -> None:
    server = Loopback(answer=answer)
    try:
        with model(server, tmp_path) as interventions:
            pairs, skipped = make_pairs(english_cases, interventions, 2)
    finally:
        server.close()
    assert {pair.kind for pair in pairs} == {"rationale-shorten"}
    assert skipped and all(why.startswith(reason) for why in skipped)


def test_the_reason_why_a_reply_has_no_steps_is_that_of_the_engine() -> None:
    assert read_steps(Reply("1. A dog.", "length")) == "reply truncated at the token limit"
    assert read_steps(Reply("", "content_filter")) == "reply ended by content_filter"
    assert read_steps(Reply("", error="context overflow (status 400: ...)")) == "no reply: context overflow"


def test_an_unreachable_server_stops_the_run(english_cases: list[RationaleCase], tmp_path: Path) -> None:
    with (
        open_engine("openai", model="m", base_url="http://127.0.0.1:9/v1", attempts=1) as engine,
        ReplyStore(tmp_path) as store,
        pytest.raises(EngineError),
    ):
        make_pairs(
            english_cases, EngineInterventions(Settings(kinds={"replace": 1, "swap": 1}), SEEN, engine, store), 2
        )
