"""Build the prompt for a question, and parse the final answer of the model's reply.

The instructions in ``prompts/`` were written for this project.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

from scramble.evaluation.protocols import options
from scramble.grading import final_answers, rationales
from scramble.records import Question
from scramble.storage.hashing import content_key

PLACE = "{question}"
OTHER_MARK = "the final answer is marked in another way"
MOST_MARKS = 2  # "Final answer:" may occur once in the text before it marks the final answer
_THOUGHT = re.compile(r"\s*<think>(.*?)</think>(.*)", re.DOTALL)


class StyleError(ValueError):
    """Raised if a style is unknown. The message names the available styles."""


@dataclass(frozen=True, slots=True)
class Style:
    """A prompt style: an instruction that contains the question, and the mark of the final answer in the reply.

    ``mark`` is ``final`` ("Final answer: ..."), ``boxed``, ``think`` (reasoning between tags, then ``final``) or
    ``whole`` (the reply is the answer). ``line_breaks`` is the minimum number of line breaks in a well-formed reply.
    """

    name: str
    mark: str
    line_breaks: int
    template: str

    @property
    def key(self) -> str:
        """The content key of the instruction."""
        return content_key(self.template)

    def ask(self, question: Question) -> str:
        """Return the prompt: the question, its lettered options if it has any, and the instruction."""
        listed = f"\n{options(question.choices)}" if question.choices else ""
        return self.template.replace(PLACE, question.question + listed)


# Each style has a mark and a minimum number of line breaks. The first six styles are the paper's three instructions and
# its three kinds of chain of thought. The last two styles are our additions: the rationale that SceneAlign trains on,
# and the question alone.
STYLES: dict[str, tuple[str, int]] = {
    "steps": ("final", 2),
    "boxed": ("boxed", 2),
    "think": ("think", 2),
    "background": ("final", 2),
    "visual": ("final", 2),
    "grounded": ("final", 2),
    "rationale": ("final", 1),
    "direct": ("whole", 0),
}


@cache
def load_style(name: str) -> Style:
    """Return a style by name. Raises StyleError for an unknown name."""
    if name not in STYLES:
        raise StyleError(f"unknown prompt style {name!r}: choose one of {', '.join(STYLES)}")
    mark, line_breaks = STYLES[name]
    if name == "direct":
        template = PLACE
    elif name == "rationale":
        template = rationales.ASK
    else:
        folder = resources.files("scramble.pairs.answers").joinpath("prompts")
        template = folder.joinpath(f"{name}.txt").read_text(encoding="utf-8").rstrip("\n")
    return Style(name, mark, line_breaks, template)


@dataclass(frozen=True, slots=True)
class ParsedReply:
    """A parsed reply: its final answer (None if it has none), and its format error ("" if it is well-formed)."""

    answer: str | None
    fault: str = ""


def parse_reply(style: Style, text: str) -> ParsedReply:
    """Parse the final answer of a reply and check that the reply has the requested form.

    In a well-formed reply, the answer is on one line. Unless the mark is ``whole``, the reply also contains a
    rationale, at least ``style.line_breaks`` line breaks, and at most two marks.
    """
    if style.mark == "whole":
        answer = text.strip()
        return ParsedReply(answer or None, "answer on several lines" if "\n" in answer else "")
    fault, rationale, rest = "", text, text
    if style.mark == "think":
        thought = _THOUGHT.fullmatch(text)
        if thought is None or "<think>" in thought.group(2) + thought.group(1) or "</think>" in thought.group(2):
            fault = "not exactly one thought between tags"
            rest = text.rpartition("</think>")[2]
        else:
            rationale, rest = thought.group(1), thought.group(2)
    read_mark, read_other = (_boxed, _final) if style.mark == "boxed" else (_final, _boxed)
    stated, marks, before, lines = read_mark(rest)
    if stated is None:
        other = read_other(rest)[0]
        return ParsedReply(other, fault or OTHER_MARK) if other else ParsedReply(None, fault)
    if style.mark != "think":
        rationale = before
    return ParsedReply(stated, fault or _fault(style, text, rationale, marks, lines))


def _fault(style: Style, text: str, rationale: str, marks: int, lines: int) -> str:
    if not rationale.strip():
        return "no rationale"
    if text.strip().count("\n") < style.line_breaks:
        return f"fewer than {style.line_breaks} line breaks"
    if marks > MOST_MARKS:
        return f"the final answer is marked more than {MOST_MARKS} times"
    return "answer on several lines" if lines > 1 else ""


def _final(text: str) -> tuple[str | None, int, str, int]:
    """Return the answer, the number of marks, the text before the first mark, and the number of lines of the answer."""
    marked = final_answers.stated(text)
    if marked is None:
        return None, 0, text, 0
    lines = [line for line in marked.answer.splitlines() if line.strip()]
    answer = final_answers.unwrap(lines[0]) if lines else None
    return answer or None, marked.marks, marked.before, len(lines)


def _boxed(text: str) -> tuple[str | None, int, str, int]:
    """Return the same values as :func:`_final`, for the content of the last ``\\boxed{...}``."""
    box = final_answers.boxed(text)
    if box is None:
        return None, 0, text, 0
    answer = final_answers.unwrap(box.answer)
    return answer or None, box.marks, box.before, len(answer.splitlines())
