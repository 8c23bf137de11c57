"""Tests the parser of final answers, and its use by evaluation, rationales and MPO's data engine."""

from __future__ import annotations

import re

import pytest

from scramble.evaluation.items import Item, QueryReply
from scramble.evaluation.protocols import named_protocol
from scramble.evaluation.scoring.outcomes import outcome
from scramble.grading import final_answers, rationales, reasoned_answers
from scramble.grading.open_answers import extract_mathvista
from scramble.grading.rules import is_right, rule_of
from scramble.pairs.answers.prompts import OTHER_MARK, ParsedReply, load_style, parse_reply
from scramble.records import Question

ANIMALS = ("cat", "dog")
OPTIONS = {"A": "cat", "B": "dog"}

# Typical replies of models, and their answers.
LETTERS = (
    "I see a dog.\nFinal answer: **B**",
    "**Final answer:** B. dog",
    "Final answer: $\\boxed{B}$",
    "The final answer is: B",
    "**Final Answer: B**",
    "Final answer: (B) dog",
    "Final answer: B, since A is a cat.",
    "FINAL ANSWER: b",
    "Final answer: B",
    "Final answer: B.",
    "Final answer: b)",
    "Final answer: (b).",
    "Final answer: B) dog",
    "Final answer: B: dog",
    "Final answer: B - dog",
    "Final answer: [B]",
    "Final answer: {B}",
    "Final answer: option B",
    "Final answer: Option (B): dog",
    "Final Answer: The answer is B",
    "Final answer: The correct option is **B**.",
    "Final answer: `B`",
    "Final answer: “B”",
    "Final answer: 'B'",
    'Final answer: "B".',
    "Final answer: «B»",
    "Final answer: \\boxed{\\text{B}}",
    "Final answer: \\mathrm{B}",
    "Final answer: \\textbf{(B)}",
    "Final answer: \\(B\\)",
    "$$\\text{Final answer: } \\boxed{B}$$",
    "Final answer: **B**, since A is a cat",
    "Final answer: B because A is a cat",
    "Final answer: B, not A",
    "Final answer: B (not A)",
    "Final answer: B is correct",
    "Final answer: B\n\nA is a cat.",
    "Final answer: dog",
    "Final answer: A dog",
    "Final answer: the dog, since A is a cat",
    "Final answer: It is a dog.",
    "Final answer: dog (B)",
    "Final answer: Ｂ",
    "Final answer：（Ｂ）",
    "Final answer: <b>B</b>",
    "<b>Final answer:</b> B",
    "Final answer:\n```\nB\n```",
    "Final answer:\n- B",
    "## Final Answer\n\nB",
    "**Final answer**\n**B**",
    "_Final answer: B_",
    "(Final answer: B)",
    '"Final answer: B"',
    "Final answer (letter): B",
    "Final answer - B",
    "Final answer: A\nNo.\nFinal answer: B",
    "Final answer: B\nThis is my final answer.",
    "<think>Final answer: A</think>\nB",
    "<think>A?</think>Final answer: B",
    "A it is? No, \\boxed{B}",
    "A first. <answer>B</answer>",
    "Final answer: B<|im_end|>",
)
WORDS = (
    "It is red.\nFinal answer: **red**.",
    "Final answer: 'red'",
    "Final answer: “red”",
    "Final answer: \\text{red}",
    "Final answer: red",
    "Final answer: Red.",
    "Final answer: *red*",
    "Final answer: _red_",
    "Final answer: `red`!",
    'Final answer: "red".',
    "Final answer: **red.**",
    "Final answer: $\\text{red}$",
    "Final answer: \\mathrm{red}",
    "Final answer: (red)",
    "Final answer: [red]",
    "Final answer: The answer is red.",
    "The final answer is red.",
    "Final answer: red, because the ball is red",
    "Final answer: red. The ball is red.",
    "Final answer: red (the ball)",
    "Final answer: red, not blue",
    "Final answer: red\n\nThe ball is red.",
    "Final answer: ｒｅｄ",
    "So \\boxed{red}.",
    "Final answer: <strong>red</strong>.",
    "**Final Answer**: red",
    "Final answer:\n\n**red**",
    "Final answer: «red»",
    "Final answer: The colour is \\boxed{\\text{red}}",
)
YES = (
    "Final answer: **Yes**.",
    "Final answer: YES!",
    "Final answer: yes, there is no cat",
    "Final answer: “Yes”",
    "Final answer: \\text{Yes}",
    "Final answer: Ｙｅｓ",
    "Final answer: Yes. There is not a cat, though.",
    "The final answer is yes.",
    "Final answer: (yes)",
    "Final answer: It is yes",
    "Final Answer: **Yes** (no doubt)",
)
NO = (
    'Final answer: "No"',
    "Final answer: No, there is not",
    "Final answer: **no**",
    "Final answer: NO.",
    "Final answer: \\boxed{\\text{No}}",
)
CASES = [
    *((text, "B", ANIMALS) for text in LETTERS),
    *((text, "red", ()) for text in WORDS),
    *((text, "yes", ()) for text in YES),
    *((text, "no", ()) for text in NO),
]


