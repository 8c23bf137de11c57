"""Grade answers by a rule that is selected for each question.

A rule returns a score in [0, 1]. An answer is right if its score is above 0.9.

=========== ===========================================================================================================
rule        score
=========== ===========================================================================================================
``exact``   1 if the answer equals an accepted answer after the VQA normaliser (case, articles, number words and
            punctuation)
``vqa``     VQA accuracy against ten or more annotators; with fewer accepted answers, as ``exact``
``choice``  1 if the answer is the letter or the text of the right option
``relaxed`` 1 if two numbers differ by at most 5 %, or if two texts are equal regardless of case (ChartQA: Methani et
            al., arXiv 1909.00997)
``anls``    1 - edit distance / length of the longer text, or 0 if this value is below 0.5 (Biten et al., arXiv
            1905.13648)
``numeric`` 1 if the numbers differ by at most 0.1 % and their units, if both have one, are equal; fractions and
            lists are parsed
``latex``   1 if the answers are mathematically equal according to math-verify (``pip install 'scramble[math]'``)
=========== ===========================================================================================================
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scramble.grading import final_answers
from scramble.grading.open_answers import edit_distance
from scramble.grading.parsers import can_infer
from scramble.grading.vqa_accuracy import NUMBER_WORDS, official, vqa_accuracy
from scramble.records import LETTERS, Question

RIGHT = 0.9
ANNOTATORS = 10  # ``auto`` treats at least this many answers as answers of different annotators, not as spellings


class RuleError(ValueError):
    """Raised if a rule does not exist or cannot be applied.

    The message names the rule and says how to fix the problem.
    """


class NoTruth(ValueError):
    """Raised if a rule cannot use the ground truth of a question. Skipped questions are counted per message."""


def rule_of(question: Question, rule: str = "auto", by_kind: Mapping[str, str] | None = None) -> str:
    """Return the name of the rule for a question.

    The name is the entry of ``by_kind`` for the question's kind. If there is no entry, the name is the kind itself if
    the kind is the name of a rule, and ``rule`` otherwise. ``auto`` selects a rule by the question's options and
    answers.

    Raises:
        RuleError: the rule is unknown.
    """
    name = (by_kind or {}).get(question.kind) or (question.kind if question.kind in RULES else rule)
    if name == "auto":
        if question.choices:
            return "choice"
        return "vqa" if len(question.answers) >= ANNOTATORS else "exact"
    if name not in RULES:
        raise RuleError(f"unknown answer rule {name!r}: choose one of auto, {', '.join(RULES)}")
    return name


def truths(question: Question) -> tuple[str, ...]:
    """Return the accepted answers, first unchanged and then without wrappings such as quotes.

    Raises NoTruth if there are none.
    """
    stated = [a for a in (question.answer, *question.answers) if a.strip()]
    accepted = tuple(dict.fromkeys([*stated, *filter(None, map(final_answers.unwrap, stated))]))
    if not accepted:
        raise NoTruth("the question has no ground truth")
    return accepted


def check_truth(question: Question, rule: str) -> None:
    """Raise NoTruth if the rule cannot use the question's ground truth."""
    accepted = truths(question)
    if rule == "choice":
        _truth_letter(question)
    if rule == "numeric" and not any(quantities(answer) for answer in accepted):
        raise NoTruth("the ground truth is not a number")


def score(rule: str, answer: str, question: Question) -> float:
    """Return the score of an answer in [0, 1].

    The score is the highest score of all forms of the answer (:func:`scramble.grading.final_answers.forms`). The rule
    ``choice`` grades only the unchanged answer.

    Raises:
        NoTruth: the question's ground truth cannot be used.
        RuleError: the rule needs a library that is not installed.
    """
    best = 0.0
    for form in (answer,) if rule == "choice" else final_answers.forms(answer):
        best = max(best, RULES[rule](form, question))
        if best >= 1.0:
            break
    return best


