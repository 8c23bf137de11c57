"""Create correctness pairs: sample several answers to a question, and prefer correct answers to incorrect ones.

A response in the requested form is correct if its final answer is correct, and otherwise incorrect. A response without
a final answer is incorrect. A response with an answer but without the requested form is neither correct nor incorrect,
and can be the rejected side of a *format pair*.
Source: MPO, arXiv 2411.10442. docs/mpo_data.md lists the differences from the paper.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scramble.engines import Engine, Message, Reply, ReplyStore, Request, ask_each
from scramble.grading.rules import NoTruth, check_truth, is_right, rule_of
from scramble.pairs.answers.prompts import ParsedReply, Style, load_style, parse_reply
from scramble.pairs.answers.requests import Case, case_of
from scramble.pairs.base import Skip, seeded
from scramble.records import ImageFile, PreferencePair, Question

KIND, FORMAT_KIND = "correctness", "format"


@dataclass(frozen=True, slots=True)
class Response:
    """A distinct response and its parsed answer."""

    text: str
    parsed: ParsedReply


@dataclass
class SortedResponses:
    """The distinct responses to a question, grouped by correctness. Each list is in random order."""

    correct: list[Response] = field(default_factory=list)
    incorrect: list[Response] = field(default_factory=list)
    malformed: list[Response] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class QuestionPairs:
    """The correctness pairs and the format pairs of a question."""

    correctness: tuple[PreferencePair, ...]
    format: tuple[PreferencePair, ...]


class CorrectnessPairs:
    """Samples responses, and pairs correct responses with incorrect ones.

    ``counts`` contains the numbers of responses and questions for each outcome.
    """

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
            store: stores the replies, so that a resumed run does not request them again.
            styles: names in :data:`scramble.pairs.answers.prompts.STYLES`. The seed selects one style per question.
            samples: number of responses that are sampled per question.
            pairs: maximum number of correctness pairs per question, and of format pairs per question.
            top_k: number of most likely tokens to sample from. Use None or 0 for servers without this option.
            rule, rules: the rule that grades answers, and rules for single kinds of questions
                (:func:`scramble.grading.rules.rule_of`).

        Raises:
            StyleError: a style is unknown.
            ValueError: ``styles`` is empty, ``samples`` is below 2, or ``pairs`` is below 1.
        """
        if samples < 2:
            raise ValueError(f"pairs.options.samples must be at least 2, not {samples}")
        if pairs < 1:
            raise ValueError(f"pairs.options.pairs must be at least 1, not {pairs}")
        self.counts: Counter[str] = Counter()
        self._engine, self._store = engine, store
        self._styles = [load_style(name) for name in styles]
        if not self._styles:
            raise ValueError("pairs.options.styles is empty: set at least one style")
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
    ) -> Iterator[tuple[Question, QuestionPairs | Skip]]:
        """Yield each question, in order, with its pairs or the reason why it has no pairs.

        Raises:
            EngineError: the server, model or key cannot work. Earlier replies are stored.
        """

        def cases() -> Iterator[tuple[Case, Skip | None]]:
            for question in questions:
                try:
                    check_truth(question, self._rule_of(question))
                except NoTruth as reason:
                    yield Case(question, ()), Skip(str(reason))
                else:
                    yield case_of(question, images)

        for case, replies in ask_each(self._engine, self._store, cases(), self._requests):
            outcome = replies if isinstance(replies, Skip) else self._pair(case.question, replies)
            self.counts["questions without pairs" if isinstance(outcome, Skip) else "questions with pairs"] += 1
            yield case.question, outcome

    def totals(self) -> dict[str, Any]:
        """Return the requests, tokens and cost of the engine, and the numbers of responses and questions by outcome."""
        return {"generator": dataclasses.asdict(self._engine.totals), "outcomes": dict(self.counts.most_common())}

    def _style(self, question: Question) -> Style:
        return seeded(self._seed, "style", question.question_id).choice(self._styles)

    def _rule_of(self, question: Question) -> str:
        return rule_of(question, self._rule, self._rules)

    def _requests(self, case: Case) -> list[Request]:
        message = Message("user", self._style(case.question).ask(case.question), case.images)
        return [Request((message,), sample=n, **self._settings) for n in range(self._samples)]

    def _pair(self, question: Question, replies: Sequence[Reply]) -> QuestionPairs | Skip:
        usable: set[str] = set()
        reasons: Counter[str] = Counter()
        for reply in replies:
            if reason := reply.fault:
                reasons[reason] += 1
            else:
                usable.add(reply.text.strip())
        self.counts.update(reasons)
        if not usable:
            return Skip(reasons.most_common(1)[0][0])
        rng = seeded(self._seed, "pairs", question.question_id)
        texts = sorted(usable)
        rng.shuffle(texts)
        responses = self._sort(question, texts)
        correctness = self._match_pairs(question, KIND, responses.correct, responses.incorrect)
        malformed = self._match_pairs(question, FORMAT_KIND, responses.correct, responses.malformed)
        if correctness or malformed:
            return QuestionPairs(correctness, malformed)
        return Skip(_no_pair_reason(responses))

    def _sort(self, question: Question, texts: Sequence[str]) -> SortedResponses:
        style, rule = self._style(question), self._rule_of(question)
        responses = SortedResponses()
        for text in texts:
            parsed = parse_reply(style, text)
            response = Response(text, parsed)
            if parsed.answer is None:
                responses.incorrect.append(response)
                self.counts["responses without an answer"] += 1
            elif parsed.fault:
                responses.malformed.append(response)
                self.counts[f"malformed: {parsed.fault}"] += 1
            elif is_right(rule, parsed.answer, question):
                responses.correct.append(response)
                self.counts["correct responses"] += 1
            else:
                responses.incorrect.append(response)
                self.counts["incorrect responses"] += 1
        return responses

    def _match_pairs(
        self, question: Question, kind: str, correct: list[Response], other: list[Response]
    ) -> tuple[PreferencePair, ...]:
        """Return at most ``pairs`` pairs. No response is reused before all responses of its side have been used."""
        # Both sides advance with each pair. After each common multiple of their lengths the pairs would repeat, so
        # ``other`` is then shifted by one.
        total, period = len(correct) * len(other), math.lcm(len(correct), len(other))
        couples = ((correct[n % len(correct)], other[(n + n // period) % len(other)]) for n in range(total))
        pairs: list[PreferencePair] = []
        for chosen, rejected in couples:
            if kind == KIND and contained(chosen.parsed.answer or "", rejected.parsed.answer):
                self.counts["pairs left out: one answer contains the other"] += 1
                continue
            pairs.append(self._record(question, kind, chosen, rejected, len(pairs)))
            if len(pairs) == self._pairs:
                break
        return tuple(pairs)

    def _record(
        self, question: Question, kind: str, chosen: Response, rejected: Response, number: int
    ) -> PreferencePair:
        style = self._style(question)
        details = {
            "question": question.question_id,
            "kind": question.kind,
            "answer": question.answer,
            "judged_by": self._rule_of(question),
            "chosen_answer": chosen.parsed.answer,
            "rejected_answer": rejected.parsed.answer,
        }
        if rejected.parsed.fault:
            details["fault"] = rejected.parsed.fault
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
    """Return whether the incorrect answer contains the correct one, as "14" contains "4".

    If it does, the correctness pair is omitted.
    """
    if negative is None:
        return False
    a, b = (" ".join(text.lower().split()) for text in (positive, negative))
    return a in b


def _no_pair_reason(responses: SortedResponses) -> str:
    if not responses.correct:
        return "no correct response"
    if not responses.incorrect:
        return "all responses correct"
    return "every incorrect answer contains the correct one"
