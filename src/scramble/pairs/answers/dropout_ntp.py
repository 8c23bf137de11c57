"""Create DropoutNTP pairs, in which a model's answer is preferred to one partly generated without the image.

In MPO (arXiv 2411.10442), the answer is truncated after a fraction of its words, and the same model continues the first
part without the image. The rejected text is the first part followed by this continuation. No ground truth is needed.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from scramble.engines import Engine, Message, Reply, ReplyStore, Request, ask_each
from scramble.pairs.answers.requests import Case, case_of
from scramble.pairs.base import Skip
from scramble.records import Edit, ImageFile, ImageRecord, PreferencePair, Question, same_text

KIND = "dropout-ntp"
_WORD = re.compile(r"\S+")


@dataclasses.dataclass(frozen=True, slots=True)
class TruncatedAnswer:
    """A question with the model's answer and the part of the answer that precedes the continuation."""

    case: Case
    answer: str
    prefix: str


class DropoutNTP:
    """Generates an answer with the image, and continues the first part of the answer without the image.

    ``counts`` contains the number of questions for each outcome.
    """

    def __init__(
        self,
        engine: Engine,
        store: ReplyStore,
        *,
        start_ratio: float = 0.5,
        temperature: float = 1.0,
        top_k: int | None = 50,
        top_p: float = 1.0,
        max_tokens: int = 1024,
        seed: int = 0,
    ) -> None:
        """
        Args:
            store: stores the replies, so that a resumed run does not request them again.
            start_ratio: fraction of the answer's words to keep, in [0, 1). With 0, the whole rejected answer is
                generated without the image.
            top_k: number of most likely tokens to sample from. Use None or 0 for servers without this option.
            max_tokens: maximum number of new tokens of the answer, and of its continuation.

        Raises:
            ValueError: ``start_ratio`` is not in [0, 1).
        """
        if not 0 <= start_ratio < 1:
            raise ValueError(f"pairs.options.start_ratio must be in [0, 1), not {start_ratio}")
        self.counts: Counter[str] = Counter()
        self._engine, self._store = engine, store
        self._ratio, self._seed = start_ratio, seed
        self._settings: dict[str, Any] = {
            "temperature": temperature,
            "top_k": top_k or 0,
            "top_p": top_p,
            "max_tokens": max_tokens,
            "seed": seed,
        }

    def pairs(
        self, questions: Iterable[Question], images: Mapping[str, ImageFile]
    ) -> Iterator[tuple[Question, PreferencePair | Skip]]:
        """Yield each question, in order, with its pair or the reason why it has no pair.

        Raises:
            EngineError: the server, model or key cannot work. Earlier replies are stored.
        """
        for truncated, replies in ask_each(
            self._engine, self._store, self._truncated_answers(questions, images), self._continuation
        ):
            outcome = replies if isinstance(replies, Skip) else self._pair(truncated, replies[0])
            self.counts[outcome.reason if isinstance(outcome, Skip) else "pairs"] += 1
            yield truncated.case.question, outcome

    def totals(self) -> dict[str, Any]:
        """Return the requests, tokens and cost of the engine, and the number of questions for each outcome."""
        return {"generator": dataclasses.asdict(self._engine.totals), "outcomes": dict(self.counts.most_common())}

    def _truncated_answers(
        self, questions: Iterable[Question], images: Mapping[str, ImageFile]
    ) -> Iterator[tuple[TruncatedAnswer, Skip | None]]:
        def cases() -> Iterator[tuple[Case, Skip | None]]:
            for question in questions:
                if question.image_ids:
                    yield case_of(question, images)
                else:
                    yield Case(question, ()), Skip("no image to leave out")

        for case, replies in ask_each(self._engine, self._store, cases(), self._ask):
            if isinstance(replies, Skip):
                yield TruncatedAnswer(case, "", ""), replies
            elif reason := replies[0].fault:
                yield TruncatedAnswer(case, "", ""), Skip(reason)
            else:
                answer = replies[0].text.strip()
                prefix = first_words(answer, self._ratio)
                too_short = prefix == answer or (not prefix and self._ratio > 0)
                yield TruncatedAnswer(case, answer, prefix), Skip("answer too short to truncate") if too_short else None

    def _ask(self, case: Case) -> list[Request]:
        return [Request((Message("user", case.question.question, case.images),), **self._settings)]

    def _continuation(self, truncated: TruncatedAnswer) -> list[Request]:
        messages = [Message("user", truncated.case.question.question)]
        if truncated.prefix:
            messages.append(Message("assistant", truncated.prefix))
        return [Request(tuple(messages), **self._settings)]

    def _pair(self, truncated: TruncatedAnswer, reply: Reply) -> PreferencePair | Skip:
        if reason := reply.fault:
            return Skip(f"continuation: {reason}")
        rejected = joined(truncated.prefix, reply.text)
        if same_text(rejected, truncated.answer):
            return Skip("the continuation equals the answer")
        question = truncated.case.question
        start = len(truncated.prefix)
        return PreferencePair(
            pair_id=f"{question.question_id}-{KIND}",
            image_ids=question.image_ids,
            prompt=question.question,
            chosen=truncated.answer,
            rejected=rejected,
            kind=KIND,
            rule=f"{KIND}.{self._ratio:g} {self._engine.model}",
            edits=(Edit((start, len(truncated.answer)), (start, len(rejected))),),
            seed=self._seed,
            source="mpo",
            details={"question": question.question_id, "kept": truncated.prefix},
        )


def describe(images: Iterable[ImageRecord], prompt: str) -> Iterator[Question]:
    """Yield a request for a description of each image, as a question without an answer."""
    for image in images:
        yield Question(image.image_id, (image.image_id,), prompt, "", kind="describe")


def first_words(text: str, share: float) -> str:
    """Return the first words of a text: the fraction ``share`` of its words, rounded down."""
    words = list(_WORD.finditer(text))
    count = int(len(words) * share)
    return text[: words[count - 1].end()] if count else ""


def joined(prefix: str, continuation: str) -> str:
    """Join the first words of an answer and their continuation.

    If a server repeats the first words, the repetition is removed. If a server strips the leading space, the space is
    restored, because an answer is always truncated between words.
    """
    continuation = continuation.rstrip()
    if prefix and continuation.lstrip().startswith(prefix):
        return continuation.strip()
    space = " " if prefix and continuation[:1].isalnum() else ""
    return (prefix + space + continuation).strip()
