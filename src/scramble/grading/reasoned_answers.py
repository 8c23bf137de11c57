"""Read the answer to a question from a chain of thought."""

from __future__ import annotations

import re
from collections.abc import Callable

from scramble.grading import final_answers
from scramble.grading.parsers import LETTER, YES_NO, Options


def final_answer(text: str) -> str:
    """Return the final answer of a chain of thought without markup, or the whole reply if no answer is marked."""
    answer = final_answers.find(text)
    return text if answer is None else answer


def internvl_answer(text: str) -> str:
    """Apply InternVL's rule for a chain of thought: return the rest of the line after the first ``Final answer:`` or
    ``Answer:``, or the whole reply if neither occurs."""
    match = re.search(r"(?:final answer:|answer:)\s*(.*)", text, re.IGNORECASE)
    return match[1].strip() if match else text


COT_ANSWERS: dict[str, Callable[[str], str]] = {
    "marked": final_answer,
    "internvl": internvl_answer,
    "reply": lambda text: text,
}
"""Maps the name of a rule to a function that returns the part of a reply from which the answer is parsed."""


def final_yes_no(text: str, parser: str) -> str | None:
    """Parse ``yes`` or ``no`` from the final answer of a chain of thought.

    ``parser`` names the parser to use if the final answer is not marked or is ambiguous.
    """
    answer = final_answers.find(text)
    result = final_answers.yes_no(answer) if answer is not None else None
    return result or YES_NO[parser](final_answers.after_thought(text) if answer is None else answer)


def final_letter(text: str, options: Options, parser: str) -> str | None:
    """Parse the option letter from the final answer of a chain of thought.

    ``parser`` names the parser to use if the final answer is not marked or is ambiguous.
    """
    answer = final_answers.find(text)
    result = final_answers.letter(answer, options) if answer is not None else None
    return result or LETTER[parser](final_answers.after_thought(text) if answer is None else answer, options)
