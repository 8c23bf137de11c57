"""DropoutNTP: a model's own answer preferred to the answer that it ends blindly, from its first half and no image.

Source: MPO, arXiv 2411.10442: the answer is cut after a share of its words, the same model goes on without the image;
the rejected text is the kept half with that continuation. Needs no ground truth.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from scramble.engines import Engine, Message, Reply, ReplyStore, Request, ask_each
from scramble.pairs.answers.requests import Case, case_of, no_reply
from scramble.pairs.base import Skip
from scramble.records import Edit, ImageFile, ImageRecord, PreferencePair, Question, same_text

KIND = "dropout-ntp"
_WORD = re.compile(r"\S+")


@dataclasses.dataclass(frozen=True, slots=True)
class Cut:
    """A question with the model's answer and the part of it that is kept."""

    case: Case
    answer: str
    kept: str


class DropoutNTP:
    """Asks with the image, cuts, and asks for the rest without it. ``counts`` says what became of the questions."""

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
            store: where replies are kept and looked up.
            start_ratio: share of the answer's words that is kept, in [0, 1); 0 keeps none: a blind answer.
            top_k: None or 0 for servers that do not know it.
            max_tokens: of the answer, and of its continuation.

        Raises:
            ValueError: a ratio outside of its bounds.
        """
        if not 0 <= start_ratio < 1:
            raise ValueError(f"start_ratio={start_ratio}: the share of words that is kept must be in [0, 1)")
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
        """Each question with its pair, in order, or why it has none. Raises EngineError when asking is vain."""
        for cut, replies in ask_each(self._engine, self._store, self._cuts(questions, images), self._go_on):
            found = replies if isinstance(replies, Skip) else self._pair(cut, replies[0])
            self.counts[found.reason if isinstance(found, Skip) else "pairs"] += 1
            yield cut.case.question, found

    def totals(self) -> dict[str, Any]:
        """What the engine has done so far (requests, tokens, cost), and what became of the questions."""
        return {"generator": dataclasses.asdict(self._engine.totals), "outcomes": dict(self.counts.most_common())}

    def _cuts(
        self, questions: Iterable[Question], images: Mapping[str, ImageFile]
    ) -> Iterator[tuple[Cut, Skip | None]]:
        def cases() -> Iterator[tuple[Case, Skip | None]]:
            for question in questions:
                if question.image_ids:
                    yield case_of(question, images)
                else:
                    yield Case(question, ()), Skip("no image to leave out")

        for case, replies in ask_each(self._engine, self._store, cases(), self._ask):
            if isinstance(replies, Skip):
                yield Cut(case, "", ""), replies
            elif reason := no_reply(replies[0]):
                yield Cut(case, "", ""), Skip(reason)
            else:
                answer = replies[0].text.strip()
                kept = first_words(answer, self._ratio)
                too_short = kept == answer or (not kept and self._ratio > 0)
                yield Cut(case, answer, kept), Skip("answer too short to cut") if too_short else None

    def _ask(self, case: Case) -> list[Request]:
        return [Request((Message("user", case.question.question, case.images),), **self._settings)]

    def _go_on(self, cut: Cut) -> list[Request]:
        messages = [Message("user", cut.case.question.question)]
        if cut.kept:
            messages.append(Message("assistant", cut.kept))
        return [Request(tuple(messages), **self._settings)]

    def _pair(self, cut: Cut, reply: Reply) -> PreferencePair | Skip:
        if reason := no_reply(reply):
            return Skip(f"continuation: {reason}")
        rejected = joined(cut.kept, reply.text)
        if same_text(rejected, cut.answer):
            return Skip("the continuation is the answer")
        question = cut.case.question
        start = len(cut.kept)
        return PreferencePair(
            pair_id=f"{question.question_id}-{KIND}",
            image_ids=question.image_ids,
            prompt=question.question,
            chosen=cut.answer,
            rejected=rejected,
            kind=KIND,
            rule=f"{KIND}.{self._ratio:g} {self._engine.model}",
            edits=(Edit((start, len(cut.answer)), (start, len(rejected))),),
            seed=self._seed,
            source="mpo",
            details={"question": question.question_id, "kept": cut.kept},
        )


def describe(images: Iterable[ImageRecord], prompt: str) -> Iterator[Question]:
    """A question without an answer about each image: its description."""
    for image in images:
        yield Question(image.image_id, (image.image_id,), prompt, "", kind="describe")


def first_words(text: str, share: float) -> str:
    """The text up to the end of the last of its first words; ``share`` of them, rounded down."""
    words = list(_WORD.finditer(text))
    count = int(len(words) * share)
    return text[: words[count - 1].end()] if count else ""


def joined(kept: str, continuation: str) -> str:
    """Kept words and continuation as one text.

    Some servers send the beginning back: it is not said twice. Some cut the space off: kept words are whole ones.
    """
    continuation = continuation.rstrip()
    if kept and continuation.lstrip().startswith(kept):
        return continuation.strip()
    space = " " if kept and continuation[:1].isalnum() else ""
    return (kept + space + continuation).strip()