def is_right(rule: str, answer: str, question: Question) -> bool:
    """Return whether the score of an answer is above :data:`RIGHT`."""
    return score(rule, answer, question) > RIGHT


# --------------------------------------------------------------------------------------------------------------- text


def _exact(answer: str, question: Question) -> float:
    return float(official(answer) in {official(truth) for truth in truths(question)})


def _vqa(answer: str, question: Question) -> float:
    if len(question.answers) < ANNOTATORS:  # the answers are accepted spellings, so there is no annotator to exclude
        return _exact(answer, question)
    return vqa_accuracy(answer, question.answers) / 100


def _anls(answer: str, question: Question) -> float:
    return max(anls(answer, truth) for truth in truths(question))


def anls(answer: str, truth: str) -> float:
    """Return the normalised Levenshtein similarity, or 0 if it is below 0.5. Case and extra white space are ignored."""
    a, b = (" ".join(text.lower().split()) for text in (answer, truth))
    if not a and not b:
        return 1.0
    similarity = 1 - edit_distance(a, b) / max(len(a), len(b))
    return similarity if similarity >= 0.5 else 0.0


# ------------------------------------------------------------------------------------------------------------- options


def _choice(answer: str, question: Question) -> float:
    listed = dict(zip(LETTERS, question.choices, strict=False))
    letter_named = next((letter for letter, text in listed.items() if _same(answer, text)), None)
    letter_named = letter_named or final_answers.letter(answer, listed) or can_infer(answer.strip(), listed)
    return float(letter_named == _truth_letter(question))


def _truth_letter(question: Question) -> str:
    (truth, *_) = truths(question)
    letters = LETTERS[: len(question.choices)]
    named = [letter for letter, text in zip(letters, question.choices, strict=True) if _same(truth, text)]
    if named:
        return named[0]
    bare = truth.strip().strip("().:").upper()
    if len(bare) != 1 or bare not in letters:
        raise NoTruth("the ground truth is not one of the options")
    return bare


def _same(a: str, b: str) -> bool:
    return " ".join(a.lower().split()).strip(".") == " ".join(b.lower().split()).strip(".")


# ------------------------------------------------------------------------------------------------------------- numbers

_NUMBER = r"[-+]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?:\.\d+)?(?:[eE][-+]?\d+)?"
_UNIT = r"(?!(?:or|and|to)\b)[%°a-zµΩ]+(?:\^?[23²³])?"
_QUANTITY = re.compile(
    rf"(?:about|approximately|around|roughly|[~≈=])?\s*(?P<sign>[$€£¥])?\s*(?:(?P<whole>\d+)\s+(?=\d+\s*/))?"
    rf"(?P<number>{_NUMBER})(?:\s*/\s*(?P<below>{_NUMBER}))?\s*(?P<unit>{_UNIT}(?:[ /·*-]{_UNIT}){{0,3}}\.?)?",
    re.IGNORECASE,
)


_UNITS = {"percent": "%", "dollars": "$", "dollar": "$", "euros": "€", "euro": "€", "degrees": "°", "degree": "°"}


@dataclass(frozen=True, slots=True)
class Quantity:
    """Represents a number with its unit ("" if there is none)."""

    value: float
    unit: str = ""

    def same(self, other: Quantity, tolerance: float) -> bool:
        """Return whether two quantities are equal within a relative tolerance.

        If both have a unit, the units must be equal too. If only one is a percentage, 50 % equals both 50 and 0.5.
        """
        if self.unit and other.unit and self.unit != other.unit:
            return False
        close = math.isclose(self.value, other.value, rel_tol=tolerance, abs_tol=1e-9)
        if "%" in (self.unit, other.unit) and self.unit != other.unit:
            a, b = (q.value / 100 if q.unit == "%" else q.value for q in (self, other))
            return close or math.isclose(a, b, rel_tol=tolerance, abs_tol=1e-9)
        return close


