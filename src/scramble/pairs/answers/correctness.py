"""Correctness pairs: of many sampled answers to a question, the right ones preferred to the wrong ones.

A response is right if its final answer is, wrong if that is wrong or absent. A response that states an answer in
another form than it was asked for is neither: it is the rejected side of a *format pair*. Source: MPO, arXiv
2411.10442; what its released pipeline does is told in docs/mpo_data.md.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scramble.engines import Engine, Message, Reply, ReplyStore, Request, ask_each
from scramble.grading.rules import NoTruth, check_truth, is_right, rule_of
from scramble.pairs.answers.prompts import Said, Style, load_style, read
from scramble.pairs.answers.requests import Case, case_of, no_reply
from scramble.pairs.base import Skip, seeded
from scramble.records import ImageFile, PreferencePair, Question

KIND, FORMAT_KIND = "correctness", "format"


@dataclass(frozen=True, slots=True)
class Response:
    """A distinct response and what it says."""

    text: str
    said: Said


@dataclass
class Sorted:
    """The distinct responses to a question by what they are worth, each in a random order."""

    right: list[Response] = field(default_factory=list)
    wrong: list[Response] = field(default_factory=list)
    malformed: list[Response] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Found:
    """The pairs of a question."""

    correctness: tuple[PreferencePair, ...]
    format: tuple[PreferencePair, ...]


class CorrectnessPairs:
    """Samples responses and pairs right with wrong ones. ``counts`` says what became of responses and questions."""

    def __init__(
        self,
        engine: Engine,
        store: ReplyStore,
        *,
        styles: Sequence[str] = ("steps", "boxed", "think"),
        samples: int = 32,
        pairs: int = 15,
        temperature: float = 1.0,
        top_k: int | None = 50,
        top_p: float = 1.0,
        max_tokens: int = 1024,
        rule: str = "auto",
        rules: Mapping[str, str] | None = None,
        seed: int = 0,
    ) -> None:
        """
        Args:
            store: where replies are kept and looked up.
            styles: names of :data:`scramble.pairs.answers.prompts.STYLES`; a question gets one, drawn by the seed.
            samples: responses sampled for a question.
            pairs: pairs of a question, at most; format pairs likewise.
            top_k: None or 0 for servers that do not know it.
            rule, rules: how answers are judged, and by the questions' kinds
                (:func:`scramble.grading.rules.rule_of`).

        Raises:
            StyleError, ValueError: unknown style, or fewer than two samples.
        """
        if samples < 2 or pairs < 1:
            raise ValueError(f"samples={samples}, pairs={pairs}: a pair needs two responses")
        self.counts: Counter[str] = Counter()
        self._engine, self._store = engine, store
        self._styles = [load_style(name) for name in styles]
        if not self._styles:
            raise ValueError("styles is empty: name at least one")
        self._pairs, self._seed = pairs, seed
        self._rule, self._rules = rule, dict(rules or {})
        self._samples = samples
        self._settings: dict[str, Any] = {
            "temperature": temperature,
            "top_k": top_k or 0,
            "top_p": top_p,
            "max_tokens": max_tokens,
            "seed": seed,
        }

    def pairs(
        self, questions: Iterable[Question], images: Mapping[str, ImageFile]
    ) -> Iterator[tuple[Question, Found | Skip]]:
        """Each question with its pairs, in order, or why it has none. Raises EngineError when asking is vain."""

        def cases() -> Iterator[tuple[Case, Skip | None]]:
            for question in questions:
                try:
                    check_truth(question, rule_of(question, self._rule, self._rules))
                except NoTruth as reason:
                    yield Case(question, ()), Skip(str(reason))
                else:
                    yield case_of(question, images)

        for case, replies in ask_each(self._engine, self._store, cases(), self._requests):
            found = replies if isinstance(replies, Skip) else self._pair(case.question, replies)
            self.counts["questions without pairs" if isinstance(found, Skip) else "questions with pairs"] += 1
            yield case.question, found

    def totals(self) -> dict[str, Any]:
        """What the engine has done so far (requests, tokens, cost), and what became of responses and questions."""
        return {"generator": dataclasses.asdict(self._engine.totals), "outcomes": dict(self.counts.most_common())}

    def _style(self, question: Question) -> Style:
        return seeded(self._seed, "style", question.question_id).choice(self._styles)

    def _requests(self, case: Case) -> list[Request]:
        message = Message("user", self._style(case.question).ask(case.question), case.images)
        return [Request((message,), sample=n, **self._settings) for n in range(self._samples)]

    def _pair(self, question: Question, replies: Sequence[Reply]) -> Found | Skip:
        style, rule = self._style(question), rule_of(question, self._rule, self._rules)
        usable: dict[str, None] = {}
        reasons: Counter[str] = Counter()
        for reply in replies:
            if reason := no_reply(reply):
                reasons[reason] += 1
            else:
                usable[reply.text.strip()] = None
        self.counts.update(reasons)
        if not usable:
            return Skip(reasons.most_common(1)[0][0])
        rng = seeded(self._seed, "pairs", question.question_id)
        texts = sorted(usable)
        rng.shuffle(texts)
        responses = self._sort(texts, style, rule, question)
        correctness = self._couple(question, style, rule, KIND, responses.right, responses.wrong)
        malformed = self._couple(question, style, rule, FORMAT_KIND, responses.right, responses.malformed)
        if correctness or malformed:
            return Found(correctness, malformed)
        return Skip(_why_none(responses))

    def _sort(self, texts: Sequence[str], style: Style, rule: str, question: Question) -> Sorted:
        found = Sorted()
        for text in texts:
            said = read(style, text)
            response = Response(text, said)
            if said.answer is None:
                found.wrong.append(response)
                self.counts["responses without an answer"] += 1
            elif said.fault:
                found.malformed.append(response)
                self.counts[f"malformed: {said.fault}"] += 1
            elif is_right(rule, said.answer, question):
                found.right.append(response)
                self.counts["right responses"] += 1
            else:
                found.wrong.append(response)
                self.counts["wrong responses"] += 1
        return found

    def _couple(
        self, question: Question, style: Style, rule: str, kind: str, right: list[Response], other: list[Response]
    ) -> tuple[PreferencePair, ...]:
        """At most ``pairs`` pairs, every response used before one is used again."""
        couples = (
            (chosen, other[(n + turn) % len(other)]) for turn in range(len(other)) for n, chosen in enumerate(right)
        )
        found: list[PreferencePair] = []
        for chosen, rejected in couples:
            if kind == KIND and contained(chosen.said.answer or "", rejected.said.answer):
                self.counts["pairs left out: one answer in the other"] += 1
                continue
            found.append(self._record(question, style, rule, kind, chosen, rejected, len(found)))
            if len(found) == self._pairs:
                break
        return tuple(found)

    def _record(
        self, question: Question, style: Style, rule: str, kind: str, chosen: Response, rejected: Response, number: int
    ) -> PreferencePair:
        details = {
            "question": question.question_id,
            "kind": question.kind,
            "answer": question.answer,
            "judged_by": rule,
            "chosen_answer": chosen.said.answer,
            "rejected_answer": rejected.said.answer,
        }
        if rejected.said.fault:
            details["fault"] = rejected.said.fault
        return PreferencePair(
            pair_id=f"{question.question_id}-{kind}-{number}",
            image_ids=question.image_ids,
            prompt=style.ask(question),
            chosen=chosen.text,
            rejected=rejected.text,
            kind=kind,
            rule=f"{kind}.{style.name}@{style.key} {self._engine.model}",
            seed=self._seed,
            source="mpo",
            details=details,
        )


def contained(positive: str, negative: str | None) -> bool:
    """Whether the right answer stands in the wrong one ("4" in "14"), so that the pair would teach too little."""
    if negative is None:
        return False
    a, b = (" ".join(text.lower().split()) for text in (positive, negative))
    return a in b


def _why_none(responses: Sorted) -> str:
    if not responses.right:
        return "no right response"
    if not responses.wrong:
        return "all responses right"
    return "every wrong answer contains the right one"
