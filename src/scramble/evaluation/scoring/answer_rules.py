"""Define the rules that grade generated answers. ``details["rule"]`` of an item names its rule, and :data:`RULES` lists
the rules of each style.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from scramble.evaluation.items import AnswerStyle, EvaluationError, Item, name_hint
from scramble.evaluation.protocols import Protocol
from scramble.evaluation.scoring import mentions
from scramble.grading import crpe, letter_sets, math_answers, open_answers, vqa_accuracy
from scramble.records import Question

UNSCORED = "unscored"
"""Rule of items whose right answers are not public. The replies are stored for export, but not graded."""


def _letters(text: str, answer: str, options: Mapping[str, str]) -> crpe.Reading:
    letters = letter_sets.read_letters(text)
    return letter_sets.same_letters(letters, answer), letters or None


LETTER_RULES: dict[str, Callable[[str, str, Mapping[str, str]], crpe.Reading]] = {"letters": _letters, **crpe.RULES}
"""Functions that take a reply, the right letter and the options. They return whether the reply is right, and its
letter.
"""


def _vqa(item: Item, record: Question, text: str, protocol: Protocol) -> tuple[float, str]:
    return vqa_accuracy.vqa_accuracy(text, record.answers, protocol.vqa_accuracy) / 100, text.strip()


def _exact(item: Item, record: Question, text: str, protocol: Protocol) -> tuple[float, str]:
    return float(vqa_accuracy.exact_match(text, record.answer)), text.strip()


def _mmmu_open(item: Item, record: Question, text: str, protocol: Protocol) -> tuple[float, str]:
    return float(open_answers.mmmu_open_correct(text, record.answers)), text.strip()


def _mathvista(item: Item, record: Question, text: str, protocol: Protocol) -> tuple[float, str]:
    right, parsed = open_answers.mathvista_correct(text, record.answer, record.choices, item.details)
    return float(right), parsed


def _mathvision(item: Item, record: Question, text: str, protocol: Protocol) -> tuple[float, str]:
    right, parsed = math_answers.mathvision_correct(text, record.answer, record.choices)
    return float(right), parsed


def _mathverse(item: Item, record: Question, text: str, protocol: Protocol) -> tuple[float, str]:
    parsed = math_answers.extract_mathverse(text, tuple(item.options))
    return float(math_answers.mathverse_equal(parsed, record.answer)), parsed


ShortRule = Callable[[Item, Question, str, Protocol], tuple[float, str]]


def _best_answer(rule: Callable[[str, str], float]) -> ShortRule:
    """Return a rule that applies ``rule`` to a reply and each accepted answer, and returns the highest score."""
    return lambda item, record, text, protocol: (max(rule(text, answer) for answer in record.answers), text.strip())


SHORT_RULES: dict[str, ShortRule] = {
    "vqa": _vqa,
    "exact": _exact,
    "mmmu_open": _mmmu_open,
    "mathvista": _mathvista,
    "mathvision": _mathvision,
    "mathverse": _mathverse,
    **{name: _best_answer(rule) for name, rule in open_answers.VLMEVALKIT_RULES.items()},
}
"""Functions that map an item, its question, the reply and the protocol to the accuracy in [0, 1] and the parsed answer.
The rule of items without ``details["rule"]`` is ``vqa``.
"""

RULES: dict[AnswerStyle, tuple[str, ...]] = {
    "quad": (),
    "captions": (),
    "yes_no": (UNSCORED,),
    "letter": (UNSCORED, *LETTER_RULES),
    "short": (UNSCORED, *SHORT_RULES),
    "closed": (UNSCORED,),
    "free": (UNSCORED, *mentions.RULES),
    "rationale": (),
}
"""The accepted values of ``details["rule"]``, by style of the item."""


def check_rule(item: Item) -> None:
    """Raise EvaluationError if the style of an item is unknown, or if the item's rule does not belong to its style."""
    if item.style not in RULES:
        raise EvaluationError(
            f"item {item.item_id}: the style {item.style!r} is unknown {name_hint(item.style, RULES)}"
        )
    rules = RULES[item.style]
    if "rule" in item.details and (rule := item.details["rule"]) not in rules:
        fix = name_hint(rule, rules) if rules else '(omit details["rule"])'
        raise EvaluationError(f"item {item.item_id}: the style {item.style!r} has no rule {rule!r} {fix}")
