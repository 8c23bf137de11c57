"""Use a language model behind an engine to grade answers that rules cannot grade.

Every reply is stored, so an interrupted grading run can resume.

MM-Vet's free answers (Yu et al. 2024) are graded from 0 to 1 in steps of 0.1. In SCRAMBLe's paper, the grading was
repeated five times, and the mean ± 1.96 standard errors over the repetitions was reported. For MathVista, MathVerse and
LogicVista, the judge extracts the final answer from the response (:mod:`scramble.evaluation.judge_extraction`). The
faithfulness of a chain of thought is the share of its statements that the judge, which sees the image, calls true.
:mod:`scramble.evaluation.judge_tasks` handles all other benchmarks that need a judge.

The default prompts were written for this project. To compute scores that are comparable with published scores, use the
benchmark's original prompt and judge. A result's protocol records the judge and the prompt as ``grading``.
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
from scramble.evaluation import judge_extraction, judge_tasks
from scramble.evaluation.items import EvaluationError, Item
from scramble.evaluation.judge_extraction import fill, question_of
from scramble.evaluation.protocols import Protocol
from scramble.evaluation.scoring.earlier import NOT_GRADED_YET
from scramble.evaluation.scoring.outcomes import Outcome
from scramble.grading import final_answers
from scramble.grading.parsers import YES_NO
from scramble.records import ImageFile
from scramble.storage.hashing import content_key

GRADING_PROMPT = """\
Grade a prediction against the ground truth of a question about an image.
In the ground truth, <AND> means that all parts are needed and <OR> that any one of them is enough.
Reply with one number from 0.0 (all wrong) to 1.0 (all right), in steps of 0.1, and nothing else.

Question: {question}
Ground truth: {answer}
Prediction: {prediction}
Grade:"""

FAITHFULNESS_PROMPT = """\
Is this statement true of the image? Reply with yes or no and nothing else.

Statement: {statement}
Answer:"""


PROMPTS = {
    "grading": GRADING_PROMPT,
    "extraction": judge_extraction.EXTRACTION_PROMPT,
    "comparison": judge_extraction.COMPARISON_PROMPT,
    "letters": judge_extraction.LETTERS_PROMPT,
    "faithfulness": FAITHFULNESS_PROMPT,
} | {name: task.prompt for name, task in judge_tasks.TASKS.items()}
"""The default prompts by name. The setting ``judge.<name>_prompt`` replaces a default prompt."""


@dataclass(frozen=True)
class Judge:
    """A language model that grades the runner's outcomes.

    Attributes:
        engine: engine of the judge; the replies are stored in ``store``.
        gradings: number of independent gradings of each free answer.
        faithfulness: whether to judge the statements of generated reasoning as well (needs ``protocol=cot``).
        *_prompt: prompts; each must contain all fields of its default prompt.
    """

    engine: Engine
    store: ReplyStore
    gradings: int = 5
    temperature: float = 0.0
    faithfulness: bool = False
    grading_prompt: str = GRADING_PROMPT
    extraction_prompt: str = judge_extraction.EXTRACTION_PROMPT
    comparison_prompt: str = judge_extraction.COMPARISON_PROMPT
    letters_prompt: str = judge_extraction.LETTERS_PROMPT
    faithfulness_prompt: str = FAITHFULNESS_PROMPT
    mmhal_prompt: str = judge_tasks.MMHAL_PROMPT
    llava_bench_prompt: str = judge_tasks.LLAVA_BENCH_PROMPT
    hallusionbench_prompt: str = judge_tasks.HALLUSIONBENCH_PROMPT
    object_halbench_prompt: str = judge_tasks.OBJECT_HALBENCH_PROMPT

    def __post_init__(self) -> None:
        if self.gradings < 1:
            raise EvaluationError(f"judge.gradings must be at least 1, not {self.gradings}")
        for name, default in PROMPTS.items():
            fields = re.findall(r"\{\w+\}", default)
            if missing := [field for field in fields if field not in self.prompts[name]]:
                raise EvaluationError(
                    f"judge.{name}_prompt does not contain {' or '.join(missing)}: the prompt must contain "
                    f"{', '.join(fields)}"
                )

    @property
    def prompts(self) -> dict[str, str]:
        """The prompts, by the names in :data:`PROMPTS`."""
        return {name: getattr(self, f"{name}_prompt") for name in PROMPTS}

    def __call__(
        self, outcomes: Sequence[Outcome], items: Sequence[Item], images: Mapping[str, ImageFile]
    ) -> list[Outcome]:
        """Return the outcomes with the judge's verdicts.

        The mean grade of an MM-Vet answer, in [0, 1], is stored in ``values["score"]``, and all its grades are stored
        in ``details["grades"]``. The status of an answer with an unreadable grade is ``unparsed``. The answers that the
        judge extracts replace the answers that were extracted by rule. With ``faithfulness``, the share of true
        statements in each response is stored in ``values["faithfulness"]``. This share is 0 for a response without
        statements.

        Raises:
            EvaluationError: a request has no reply, or faithfulness is requested without generated reasoning.
            EngineError: the judge cannot be reached.
        """
        by_id = {item.item_id: item for item in items}
        judged = judge_tasks.judged(outcomes, by_id, self.ask, self.prompts, self.gradings, self.temperature)
        judged = _grade(self, judged, by_id)
        judged = judge_extraction.extract(judged, by_id, self.ask, self.prompts)
        return _faithfulness(self, judged, by_id, images) if self.faithfulness else judged

    def ask(self, requests: Sequence[Request]) -> list[str]:
        """Return the judge's replies. Raises EvaluationError if a reply is missing; all received replies are stored."""
        replies = list(self.engine.generate(requests, self.store))
        if failed := [reply.error for reply in replies if reply.error]:
            raise EvaluationError(
                f"the judge {self.engine.model} did not answer {len(failed)} of {len(replies)} requests (first error: "
                f"{failed[0]}): repeat the command, which sends only these requests again"
            )
        return [reply.text for reply in replies]


