"""Tests correctness pairs from a scripted vision server: right and wrong answers, separate format pairs, counted
reasons.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scramble.engines import ReplyStore
from scramble.engines.openai_server import OpenAIServer
from scramble.pairs.answers.correctness import CorrectnessPairs, QuestionPairs, contained
from scramble.pairs.base import Skip
from scramble.records import ImageFile, Question
from tests.loopback import Loopback

RIGHT = "Step {n}.\nNext.\nFinal answer: 5"
SCRIPT = [
    RIGHT,
    "Step {n}.\nNext.\nFinal answer: 7",
    "Step {n}.\nNext.\nIt is hard to say.",
    "Step {n}. Final answer: 5",
    "Step {n}.\nNext.\nFinal answer: 15",
]


def run(
    server: Loopback, folder: Path, questions: list[Question], images: dict[str, ImageFile], **options: Any
) -> tuple[CorrectnessPairs, list[tuple[Question, QuestionPairs | Skip]]]:
    options = {"styles": ["steps"], "samples": 10, "max_tokens": 64, **options}
    with OpenAIServer("m", server.url, concurrency=1) as engine, ReplyStore(folder) as store:
        maker = CorrectnessPairs(engine, store, **options)
        return maker, list(maker.pairs(questions, images))


def script(server: Loopback, *lines: str) -> None:
    """Let the server answer the n-th request of a question with the n-th line, and start again after the last line."""
    server.answer = lambda text: lines[(len(server.payloads) - 1) % len(lines)].format(n=len(server.payloads))


def test_right_ones_are_preferred_to_wrong_and_unparsed_ones(
    server: Loopback, tmp_path: Path, images: dict[str, ImageFile]
) -> None:
    script(server, *SCRIPT)
    question = Question("q1", ("red",), "How many?", "5", kind="numeric")
    maker, [(_, outcome)] = run(server, tmp_path, [question], images)
    assert isinstance(outcome, QuestionPairs)
    # Two are right; two "7" and two without an answer are wrong; "15" contains the right answer; two lack a line break.
    assert len(outcome.correctness) == 8 and len(outcome.format) == 4
    assert {p.details["rejected_answer"] for p in outcome.correctness} == {"7", None}
    for pair in (*outcome.correctness, *outcome.format):
        assert pair.chosen.endswith("Final answer: 5") and pair.chosen.count("\n") == 2
        assert pair.image_ids == ("red",) and pair.prompt == server.payloads[0]["messages"][0]["content"][1]["text"]
        assert pair.details["answer"] == "5" and pair.details["judged_by"] == "numeric"
    assert {p.details["fault"] for p in outcome.format} == {"fewer than 2 line breaks"}
    assert {p.kind for p in outcome.correctness} == {"correctness"} and {p.kind for p in outcome.format} == {"format"}
    assert len({p.pair_id for p in (*outcome.correctness, *outcome.format)}) == 12
    assert maker.counts["pairs left out: one answer contains the other"] == 4
    assert maker.counts["responses without an answer"] == 2 == maker.counts["correct responses"]


def test_the_image_and_the_papers_sampling_reach_the_server(
    server: Loopback, tmp_path: Path, images: dict[str, ImageFile]
) -> None:
    script(server, *SCRIPT)
    questions = [Question("q1", ("red", "bmp"), "How many?", "5"), Question("q2", (), "How many?", "5")]
    run(server, tmp_path, questions, images, samples=4)
    assert len(server.payloads) == 8
    first, last = server.payloads[0], server.payloads[-1]
    assert (first["temperature"], first["top_k"]) == (1.0, 50) and len({p["seed"] for p in server.payloads[:4]}) == 4
    kinds = [part["type"] for part in first["messages"][0]["content"]]
    assert kinds == ["image_url", "image_url", "text"] and isinstance(last["messages"][0]["content"], str)
    urls = [part["image_url"]["url"] for part in first["messages"][0]["content"][:2]]
    assert all(url.startswith("data:image/png") for url in urls)  # servers do not accept BMP


def test_the_number_of_pairs_is_limited_and_every_response_is_used_before_one_is_reused(
    server: Loopback, tmp_path: Path, images: dict[str, ImageFile]
) -> None:
    script(server, RIGHT, RIGHT, RIGHT, "Step {n}.\nNext.\nFinal answer: 7")
    question = Question("q1", ("red",), "How many?", "5")
    _, [(_, outcome)] = run(server, tmp_path, [question], images, samples=16, pairs=12)
    assert isinstance(outcome, QuestionPairs) and len(outcome.correctness) == 12
    assert {p.chosen for p in outcome.correctness} == {RIGHT.format(n=n) for n in range(1, 17) if n % 4}
    assert len({p.rejected for p in outcome.correctness}) == 4
    assert len({(p.chosen, p.rejected) for p in outcome.correctness}) == 12


@pytest.mark.parametrize(("num_right", "num_wrong"), [(2, 5), (5, 2), (2, 4), (3, 3)])
def test_every_response_is_used_before_one_is_reused(
    server: Loopback, tmp_path: Path, images: dict[str, ImageFile], num_right: int, num_wrong: int
) -> None:
    total = num_right * num_wrong
    script(server, *[RIGHT] * num_right, *["Step {n}.\nNext.\nFinal answer: 7"] * num_wrong)
    question = Question("q1", ("red",), "How many?", "5")
    _, [(_, outcome)] = run(server, tmp_path, [question], images, samples=num_right + num_wrong, pairs=total)
    pairs = [(p.chosen, p.rejected) for p in outcome.correctness]
    assert len(set(pairs)) == len(pairs) == total
    assert len({chosen for chosen, _ in pairs[:num_right]}) == num_right
    assert len({rejected for _, rejected in pairs[:num_wrong]}) == num_wrong


def test_a_second_run_asks_nothing_and_gives_the_same(
    server: Loopback, tmp_path: Path, images: dict[str, ImageFile]
) -> None:
    script(server, *SCRIPT)
    question = [Question(f"q{n}", ("red",), f"How many {n}?", "5") for n in range(3)]
    _, first = run(server, tmp_path, question, images, styles=["steps", "boxed", "think"])
    _, again = run(server, tmp_path, question, images, styles=["steps", "boxed", "think"])
    assert first == again and len(server.payloads) == 30


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([RIGHT], "all responses correct"),
        (["Step.\nNext.\nFinal answer: 7"], "no correct response"),
        (["Step.\nNext."], "no correct response"),
        ([RIGHT, "Step.\nNext.\nFinal answer: 50"], "every incorrect answer contains the correct one"),
        ([" "], "empty reply"),
    ],
)
def test_why_a_question_has_no_pair(
    server: Loopback, tmp_path: Path, images: dict[str, ImageFile], lines: list[str], reason: str
) -> None:
    script(server, *lines)
    _, [(_, outcome)] = run(server, tmp_path, [Question("q1", ("red",), "How many?", "5")], images)
    assert outcome == Skip(reason)


def test_questions_that_cannot_be_asked_are_not(server: Loopback, tmp_path: Path, images: dict[str, ImageFile]) -> None:
    script(server, *SCRIPT)
    questions = [
        Question("no-answer", ("red",), "How many?", ""),
        Question("no-number", ("red",), "How many?", "many", kind="numeric"),
        Question("no-option", ("red",), "Which?", "D", choices=("a", "b")),
        Question("missing", ("nowhere",), "How many?", "5"),
        Question("broken", ("broken",), "How many?", "5"),
        Question("cut", ("red",), "faults | faults=" + ",".join(["long"] * 10), "5"),
    ]
    maker, outcome = run(server, tmp_path, questions, images, styles=["direct"])
    assert [skip.reason for _, skip in outcome if isinstance(skip, Skip)] == [
        "the question has no ground truth",
        "the ground truth is not a number",
        "the ground truth is not one of the options",
        "missing image",
        "unreadable image",
        "reply truncated at the token limit",
    ]
    assert len(server.payloads) == 10 and maker.counts["questions without pairs"] == 6


def test_containment() -> None:
    assert contained("4", "14") and contained("Red", "dark  red") and not contained("14", "4")
    assert not contained("4", None)
