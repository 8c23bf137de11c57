"""Write and parse rationales: one step per line, then ``Final answer:`` and the answer on the last line.

Training data, replies and judges use this form, so the replies of a model that was trained on rationales can be scored.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from scramble.grading import final_answers

MARKER = "Final answer:"
ASK = "{question}\nReason step by step, one step a line, then end with 'Final answer:' and the answer."

_MARKER = re.compile(r"\banswer\s*:", re.IGNORECASE)
_BULLET = re.compile(r"^\s*(?:[-*•]|\(?\d{1,2}[.):]|step \d{1,2}\s*[.:)])\s*", re.IGNORECASE)
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\"'])")


@dataclass(frozen=True, slots=True)
class Rationale:
    """Contains the steps of a rationale in order, and its answer ("" if there is none)."""

    steps: tuple[str, ...]
    answer: str


def ask(question: str, template: str = ASK) -> str:
    """Return the prompt that asks for a rationale. Raises ValueError for a template without ``{question}``."""
    if "{question}" not in template:
        raise ValueError(f"the prompt for rationales must contain {{question}}: {template!r}")
    return template.replace("{question}", question)


def write(steps: Sequence[str], answer: str) -> str:
    """Return a rationale as text."""
    return "\n".join([*steps, f"{MARKER} {answer}"])


def read(text: str) -> Rationale:
    """Parse the steps and the answer of a rationale from any source (data, model or user).

    Each sentence of each line is a step. Bullets and step numbers are removed. The answer is the text after the last
    ``Final answer:`` (or ``Answer:``) up to the end of the line.
    """
    rest = ""
    if marked := final_answers.stated(text):
        inner = list(_MARKER.finditer(marked.answer))  # "Final answer: ... Answer: red"
        rest = final_answers.unwrap(marked.answer[inner[-1].end() :]) if inner else marked.answer
        text = final_answers.before(text)
    elif marks := list(_MARKER.finditer(text)):
        rest, text = final_answers.unwrap(text[marks[-1].end() :]), text[: marks[-1].start()].rstrip("*_ \n")
    answer = final_answers.unwrap(rest.splitlines()[0]) if rest else ""
    lines = (_BULLET.sub("", line).strip() for line in text.splitlines())
    steps = [part.strip() for line in lines for part in _SENTENCE.split(line)]
    return Rationale(tuple(step for step in steps if step), answer)
