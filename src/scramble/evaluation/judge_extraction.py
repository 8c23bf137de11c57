"""Let a judge extract the final answers from the responses to MathVista, MathVerse and LogicVista.

MathVista's answers are compared with the correct answers by rule. MathVerse's answers are compared by the judge, unless
they are letters or the texts are equal. For LogicVista, the judge names the letters that a response chooses. The
response is right if these are exactly the letters of the correct answer. If the judge's reply about an answer cannot be
read, the answer gets the status ``unread`` and counts neither as right nor as wrong.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

from scramble.engines import Message, Request
from scramble.evaluation.items import Item
from scramble.evaluation.scoring.outcomes import Outcome
from scramble.grading.letter_sets import judged_letters, same_letters
from scramble.grading.open_answers import normalise_mathvista
from scramble.records import Question

EXTRACTION_PROMPT = """\
Read a model's response to a question and give only its final answer: the option's letter in parentheses for multiple
choice, otherwise the number, list or word. Reply with the answer and nothing else.

Question: {question}
Response: {prediction}
Answer:"""

COMPARISON_PROMPT = """\
Do these two answers to a question mean the same? Accept other notation and rounding, but no other value and no other
option. Reply with 1 for yes or 0 for no and nothing else.

Question: {question}
Right answer: {answer}
Answer to check: {prediction}
Verdict:"""

LETTERS_PROMPT = """\
Read a model's response to a multiple-choice question and give the letters of all options that it chooses, in upper
case without spaces or commas (B, or BD), or Z if it chooses none. Reply with the letters and nothing else.

Question: {question}
Response: {prediction}
Letters:"""

PROMPTS = {"mathvista": ("extraction",), "mathverse": ("extraction", "comparison"), "letters": ("letters",)}
"""Names of the prompts with which the judge extracts and compares answers, by the item's rule."""

LAST_WORDS = 30
"""Number of words at the end of a MathVerse response that are sent to the judge."""


Ask = Callable[[Sequence[Request]], list[str]]
"""Function that sends requests to the judge and returns its replies."""


def extract(
    outcomes: Sequence[Outcome], items: Mapping[str, Item], ask: Ask, prompts: Mapping[str, str]
) -> list[Outcome]:
    """Let the judge extract the answers, and return the outcomes with these answers.

    Args:
        outcomes: all outcomes; an outcome without ``details["extraction"]`` is returned unchanged.
        items: items by id.
        ask: sends requests to the judge and returns its replies.
        prompts: prompts by name.
    """
    waiting = [o for o in outcomes if "extraction" in o.details]
    texts = [
        fill(
            prompts["letters" if _rule(items[o.item_id]) == "letters" else "extraction"],
            question=_asked(items[o.item_id]),
            prediction=_shown(o, items[o.item_id]),
        )
        for o in waiting
    ]
    replies = dict(zip((o.item_id for o in waiting), _replies(ask, texts), strict=True))
    verdicts = _verdicts(waiting, replies, items, ask, prompts["comparison"])
    return [
        _judged(o, items[o.item_id], replies[o.item_id], verdicts.get(o.item_id)) if o.item_id in replies else o
        for o in outcomes
    ]


def read_verdict(text: str) -> bool | None:
    """Return a judge's verdict: True for 1, False for 0, and None if the reply contains neither or both."""
    digits = set(re.findall(r"(?<![\d.])[01](?![\d.]*\d)", text))
    return digits.pop() == "1" if len(digits) == 1 else None


def fill(prompt: str, **values: object) -> str:
    """Return the prompt with its fields filled in. Other braces are left unchanged."""
    return re.sub(r"\{(\w+)\}", lambda match: str(values.get(match[1], match[0])), prompt)


def _rule(item: Item) -> str:
    return str(item.details["rule"])


def question_of(item: Item) -> Question:
    """Return the record of an item that is a question."""
    assert isinstance(item.record, Question)
    return item.record


def _asked(item: Item) -> str:
    return str(item.details.get("judged_question") or question_of(item).question)


def _shown(o: Outcome, item: Item) -> str:
    response = str(o.details["response"])
    return " ".join(response.split()[-LAST_WORDS:]) if _rule(item) == "mathverse" else response


def _replies(ask: Ask, texts: Sequence[str]) -> list[str]:
    return [reply.strip() for reply in ask([Request((Message("user", text),), max_tokens=64) for text in texts])]


def _verdicts(
    outcomes: Sequence[Outcome], replies: Mapping[str, str], items: Mapping[str, Item], ask: Ask, prompt: str
) -> dict[str, bool | None]:
    """Return a dictionary that maps the id of each MathVerse item to True if the extracted answer is right, to False if
    it is wrong, or to None if the judge's reply cannot be read.
    """
    asked = [o for o in outcomes if _rule(items[o.item_id]) == "mathverse"]
    verdicts: dict[str, bool | None] = {}
    for o in asked:
        letter = re.fullmatch(r"\(?([A-Z])\)?\.?", replies[o.item_id]) if items[o.item_id].options else None
        if letter or replies[o.item_id] == o.target.strip():
            verdicts[o.item_id] = letter is None or letter[1] == o.target
    open_ones = [o for o in asked if o.item_id not in verdicts]
    texts = [
        fill(prompt, question=_asked(items[o.item_id]), answer=o.target, prediction=replies[o.item_id])
        for o in open_ones
    ]
    return verdicts | {o.item_id: read_verdict(text) for o, text in zip(open_ones, _replies(ask, texts), strict=True)}


def _judged(o: Outcome, item: Item, reply: str, verdict: bool | None) -> Outcome:
    rule, prediction, status = _rule(item), reply or None, "ok"
    right: bool | None = verdict
    if rule == "mathvista":
        prediction = normalise_mathvista(reply, question_of(item).choices, item.details)
        right = prediction is not None and prediction == question_of(item).answer
        status = "unparsed" if prediction is None else "ok"
    elif rule == "letters":
        prediction = judged_letters(reply)
        right = None if prediction is None else same_letters(prediction, o.target)
        status = "unparsed" if prediction and set(prediction) == {"Z"} else "ok"
    details = {**o.details, "extraction": "judge"}
    if right is None:
        return dataclasses.replace(
            o, values={}, prediction=prediction, status="unread", details={**details, "judge_reply": reply}
        )
    return dataclasses.replace(
        o, values={"accuracy": float(right)}, prediction=prediction, status=status, details=details
    )
