"""Grading with a language model behind an engine what rules cannot; every reply is kept, so that grading resumes.

Three tasks. MM-Vet's free answers (Yu et al. 2024) are graded from 0 to 1 in steps of 0.1; SCRAMBLe's paper repeats the
grading five times and gives the mean with 1.96 standard errors over the repetitions. MathVista's answers are extracted
from the response, and compared by rule. The faithfulness of a chain of thought is the share of its statements that the
judge, shown the image, says are true of it.

The prompts are this project's own: for numbers that compare with published ones pass the benchmark's original prompt
and judge. Which judge and prompt were used stands in a result's protocol as ``grading``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from scramble.engines import Engine, Message, ReplyStore, Request
from scramble.engines.request import encoded
from scramble.evaluation.items import EvaluationError, Item
from scramble.evaluation.protocols import Protocol
from scramble.evaluation.scoring.outcomes import Outcome
from scramble.grading import final_answers
from scramble.grading.open_answers import normalise_mathvista
from scramble.grading.parsers import YES_NO
from scramble.records import ImageFile, Question
from scramble.storage.hashing import content_key

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

FAITHFULNESS_PROMPT = """\
Is this statement true of the image? Reply with yes or no and nothing else.

Statement: {statement}
Answer:"""


@dataclass(frozen=True)
class Judge:
    """A language model that grades; call it with outcomes as the runner left them.

    Attributes:
        engine: the judge, and ``store``, where its replies are kept.
        gradings: independent gradings of each free answer.
        faithfulness: ask about the statements of generated reasoning, too (``protocol=cot``).
        *_prompt: with the fields of the defaults above.
    """

    engine: Engine
    store: ReplyStore
    gradings: int = 5
    temperature: float = 0.0
    faithfulness: bool = False
    grading_prompt: str = GRADING_PROMPT
    extraction_prompt: str = EXTRACTION_PROMPT
    faithfulness_prompt: str = FAITHFULNESS_PROMPT

    def __post_init__(self) -> None:
        if self.gradings < 1:
            raise EvaluationError(f"judge.gradings must be at least 1, not {self.gradings}")
        for name, default in (
            ("grading_prompt", GRADING_PROMPT),
            ("extraction_prompt", EXTRACTION_PROMPT),
            ("faithfulness_prompt", FAITHFULNESS_PROMPT),
        ):
            wanted = re.findall(r"\{\w+\}", default)
            if missing := [field for field in wanted if field not in getattr(self, name)]:
                raise EvaluationError(f"judge.{name} has no {', '.join(missing)}")

    def __call__(
        self, outcomes: Sequence[Outcome], items: Sequence[Item], images: Mapping[str, ImageFile]
    ) -> list[Outcome]:
        """The outcomes with what the judge made of them.

        Free answers get ``values["score"]``, the mean grade in [0, 1], and all grades in ``details["grades"]``;
        one with an unreadable grade becomes ``unparsed``. Answers that wait for extraction are read anew. With
        ``faithfulness`` each response gets ``values["faithfulness"]``, 0 where it states nothing.

        Raises:
            EvaluationError: a request that the judge leaves unanswered; faithfulness without generated reasoning.
            EngineError: the judge cannot be reached.
        """
        by_id = {item.item_id: item for item in items}
        found = _grade(self, list(outcomes), by_id)
        found = _extract(self, found, by_id)
        return _faithfulness(self, found, by_id, images) if self.faithfulness else found

    def ask(self, requests: Sequence[Request]) -> list[str]:
        """The judge's replies. Raises EvaluationError if one is missing; the others are kept."""
        replies = list(self.engine.generate(requests, self.store))
        if failed := [reply.error for reply in replies if reply.error]:
            raise EvaluationError(
                f"the judge {self.engine.model} left {len(failed)} requests unanswered (first: {failed[0]}); run again"
            )
        return [reply.text for reply in replies]


def grading(items: Sequence[Item], protocol: Protocol, judge: Judge | None) -> dict[str, str]:
    """What a result's protocol says of grading, for benchmarks that need any: who read the answers, and how."""
    said = {}
    if any(item.style == "free" for item in items):
        if protocol.free_grader == "contains":
            said["grading"] = "by rule (parts of the ground truth found in the answer), no judge"
        elif judge is None:
            said["grading"] = "none yet (answers wait for a judge)"
        else:
            how = f"temperature {judge.temperature:g}, {_label(judge.grading_prompt, GRADING_PROMPT)}"
            said["grading"] = f"{judge.gradings} gradings by {judge.engine.model}, {how}"
    elif any("extraction" in item.details for item in items):
        how = "rule, no judge"
        if judge is not None:
            how = f"{judge.engine.model}, {_label(judge.extraction_prompt, EXTRACTION_PROMPT)}"
        said["grading"] = f"extraction by {how}"
    if judge is not None and judge.faithfulness:
        how = _label(judge.faithfulness_prompt, FAITHFULNESS_PROMPT)
        said["faithfulness"] = f"statements judged by {judge.engine.model}, {how}"
    return said


def _label(prompt: str, own: str) -> str:
    return "own prompt" if prompt == own else f"prompt {content_key(prompt)[:8]}"


