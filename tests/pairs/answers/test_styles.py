"""Tests the prompt of each style, and how well-formed and malformed replies are parsed."""

from __future__ import annotations

import pytest

from scramble.pairs.answers.prompts import PLACE, STYLES, ParsedReply, StyleError, load_style, parse_reply
from scramble.records import Question

ASKED = Question("q", (), "Which colour?", "B", choices=("red", "blue"))


@pytest.mark.parametrize("name", STYLES)
def test_every_style_asks_the_question_with_its_options(name: str) -> None:
    style = load_style(name)
    prompt = style.ask(ASKED)
    assert "Which colour?\nA. red\nB. blue" in prompt and PLACE not in prompt
    assert {"final": "Final answer:", "think": "</think>", "boxed": r"\boxed{...}", "whole": ""}[style.mark] in prompt


def test_an_unknown_style_is_named() -> None:
    with pytest.raises(StyleError, match=r"'socratic'.*choose one of steps, boxed"):
        load_style("socratic")


@pytest.mark.parametrize(
    ("style", "text", "expected"),
    [
        ("steps", "One.\nTwo.\nFinal answer: 5", ParsedReply("5")),
        ("steps", "One.\n\n**Final Answer**: x\n\nFinal answer: **5**", ParsedReply("5")),
        ("steps", "One.\nFinal answer: 5", ParsedReply("5", "fewer than 2 line breaks")),
        ("steps", "Final answer: 5\n\n", ParsedReply("5", "no rationale")),
        ("steps", "One.\n\nFinal answer: 5\n6", ParsedReply("5", "answer on several lines")),
        (
            "steps",
            "a\nFinal answer: 1\nFinal answer: 2\nFinal answer: 3",
            ParsedReply("3", "the final answer is marked more than 2 times"),
        ),
        ("steps", "One.\nTwo.\nIt is five.", ParsedReply(None)),
        ("steps", "One.\nTwo.\nFinal answer:", ParsedReply(None)),
        ("boxed", "One.\nTwo.\nAnswer: \\boxed{\\frac{1}{2}}", ParsedReply(r"\frac{1}{2}")),
        ("boxed", "Answer: \\boxed{2}", ParsedReply("2", "no rationale")),
        ("boxed", "One.\nTwo.\n\\boxed{2", ParsedReply(None)),
        ("think", "<think>One.\nTwo.</think>\nFinal answer: 4", ParsedReply("4")),
        ("think", "One.\n\nFinal answer: 4", ParsedReply("4", "not exactly one thought between tags")),
        (
            "think",
            "<think>One.</think><think>Two.</think>\n\nFinal answer: 4",
            ParsedReply("4", "not exactly one thought between tags"),
        ),
        ("think", "<think> </think>\n\nFinal answer: 4", ParsedReply("4", "no rationale")),
        ("think", "<think>One.\nTwo.</think>\nfour", ParsedReply(None)),
        ("rationale", "There is a red circle.\nFinal answer: red", ParsedReply("red")),
        ("direct", " red ", ParsedReply("red")),
        ("direct", "red\nblue", ParsedReply("red\nblue", "answer on several lines")),
        ("direct", " ", ParsedReply(None)),
    ],
)
def test_reading(style: str, text: str, expected: ParsedReply) -> None:
    assert parse_reply(load_style(style), text) == expected