@pytest.mark.parametrize(("text", "answer", "choices"), CASES)
def test_evaluation_scores_what_the_reply_says(text: str, answer: str, choices: tuple[str, ...]) -> None:
    style = "letter" if choices else "yes_no" if answer in ("yes", "no") else "short"
    wrong = {"B": "A", "yes": "no", "no": "yes", "red": "blue"}[answer]
    for truth, value in ((answer, 1.0), (wrong, 0.0)):
        answers = (truth,) * 10 if style == "short" else ()
        item = Item(Question("q", ("i",), "Which?", truth, "", answers, choices), style)  # type: ignore[arg-type]
        assert outcome(item, {"q": QueryReply(text=text)}, named_protocol("cot")).values == {"accuracy": value}


# In the data engine an answer on several lines has the wrong form, and so does an answer with another mark than the
# requested one.
ONE_LINE = [
    case
    for case in CASES
    if (found := re.search(r"final", case[0].split("</think>")[-1], re.IGNORECASE))
    and "\n" not in found.string[found.end() :].strip()
]


@pytest.mark.parametrize(("text", "answer", "choices"), ONE_LINE)
def test_a_right_answer_is_right_in_the_data_engine_too(text: str, answer: str, choices: tuple[str, ...]) -> None:
    parsed = parse_reply(load_style("steps"), f"One.\nTwo.\n{text}")
    question = Question("q", (), "Which?", answer, choices=choices)
    assert parsed.fault == "" and parsed.answer is not None
    assert is_right(rule_of(question), parsed.answer, question)
    wrong = {"B": "A", "yes": "no", "no": "yes", "red": "blue"}[answer]
    assert not is_right(rule_of(question), parsed.answer, Question("q", (), "Which?", wrong, choices=choices))


@pytest.mark.parametrize(
    ("answer", "truth", "rule"),
    [
        ("$5", "$5", "exact"),
        ("$5", "5", "exact"),
        ("\\$5", "$5", "exact"),
        ("$5$", "5", "exact"),
        ("50\\%", "50%", "exact"),
        ("$90^\\circ$", "90°", "exact"),
        ("90^{\\circ}", "90 degrees", "numeric"),
        ("90°", "90", "numeric"),
        ("1{,}234", "1,234", "exact"),
        ("**1,234**", "1234", "exact"),
        ("1\u202f234", "1234", "exact"),
        ("5 \\text{ cm}", "5 cm", "numeric"),
        ("€5", "5 euros", "numeric"),
        ("$\\frac{1}{2}$", "1/2", "exact"),
        ("(3, 4)", "(3, 4)", "relaxed"),
        ("[1, 2]", "[1, 2]", "numeric"),
        ("U.S.A.", "U.S.A.", "relaxed"),
        ("Mt. Everest", "Mt. Everest", "relaxed"),
        ("５", "5", "exact"),
        ('"Q"', '"Q"', "relaxed"),
        ("don't know", "don't know", "relaxed"),
        ("the boys'", "the boys'", "anls"),
        ('5"', '5"', "relaxed"),
        ("f(x)", "f(x)", "relaxed"),
        ("-5", "-5", "relaxed"),
        ("+", "+", "relaxed"),
        ("because it is wet", "because it is wet", "anls"),
        ("It is cold. The sun is up.", "It is cold. The sun is up.", "anls"),
    ],
)
def test_numbers_signs_and_sentences(answer: str, truth: str, rule: str) -> None:
    parsed = parse_reply(load_style("steps"), f"One.\nTwo.\nFinal answer: {answer}")
    assert parsed.answer is not None and is_right(rule, parsed.answer, Question("q", (), "?", truth))