def grading(items: Sequence[Item], protocol: Protocol, judge: Judge | None) -> dict[str, str]:
    """Return the entries ``grading`` and ``faithfulness`` of a result's protocol, which record who graded the answers
    and how. Entries that do not apply to the items are omitted.
    """
    record = {}
    if task := next((item.details["judge"] for item in items if "judge" in item.details), None):
        record["grading"] = NOT_GRADED_YET if judge is None else _task_record(task, judge)
    elif text := next((item.details["grading"] for item in items if "grading" in item.details), None):
        record["grading"] = text
    elif any(item.style == "free" and "rule" not in item.details for item in items):
        if protocol.free_grader == "contains":
            record["grading"] = "by rule (parts of the ground truth contained in the answer), no judge"
        elif judge is None:
            record["grading"] = NOT_GRADED_YET
        else:
            how = f"temperature {judge.temperature:g}, {_label(judge, 'grading')}"
            record["grading"] = f"{judge.gradings} gradings by {judge.engine.model}, {how}"
    elif rules := {str(item.details["rule"]) for item in items if "extraction" in item.details}:
        how = "rule, no judge"
        if judge is not None:
            names = [name for rule in sorted(rules) for name in judge_extraction.PROMPTS[rule]]
            how = f"{judge.engine.model}, {', '.join(dict.fromkeys(_label(judge, name) for name in names))}"
        record["grading"] = f"extraction by {how}"
    if judge is not None and judge.faithfulness:
        record["faithfulness"] = f"statements judged by {judge.engine.model}, {_label(judge, 'faithfulness')}"
    return record


def _task_record(task: str, judge: Judge) -> str:
    if not judge_tasks.TASKS[task].is_graded:
        return f"by {judge.engine.model}, {_label(judge, task)}"
    gradings = f"{judge.gradings} grading{'s' * (judge.gradings > 1)}"
    return f"{gradings} by {judge.engine.model}, temperature {judge.temperature:g}, {_label(judge, task)}"


def _label(judge: Judge, name: str) -> str:
    prompt = judge.prompts[name]
    return "own prompt" if prompt == PROMPTS[name] else f"prompt {content_key(prompt)[:8]}"


# ------------------------------------------------------------------------------------------------------- free answers


