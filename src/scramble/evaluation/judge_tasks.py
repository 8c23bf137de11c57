"""Define the prompts with which a judge grades the answers to MMHal-Bench, LLaVA-Bench, HallusionBench and Object
HalBench, and the parsers of the judge's replies.

The default prompts were written for this project. An item for which the judge's reply cannot be read gets the status
``unread`` and is excluded from all scores except the scores with ``official`` in their names, because the authors'
scripts include these items.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import fmean
from typing import Any

from scramble.engines import Message, Request
from scramble.evaluation.items import Item
from scramble.evaluation.judge_extraction import Ask, fill
from scramble.evaluation.scoring.mentions import Measured, of_mentions
from scramble.evaluation.scoring.outcomes import Outcome
from scramble.grading import judge_replies, objects

MMHAL_PROMPT = """\
Judge how much a model's response tells about an image, and whether it says anything false about it. You cannot see the
image; the objects in it and a correct answer are given. Uncertainty and general knowledge are not errors.
Give your reasons first, in a few sentences. End with a line "Rating: n" and one number:
responses without a false statement get 3 (tells nothing), 4 (some), 5 (much) or 6 (much, and well reasoned);
responses with a false statement get 0 (tells nothing), 1 (some) or 2 (much).

Objects in the image: {contents}
Question: {question}
Correct answer: {answer}
Response: {prediction}"""

LLAVA_BENCH_PROMPT = """\
Compare two answers to a question about an image. You do not see the image; a description of it is given. Score each
answer from 1 to 10 for helpfulness, relevance, accuracy and detail. Their order must not influence the scores.
The first line of your reply contains only the two scores, separated by a blank: first that of answer 1, then that of
answer 2. Explain them in the following lines.

Description of the image: {context}
Question: {question}
Answer 1: {reference}
Answer 2: {prediction}"""

HALLUSIONBENCH_PROMPT = """\
Does a model's answer to a question agree with the correct answer? Reply with one word: "correct" if it agrees,
"incorrect" if it does not, "unclear" if it gives no definite answer.

Question: {question}
Correct answer: {answer}
Model's answer: {prediction}"""

OBJECT_HALBENCH_PROMPT = """\
List the visible objects that an answer says are in an image. Take the answer to be true. Give names of objects only,
without colours, materials or other attributes, and nothing that the answer does not mention. Reply with a JSON list of
strings in one line, [] if there are none, and with nothing else.

Question: {question}
Answer: {prediction}"""


@dataclass(frozen=True)
class JudgeTask:
    """How a judge grades the answers to one benchmark.

    Attributes:
        prompt: the default prompt.
        max_tokens: maximum number of tokens of a reply.
        is_graded: whether each answer is graded ``judge.gradings`` times; otherwise the judge is asked once per answer.
        read: function that parses a reply to an item; returns None if the reply cannot be parsed.
        measure: function that computes the values and details of the outcome from the parsed replies, the number of
            unreadable replies, and the item.
        short: answers of up to this many words are not sent to the judge; their parsed reply is an empty list.
    """

    prompt: str
    max_tokens: int
    is_graded: bool
    read: Callable[[str, Item], Any]
    measure: Callable[[Sequence[Any], int, Item], Measured]
    short: int = 0


def _mmhal(ratings: Sequence[int], unread: int, item: Item) -> Measured:
    official = [*ratings, *[0] * unread]
    values = {  # scores are multiplied by 100 for display, so the division keeps ratings in points from 0 to 6
        "official_score": fmean(official) / 100,
        "official_hallucination_rate": fmean(rating < 3 for rating in official),
    }
    if ratings:
        values["score"] = fmean(ratings) / 100
        values["hallucination_rate"] = fmean(rating < 3 for rating in ratings)
    return values, {}


def _llava_bench(pairs: Sequence[judge_replies.Pair], unread: int, item: Item) -> Measured:
    if not pairs:
        return {}, {}
    reference, candidate = (fmean(scores) / 10 for scores in zip(*pairs, strict=True))
    return {"reference": reference, "candidate": candidate}, {}