def quantities(text: str) -> list[Quantity]:
    """Return the quantities in a text that consists of one quantity or a list of quantities, or [] for any other text.

    A quantity has a form such as ``1,234.5``, ``3/4``, ``2 1/2``, ``5 cm``, ``$5``, ``50%``, ``three`` or ``none``
    (zero). Lists are separated by commas, semicolons or "and", with or without brackets.
    """
    text = text.strip().rstrip(".").strip()
    if len(text) > 1 and (text[0], text[-1]) in (("[", "]"), ("(", ")"), ("{", "}")):
        text = text[1:-1]
    parts = [part for part in re.split(r",\s+|;|(?<!\s)\s++and\s+|,(?!\d{3}(?!\d))", text) if part.strip()]
    parsed = [_quantity(part.strip()) for part in parts]
    return [] if None in parsed else [q for q in parsed if q is not None]


def _quantity(text: str) -> Quantity | None:
    first, _, rest = text.lower().partition(" ")
    match = _QUANTITY.fullmatch(f"{NUMBER_WORDS[first]} {rest}".strip() if first in NUMBER_WORDS else text)
    if match is None or not match["number"] or not match["number"].strip("+-"):
        return None
    try:
        value = float(match["number"].replace(",", ""))
        if match["below"]:
            value = value / float(match["below"].replace(",", ""))
        value += float(match["whole"] or 0)
    except (ValueError, ZeroDivisionError):
        return None
    unit = " ".join((match["unit"] or match["sign"] or "").lower().strip(". ").split())
    unit = _UNITS.get(unit, unit)
    return Quantity(value, unit.removesuffix("s") if len(unit) > 2 else unit)


def _numeric(answer: str, question: Question) -> float:
    values = quantities(answer)
    if not values:  # the answer is a sentence: if it contains exactly one number, use this number
        numbers = re.findall(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?", answer)
        values = quantities(numbers[0]) if len(numbers) == 1 else []
    return float(any(_all_same(values, quantities(truth), 1e-3) for truth in truths(question)))


def _all_same(values: Sequence[Quantity], truth: Sequence[Quantity], tolerance: float) -> bool:
    if len(values) != len(truth) or not values:
        return False
    return all(a.same(b, tolerance) for a, b in zip(values, truth, strict=True))


def _relaxed(answer: str, question: Question) -> float:
    return max(relaxed(answer, truth) for truth in truths(question))


def relaxed(answer: str, truth: str) -> float:
    """Return 1 if both texts are numbers (``5%`` is 0.05) and differ by at most 5 %, or if they are equal regardless of
    case. Return 0 otherwise."""
    a, b = _float(answer), _float(truth)
    if a is not None and b is not None:
        return float(a == b if b == 0 else abs(a - b) <= 0.05 * abs(b))
    return float(answer.strip().lower() == truth.strip().lower())


def _float(text: str) -> float | None:
    text = text.strip()
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    try:
        value = float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


# --------------------------------------------------------------------------------------------------------------- LaTeX


def _latex(answer: str, question: Question) -> float:
    try:
        import math_verify
    except ImportError as error:
        raise RuleError(
            "the rule 'latex' needs math-verify, which is not installed: run `pip install 'scramble[math]'`"
        ) from error

    # math-verify implements its time limits (in seconds) with alarms, which only the main thread can set.
    limit = 60 if threading.current_thread() is threading.main_thread() else None

    def parsed(text: str) -> Any:
        # The library parses LaTeX between dollar signs.
        return math_verify.parse(text if "$" in text else f"${text}$", parsing_timeout=limit)

    for truth in truths(question):
        if _same(answer, truth):
            return 1.0
        expected = parsed(truth)
        if expected and math_verify.verify(expected, parsed(answer), timeout_seconds=limit):
            return 1.0
    return 0.0


RULES: dict[str, Callable[[str, Question], float]] = {
    "exact": _exact,
    "vqa": _vqa,
    "choice": _choice,
    "relaxed": _relaxed,
    "anls": _anls,
    "numeric": _numeric,
    "latex": _latex,
}