def _grade(judge: Judge, outcomes: Sequence[Outcome], items: Mapping[str, Item]) -> list[Outcome]:
    waiting = [o for o in outcomes if o.status == "judge"]
    requests = []
    for o in waiting:
        question = question_of(items[o.item_id]).question
        text = fill(judge.grading_prompt, question=question, answer=o.target, prediction=o.prediction)
        requests += [
            Request((Message("user", text),), temperature=judge.temperature, max_tokens=16, sample=number)
            for number in range(judge.gradings)
        ]
    replies = iter(judge.ask(requests))
    graded = {o.item_id: _graded(o, [read_grade(reply) for reply in islice(replies, judge.gradings)]) for o in waiting}
    return [graded.get(o.item_id, o) for o in outcomes]


def _graded(o: Outcome, grades: list[float | None]) -> Outcome:
    readable = [grade for grade in grades if grade is not None]
    details = {**o.details, "grades": grades}
    if len(readable) < len(grades):
        return dataclasses.replace(o, status="unparsed", details=details, values={"score": 0.0})
    return dataclasses.replace(o, status="ok", details=details, values={"score": float(np.mean(readable))})


def read_grade(text: str) -> float | None:
    """Return the first number from 0 to 1 in a judge's reply, or None if the reply has no such number."""
    match = re.search(r"(?<![\d.])(?:0(?:\.\d+)?|1(?:\.0+)?)(?![\d.]*\d)", text)
    return float(match.group()) if match else None


def over_gradings(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the mean score over the gradings in percent, with 1.96 standard errors over the gradings, as in SCRAMBLe's
    paper.

    ``grading_interval`` is half the width of the interval in percentage points (None if there is only one grading). The
    interval measures how stable the judge is, not the sampling error.
    """
    graded = [o.details["grades"] for o in outcomes if "grades" in o.details]
    if not graded:
        raise EvaluationError("no outcome has been graded: grade the outcomes with a judge first")
    runs = 100 * np.array([[0.0 if g is None else g for g in grades] for grades in graded]).mean(axis=0)
    half = 1.96 * float(runs.std(ddof=1)) / len(runs) ** 0.5 if len(runs) > 1 else None
    return {"value": float(runs.mean()), "grading_interval": half, "gradings": runs.tolist()}


def judged_scores(table: Mapping[str, dict[str, Any]], outcomes: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """Return the scores. If a judge graded the answers, ``score`` includes the interval over gradings in addition to
    the sampling error.
    """
    if not any("grades" in o.details for o in outcomes):
        return dict(table)
    return {**table, "score": {**table["score"], **over_gradings(outcomes)}}


# ------------------------------------------------------------------------------------------------------- faithfulness


def _faithfulness(
    judge: Judge, outcomes: list[Outcome], items: Mapping[str, Item], images: Mapping[str, ImageFile]
) -> list[Outcome]:
    if not all("response" in o.details for o in outcomes):
        raise EvaluationError(
            "judge.faithfulness needs generated reasoning, but the protocol scores likelihoods: set protocol=cot"
        )
    sentence_lists = [statements(o.details["response"]) for o in outcomes]
    requests = [
        Request((Message("user", fill(judge.faithfulness_prompt, statement=statement), shown),), max_tokens=8)
        for o, sentences in zip(outcomes, sentence_lists, strict=True)
        for shown in [tuple(encoded(images[name]) for name in items[o.item_id].image_ids)]
        for statement in sentences
    ]
    replies = iter(judge.ask(requests))
    judged = []
    for o, sentences in zip(outcomes, sentence_lists, strict=True):
        answers = [YES_NO["words"](reply) for reply in islice(replies, len(sentences))]
        share = sum(answer == "yes" for answer in answers) / len(answers) if answers else 0.0
        details = {**o.details, "statements": dict(zip(sentences, answers, strict=True))}
        judged.append(dataclasses.replace(o, values={**o.values, "faithfulness": share}, details=details))
    return judged


def statements(response: str) -> list[str]:
    """Return the distinct sentences of a chain of thought, without its final answer."""
    parts = re.split(r"(?<=[.!?])\s+|\n+", final_answers.before(response))
    return list(dict.fromkeys(part.strip() for part in parts if re.search(r"\w", part)))