def _fill(prompt: str, **values: object) -> str:
    """The prompt with its fields filled in; other braces stay as they are."""
    return re.sub(r"\{(\w+)\}", lambda match: str(values.get(match[1], match[0])), prompt)


def _question(item: Item) -> Question:
    assert isinstance(item.record, Question)
    return item.record


# ------------------------------------------------------------------------------------------------------- free answers


def _grade(judge: Judge, outcomes: list[Outcome], items: Mapping[str, Item]) -> list[Outcome]:
    requests = [
        Request((Message("user", text),), temperature=judge.temperature, max_tokens=16, sample=k)
        for o in outcomes
        if o.status == "judge"
        for text in [
            _fill(
                judge.grading_prompt,
                question=_question(items[o.item_id]).question,
                answer=o.target,
                prediction=o.prediction,
            )
        ]
        for k in range(judge.gradings)
    ]
    replies = iter(judge.ask(requests))
    graded = []
    for o in outcomes:
        if o.status != "judge":
            graded.append(o)
            continue
        grades = [read_grade(reply) for reply in islice(replies, judge.gradings)]
        readable = [g for g in grades if g is not None]
        whole = len(readable) == len(grades)
        graded.append(
            dataclasses.replace(
                o,
                status="ok" if whole else "unparsed",
                details={**o.details, "grades": grades},
                values={"score": float(np.mean(readable)) if whole else 0.0},
            )
        )
    return graded


def read_grade(text: str) -> float | None:
    """The first number from 0 to 1 in a judge's reply, None if there is none."""
    match = re.search(r"(?<![\d.])(?:0(?:\.\d+)?|1(?:\.0+)?)(?![\d.]*\d)", text)
    return float(match.group()) if match else None


def over_gradings(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The score in percent as SCRAMBLe's paper gives it: mean over the gradings, 1.96 standard errors over them.

    ``grading_interval`` is half the width in points (None for one grading); it says how stable the judge is, not how
    large the sample.
    """
    graded = [o.details["grades"] for o in outcomes if "grades" in o.details]
    if not graded:
        raise EvaluationError("no graded outcomes: let a judge grade them first")
    runs = 100 * np.array([[0.0 if g is None else g for g in grades] for grades in graded]).mean(axis=0)
    half = 1.96 * float(runs.std(ddof=1)) / len(runs) ** 0.5 if len(runs) > 1 else None
    return {"value": float(runs.mean()), "grading_interval": half, "gradings": runs.tolist()}


def judged_scores(table: Mapping[str, dict[str, Any]], outcomes: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """Scores with the gradings' interval beside the sampling error, where a judge graded."""
    if not any("grades" in o.details for o in outcomes):
        return dict(table)
    return {**table, "score": {**table["score"], **over_gradings(outcomes)}}


# --------------------------------------------------------------------------------------------------------- extraction


def _extract(judge: Judge, outcomes: list[Outcome], items: Mapping[str, Item]) -> list[Outcome]:
    """MathVista's way: a language model extracts the answer, rules compare it; replaces the extraction by rule."""
    wanted = [o for o in outcomes if "extraction" in o.details]
    texts = [
        _fill(judge.extraction_prompt, question=_question(items[o.item_id]).question, prediction=o.details["response"])
        for o in wanted
    ]
    replies = judge.ask([Request((Message("user", text),), max_tokens=64) for text in texts])
    found = {}
    for o, reply in zip(wanted, replies, strict=True):
        record = _question(items[o.item_id])
        read = normalise_mathvista(reply.strip(), record.choices, items[o.item_id].details)
        found[o.item_id] = dataclasses.replace(
            o,
            values={"accuracy": float(read is not None and read == record.answer)},
            prediction=read,
            status="unparsed" if read is None else "ok",
            details={**o.details, "extraction": "judge"},
        )
    return [found.get(o.item_id, o) for o in outcomes]


# ------------------------------------------------------------------------------------------------------- faithfulness


def _faithfulness(
    judge: Judge, outcomes: list[Outcome], items: Mapping[str, Item], images: Mapping[str, ImageFile]
) -> list[Outcome]:
    if not all("response" in o.details for o in outcomes):
        raise EvaluationError("faithfulness needs generated reasoning, not likelihoods: choose protocol=cot")
    said = [statements(o.details["response"]) for o in outcomes]
    requests = [
        Request((Message("user", _fill(judge.faithfulness_prompt, statement=statement), shown),), max_tokens=8)
        for o, found in zip(outcomes, said, strict=True)
        for shown in [tuple(encoded(images[name]) for name in items[o.item_id].image_ids)]
        for statement in found
    ]
    replies = iter(judge.ask(requests))
    judged = []
    for o, found in zip(outcomes, said, strict=True):
        answers = [YES_NO["words"](reply) for reply in islice(replies, len(found))]
        share = sum(answer == "yes" for answer in answers) / len(answers) if answers else 0.0
        details = {**o.details, "statements": dict(zip(found, answers, strict=True))}
        judged.append(dataclasses.replace(o, values={**o.values, "faithfulness": share}, details=details))
    return judged


def statements(response: str) -> list[str]:
    """The distinct sentences of a chain of thought, without its final answer."""
    parts = re.split(r"(?<=[.!?])\s+|\n+", final_answers.before(response))
    return list(dict.fromkeys(part.strip() for part in parts if re.search(r"\w", part)))