@pytest.mark.parametrize(
    ("answer", "truth"),
    [("5 or 6", "5"), ("not red", "red"), ("reddish", "red"), ("50", "5"), ("red and blue", "red")],
)
def test_other_answers_stay_wrong(answer: str, truth: str) -> None:
    assert not is_right("exact", answer, Question("q", (), "?", truth))


@pytest.mark.parametrize("answer", ["A or B", "A and B", "A, B", "A/B", "cat or dog", "neither", "", "Both A and B"])
def test_two_options_or_none_are_no_answer(answer: str) -> None:
    assert final_answers.letter(answer, OPTIONS) is None


def test_yes_and_no_is_no_answer() -> None:
    for answer in ("yes and no", "Yes, no", "yes/no", "maybe", ""):
        assert final_answers.yes_no(answer) is None


def test_a_reply_without_a_mark_is_left_to_the_parser() -> None:
    for text in ("just a dog", "A dog is there, so B", "<think>a dog"):
        assert reasoned_answers.final_answer(text) == text
    item = Item(Question("q", ("i",), "?", "yes"), "yes_no")
    assert (
        outcome(item, {"q": QueryReply(text="No cats are there, but yes.")}, named_protocol("cot")).status == "unparsed"
    )


def test_other_protocols_read_replies_as_published() -> None:
    """Final answers are unwrapped only under chain-of-thought protocols; the parsers of published numbers are
    unchanged."""
    item = Item(Question("q", ("i",), "?", "B", choices=ANIMALS), "letter")
    reply = {"q": QueryReply(text="Final answer: B, since A is a cat.")}
    assert outcome(item, reply, named_protocol("standard")).prediction is None
    assert outcome(item, reply, named_protocol("cot")).prediction == "B"
    short = Item(Question("q", ("i",), "?", "red", answers=("red",) * 10), "short")
    assert outcome(short, {"q": QueryReply(text="**red**")}, named_protocol("standard")).values == {"accuracy": 0.0}


def test_rationales_read_wrapped_answers() -> None:
    for text in (
        "It is red.\n**Final answer:** red",
        "It is red.\nFinal answer: **red**.",
        "It is red.\nAnswer: 'red'",
    ):
        assert rationales.read(text) == rationales.Rationale(("It is red.",), "red")


def test_an_answer_under_another_mark_is_malformed_and_not_wrong() -> None:
    assert parse_reply(load_style("boxed"), "One.\nTwo.\nFinal answer: 5") == ParsedReply("5", OTHER_MARK)
    assert parse_reply(load_style("steps"), "One.\nTwo.\nSo \\boxed{5}.") == ParsedReply("5", OTHER_MARK)
    assert parse_reply(load_style("boxed"), "One.\nTwo.\nAnswer: \\boxed{\\text{red}}") == ParsedReply("red")
    assert parse_reply(load_style("steps"), "**Final answer:** red\n\n").fault == "no rationale"


def test_mathvista_reads_wrapped_options() -> None:
    for parsed in ("**B**.", '"B"', "\\boxed{B}", "option B", "blue", "b"):
        assert extract_mathvista(f"The answer is {parsed}", ("red", "blue"), "text") == "(B)"


@pytest.mark.parametrize("unit", [" ", "\n", " \n", "<answer>", "\\boxed{", "*", "("])
def test_degenerate_replies_are_read_in_linear_time(unit: str) -> None:
    """A model can repeat a blank or a mark up to its token limit."""
    from scramble.grading import math_answers, open_answers, rules

    repeated = unit * (60_000 // len(unit))
    for text in (f"x {repeated} y", f"The answer is{repeated}", f"{repeated}</answer>"):
        final_answers.find(text)
        final_answers.letter(text, {"A": "cat", "B": "dog"})
        final_answers.yes_no(text)
        rules.quantities(text)
        math_answers.extract_mathverse(text, "AB")
        open_answers.extract_mathvista(text, (), "text")
