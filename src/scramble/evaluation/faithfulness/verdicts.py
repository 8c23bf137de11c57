"""Compute scores from the verdicts on the steps of a rationale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scramble.grading import final_answers, rationales
from scramble.records import Question

SUPPORTED, UNSUPPORTED, UNREADABLE = "supported", "unsupported", "unreadable"


@dataclass(frozen=True, slots=True)
class Judged:
    """A judged reply: its scores, its steps with verdicts, and its answer ("" if the reply has no answer)."""

    values: dict[str, float]
    steps: list[dict[str, str]]
    answer: str


def scored(
    rationale: rationales.Rationale,
    verdicts: Sequence[str],
    sorts: Mapping[str, float],
    needed: float,
    question: Question,
) -> Judged:
    """Compute the scores from the verdicts on a rationale's steps."""
    supported = [verdict == SUPPORTED for verdict in verdicts]
    faithful = float(bool(supported) and all(supported) and needed == 1.0)
    accepted = {_plain(answer) for answer in (question.answer, *question.answers)}
    right = float(any(_plain(form) in accepted for form in final_answers.forms(rationale.answer)))
    values = {
        "faithfulness": true_share(supported, empty=0.0),
        **sorts,
        "needed": needed,
        "faithful": faithful,
        "accuracy": right,
        "right_and_faithful": faithful * right,
    }
    steps = [{"step": step, "verdict": verdict} for step, verdict in zip(rationale.steps, verdicts, strict=True)]
    return Judged(values, steps, rationale.answer)


def true_share(values: Sequence[bool], *, empty: float) -> float:
    """Return the share of values that are true, or ``empty`` if there are no values."""
    return sum(values) / len(values) if values else empty


def _plain(answer: str) -> str:
    return " ".join(answer.lower().strip(" .'\"").split())
