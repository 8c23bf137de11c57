"""Tests right and wrong answers under each rule, including difficult ones."""

from __future__ import annotations

import builtins
import importlib.util
from typing import Any

import pytest

from scramble.grading.rules import (
    NoTruth,
    Quantity,
    RuleError,
    anls,
    check_truth,
    is_right,
    quantities,
    relaxed,
    rule_of,
    score,
)
from scramble.records import Question


def question(answer: str, **more: Any) -> Question:
    return Question("q", (), "What?", answer, **more)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,234.5", [Quantity(1234.5)]),
        ("3/4", [Quantity(0.75)]),
        ("2 1/2 cups", [Quantity(2.5, "cup")]),
        ("about 5cm.", [Quantity(5, "cm")]),
        ("$5", [Quantity(5, "$")]),
        ("50 percent", [Quantity(50, "%")]),
        ("three", [Quantity(3)]),
        ("none", [Quantity(0)]),
        ("[1, 2, 3]", [Quantity(1), Quantity(2), Quantity(3)]),
        ("1,2,3", [Quantity(1), Quantity(2), Quantity(3)]),
        ("1,234, 5", [Quantity(1234), Quantity(5)]),
        ("5 apples and 3 pears", [Quantity(5, "apple"), Quantity(3, "pear")]),
        ("-3e2", [Quantity(-300)]),
        ("3/0", []),
        ("12:30", []),
        ("red", []),
        ("", []),
        ("no", []),
    ],
)
def test_quantities(text: str, expected: list[Quantity]) -> None:
    assert quantities(text) == expected


@pytest.mark.parametrize(
    ("rule", "answer", "truth", "right"),
    [
        ("numeric", "0.75", "3/4", True),
        ("numeric", "0.7507", "3/4", True),  # within 0.1 %
        ("numeric", "0.752", "3/4", False),
        ("numeric", "5 cm", "5", True),
        ("numeric", "5 km", "5 cm", False),
        ("numeric", "50%", "0.5", True),
        ("numeric", "50%", "50", True),
        ("numeric", "It is 5 apples.", "5", True),
        ("numeric", "5 or 6", "5", False),
        ("numeric", "[1, 3, 2]", "1, 2, 3", False),
        ("numeric", "none", "0", True),
        ("relaxed", "95", "100", True),
        ("relaxed", "94.9", "100", False),
        ("relaxed", "5%", "0.05", True),
        ("relaxed", "1,050", "1000", True),
        ("relaxed", "0.01", "0", False),
        ("relaxed", "blue", "Blue", True),
        ("relaxed", "none", "0", False),
        ("anls", "Hello World", "hello world", True),
        ("anls", "hello wurld", "hello world", True),  # 10 / 11
        ("anls", "hallo", "hello", False),  # 4 / 5
        ("exact", "The two.", "2", True),
        ("exact", "none", "None", True),
        ("exact", "red", "blue", False),
        ("vqa", "red", "Red", True),
    ],
)
def test_answers_are_judged(rule: str, answer: str, truth: str, right: bool) -> None:
    assert is_right(rule, answer, question(truth)) is right


def test_anls_is_one_minus_the_distance() -> None:
    assert anls("abcd", "abcd") == 1.0
    assert anls("kitten", "sitting") == pytest.approx(1 - 3 / 7)
    assert anls("abc", "xyz") == 0.0 == anls("ab", "abcde")  # below one half
    assert relaxed("nan", "1") == 0.0


@pytest.mark.parametrize("answer", ["B", "(B)", "B. blue", "blue", "Blue.", "the answer is B"])
@pytest.mark.parametrize("truth", ["B", "b)", "blue"])
def test_choices_by_letter_or_text(answer: str, truth: str) -> None:
    question_asked = question(truth, choices=("red", "blue", "light green"))
    assert is_right("choice", answer, question_asked)
    assert not is_right("choice", "A", question_asked) and not is_right("choice", "green", question_asked)


def test_vqa_accuracy_of_ten_annotators() -> None:
    question_asked = question("red", answers=("red",) * 3 + ("dark red",) * 7)
    assert score("vqa", "red", question_asked) == pytest.approx(0.9) and not is_right("vqa", "red", question_asked)
    assert is_right("vqa", "dark red", question_asked)


def test_the_rule_of_a_question() -> None:
    assert rule_of(question("a", choices=("a", "b"))) == "choice"
    assert rule_of(question("a", answers=("a",) * 10)) == "vqa"
    assert rule_of(question("a", answers=("a", "b"))) == "exact"
    assert rule_of(question("a", kind="numeric")) == "numeric"
    assert rule_of(question("a", kind="count"), "anls", {"count": "numeric"}) == "numeric"
    assert rule_of(question("a", kind="colour"), "anls", {"count": "numeric"}) == "anls"
    with pytest.raises(RuleError, match="unknown answer rule 'fuzzy'"):
        rule_of(question("a"), "fuzzy")


def test_ground_truths_that_a_rule_cannot_use() -> None:
    with pytest.raises(NoTruth, match="the question has no ground truth"):
        check_truth(question(" "), "exact")
    with pytest.raises(NoTruth, match="not a number"):
        check_truth(question("red"), "numeric")
    with pytest.raises(NoTruth, match="not one of the options"):
        check_truth(question("D", choices=("a", "b")), "choice")
    check_truth(question("none"), "numeric")


@pytest.mark.skipif(importlib.util.find_spec("math_verify") is None, reason="needs math-verify (the extra 'math')")
def test_latex_is_compared_as_mathematics() -> None:
    assert is_right("latex", r"\frac{1}{2}", question("0.5"))
    assert is_right("latex", r"$\sqrt{12}$", question(r"2\sqrt{3}"))
    assert is_right("latex", "None", question("none"))
    assert not is_right("latex", r"\frac{1}{3}", question("0.5"))


def test_without_the_library_latex_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "math_verify":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(RuleError, match=r"pip install 'scramble\[math\]'"):
        score("latex", "1", question("1"))
