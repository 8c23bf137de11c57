"""Grading free answers with a language model behind an engine; every reply is cached, so that grading resumes.

MM-Vet (Yu et al. 2024) grades from 0 to 1 in steps of 0.1; SCRAMBLe's paper repeats the grading five times and gives
the mean with 1.96 standard errors over the repetitions. The default prompt is this project's own: for numbers that
compare with published ones pass the benchmark's original few-shot prompt and judge.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scramble.engines.engine import Engine
from scramble.engines.replies import ReplyStore
from scramble.engines.request import Message, Request
from scramble.evaluation.items import EvaluationError, Item
from scramble.evaluation.open_answers import normalise_mathvista
from scramble.evaluation.outcomes import Outcome
from scramble.records import Question

GRADING_PROMPT = """\
Grade a prediction against the ground truth of a question about an image.
In the ground truth, <AND> means that all parts are needed and <OR> that any one of them is enough.
Reply with one number from 0.0 (all wrong) to 1.0 (all right), in steps of 0.1, and nothing else.

Question: {question}
Ground truth: {answer}
Prediction: {prediction}
Grade:"""

EXTRACTION_PROMPT = """\
Read a model's response to a question and give only its final answer: the option's letter in parentheses for multiple
choice, otherwise the number, list or word. Reply with the answer and nothing else.

Question: {question}
Response: {prediction}
Answer:"""


def grade(
    outcomes: Sequence[Outcome],
    items: Sequence[Item],
    engine: Engine,
    folder: str | Path,
    *,
    gradings: int = 5,
    prompt: str = GRADING_PROMPT,
    temperature: float = 0.0,
) -> list[Outcome]:
    """Grade the outcomes that wait for a judge.

    Args:
        outcomes: as the runner left them (status ``judge``); others pass through.
        items: the benchmark's items, for question and ground truth.
        engine: the judge; its ``model`` goes into the outcome's details.
        folder: where replies are kept.
        gradings: independent gradings of each answer.

    Returns:
        Outcomes with ``values["score"]`` the mean grade in [0, 1], and all grades in ``details["grades"]``. One with an
        unreadable grade becomes ``unparsed``.
    Raises:
        EvaluationError: no gradings asked for. EngineError: the judge cannot be reached.
    """
    if gradings < 1:
        raise EvaluationError("gradings must be at least 1")
    questions = {item.item_id: item.record for item in items if isinstance(item.record, Question)}
    waiting = [o for o in outcomes if o.status == "judge"]
    texts = [
        prompt.format(question=questions[o.item_id].question, answer=o.target, prediction=o.prediction) for o in waiting
    ]
    requests = [
        Request((Message("user", text),), temperature=temperature, max_tokens=16, sample=k)
        for text in texts
        for k in range(gradings)
    ]
    replies = iter(_ask(engine, requests, folder))
    graded = {}
    for o in waiting:
        grades = [read_grade(next(replies)) for _ in range(gradings)]
        details = {**o.details, "judge": engine.model, "grades": grades}
        if any(g is None for g in grades):
            graded[o.item_id] = dataclasses.replace(o, status="unparsed", values={"score": 0.0}, details=details)
        else:
            mean = float(np.mean([g for g in grades if g is not None]))
            graded[o.item_id] = dataclasses.replace(o, status="ok", values={"score": mean}, details=details)
    return [graded.get(o.item_id, o) for o in outcomes]


def read_grade(text: str) -> float | None:
    """The first number from 0 to 1 in a judge's reply, None if there is none."""
    match = re.search(r"(?<![\d.])(?:0(?:\.\d+)?|1(?:\.0+)?)(?![\d.]*\d)", text)
    return float(match.group()) if match else None


def over_gradings(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The score in percent as SCRAMBLe's paper gives it: mean over the gradings, 1.96 standard errors over them.

    ``grading_interval`` is half the width in points; it says how stable the judge is, not how large the sample.
    """
    graded = [o.details["grades"] for o in outcomes if "grades" in o.details]
    if not graded:
        raise EvaluationError("no graded outcomes; run grade() first")
    runs = 100 * np.array([[0.0 if g is None else g for g in grades] for grades in graded]).mean(axis=0)
    spread = float(runs.std(ddof=1)) if len(runs) > 1 else float("nan")
    return {
        "value": float(runs.mean()),
        "grading_interval": 1.96 * spread / len(runs) ** 0.5,
        "gradings": runs.tolist(),
    }


def extract(outcomes: Sequence[Outcome], items: Sequence[Item], engine: Engine, folder: str | Path) -> list[Outcome]:
    """MathVista's way: a language model extracts the answer, rules compare it; replaces the rule-based extraction."""
    by_id = {item.item_id: item for item in items}
    requests = [Request((Message("user", _extraction(by_id[o.item_id], o)),), max_tokens=64) for o in outcomes]
    found = []
    for o, reply in zip(outcomes, _ask(engine, requests, folder), strict=True):
        item = by_id[o.item_id]
        assert isinstance(item.record, Question)
        read = normalise_mathvista(reply.strip(), item.record.choices, item.details)
        details = {**o.details, "extraction": engine.model}
        values = {"accuracy": float(read is not None and read == item.record.answer)}
        status = "unparsed" if read is None else "ok"
        found.append(dataclasses.replace(o, values=values, prediction=read, status=status, details=details))
    return found


def _extraction(item: Item, o: Outcome) -> str:
    assert isinstance(item.record, Question)
    return EXTRACTION_PROMPT.format(question=item.record.question, prediction=o.details.get("response", o.prediction))


def _ask(engine: Engine, requests: Sequence[Request], folder: str | Path) -> list[str]:
    with ReplyStore(folder) as store:
        replies = list(engine.generate(requests, store))
    if failed := [reply.error for reply in replies if reply.error]:
        raise EvaluationError(
            f"the judge {engine.model} left {len(failed)} requests unanswered (first: {failed[0]}); run again"
        )
    return [reply.text for reply in replies]


def judged_scores(table: Mapping[str, dict[str, Any]], outcomes: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """Scores of judged outcomes with the gradings' interval beside the sampling error."""
    over = over_gradings(outcomes)
    return {**table, "score": {**table["score"], **over}}