def _hallusionbench(verdicts: Sequence[int], unread: int, item: Item) -> Measured:
    """Return the accuracy of an answer. An unclear answer counts as right only if the question is of category VS and
    has no image.
    """
    right = (1, 2) if item.kind == "VS" and not item.image_ids else (1,)
    return ({"accuracy": float(verdicts[0] in right)} if verdicts else {}), {}


def _object_halbench(lists: Sequence[list[str]], unread: int, item: Item) -> Measured:
    if not lists:
        return {}, {}
    found = objects.named_objects(lists[0], item.details["pipeline"])
    return of_mentions(objects.object_halbench().among(found), item.details["truth"])


def _names(text: str, item: Item) -> list[str] | None:
    """Return the names in a judge's reply, which may be a fenced Markdown code block. Return None if the reply is not a
    list of strings.
    """
    try:
        names = objects.parse_object_list(re.sub(r"^```\w*\s*\n|\n\s*```$", "", text.strip()))
    except (ValueError, RecursionError):  # a reply of a thousand opening brackets is nested too deeply for json
        return None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


TASKS: dict[str, JudgeTask] = {
    "mmhal": JudgeTask(MMHAL_PROMPT, 512, True, lambda text, item: judge_replies.mmhal_rating(text), _mmhal),
    "llava_bench": JudgeTask(
        LLAVA_BENCH_PROMPT,
        1024,
        True,
        lambda text, item: judge_replies.LLAVA_PAIRS[item.details["reader"]](text),
        _llava_bench,
    ),
    "hallusionbench": JudgeTask(
        HALLUSIONBENCH_PROMPT, 16, False, lambda text, item: judge_replies.hallusion_verdict(text), _hallusionbench
    ),
    "object_halbench": JudgeTask(OBJECT_HALBENCH_PROMPT, 512, False, _names, _object_halbench, short=3),
}
"""Tasks by name. An item names its task in ``details["judge"]``."""


def judged(
    outcomes: Sequence[Outcome],
    items: Mapping[str, Item],
    ask: Ask,
    prompts: Mapping[str, str],
    gradings: int,
    temperature: float,
) -> list[Outcome]:
    """Return the outcomes with the judge's results for the items that have a task.

    Args:
        outcomes: outcomes with the status ``judge`` are judged; all other outcomes are returned unchanged.
        items: items by id.
        ask: sends requests to the judge and returns its replies.
        prompts: prompts by name.
        gradings: number of gradings per answer, for graded tasks.
        temperature: sampling temperature of graded tasks; all other tasks use greedy decoding.
    """
    plans = {o.item_id: _requests(o, items[o.item_id], prompts, gradings, temperature) for o in outcomes}
    replies = iter(ask([request for requests in plans.values() for request in requests]))
    return [_result(o, items[o.item_id], list(islice(replies, len(plans[o.item_id])))) for o in outcomes]


def _task(o: Outcome, item: Item) -> JudgeTask | None:
    return TASKS.get(item.details.get("judge", "")) if o.status == "judge" else None


def _requests(o: Outcome, item: Item, prompts: Mapping[str, str], gradings: int, temperature: float) -> list[Request]:
    task = _task(o, item)
    answer = o.prediction or ""
    if task is None or (task.short and len(answer.split()) <= task.short):
        return []
    fields = {"question": getattr(item.record, "question", ""), "answer": o.target, **item.details.get("fields", {})}
    message = Message("user", fill(prompts[item.details["judge"]], **fields, prediction=answer))
    if not task.is_graded:
        return [Request((message,), max_tokens=task.max_tokens)]
    return [
        Request((message,), temperature=temperature, max_tokens=task.max_tokens, sample=number)
        for number in range(gradings)
    ]


def _result(o: Outcome, item: Item, replies: Sequence[str]) -> Outcome:
    task = _task(o, item)
    if task is None:
        return o
    read = [task.read(reply, item) for reply in replies] if replies else [[]]
    readable = [value for value in read if value is not None]
    values, details = task.measure(readable, len(read) - len(readable), item)
    return dataclasses.replace(
        o,
        values=values,
        status="ok" if readable else "unread",
        details={**o.details, **details, "judged": read},
    )
