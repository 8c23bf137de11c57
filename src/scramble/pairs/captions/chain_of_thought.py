"""Generate hard negatives with a language model, which changes a caption step by step or abstains.

Source: SCRAMBLe (arXiv 2504.04740). Optionally, a model first corrects typos in captions (greedy decoding, JSON
reply). Another model reasons in steps from a caption to a fluent, plausible, visually different arrangement of its
words, or answers ``NA`` (temperature 0.2, top-p 0.9, at most 800 new tokens). With other prompts, the model swaps or
replaces only objects, attributes or relations. The prompts in ``prompts/`` and their examples were written for this
project. The field ``rule`` of each negative contains the hash of the prompt.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from scramble.engines import Engine, Message, Reply, ReplyStore, Request, ask_each
from scramble.language.spacy_pipeline import DEFAULT_PIPELINE, load_pipeline
from scramble.pairs.base import Caption, Negative, Skip, changed_span
from scramble.pairs.captions.surface import normalise, problem
from scramble.storage.hashing import content_key

MARKER = "Final Output Caption:"
PLACE = "{caption}"
# prompt -> (kind of its negatives, minimum fraction of content words that both texts have in common)
PROMPTS: dict[str, tuple[str, float]] = {
    "rearrange": ("rearrange", 0.8),
    "swap_object": ("swap-object", 0.8),
    "swap_attribute": ("swap-attribute", 0.8),
    "replace_object": ("replace-object", 0.5),
    "replace_attribute": ("replace-attribute", 0.5),
    "replace_relation": ("replace-relation", 0.5),
}
CONTENT = frozenset({"NOUN", "PROPN", "VERB", "ADJ", "NUM"})
CAPTION_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"caption": {"type": "string", "maxLength": 600}},
    "required": ["caption"],
    "additionalProperties": False,
}


class PromptError(ValueError):
    """Raised if a prompt cannot be used. The message names the prompt."""


@dataclass(frozen=True, slots=True)
class PromptFile:
    """A prompt with a placeholder for the caption. ``key`` is its content key."""

    name: str
    text: str
    key: str

    def fill(self, caption: str) -> str:
        """Return the prompt for a caption."""
        return self.text.replace(PLACE, caption)


def load_prompt(name: str | Path) -> PromptFile:
    """Load one of the package's prompts by name, or a prompt file by path.

    Raises:
        PromptError: there is no such prompt, or it does not contain ``{caption}`` exactly once.
    """
    path = Path(name)
    shipped = resources.files("scramble.pairs.captions").joinpath("prompts", f"{name}.txt")
    try:
        text = (path if path.suffix else shipped).read_text(encoding="utf-8")
    except OSError as error:
        raise PromptError(
            f"pairs.options.prompt={name} is neither a prompt of this package nor a readable file: choose one of "
            f"{', '.join(PROMPTS)} or the path of an existing .txt file"
        ) from error
    if text.count(PLACE) != 1:
        raise PromptError(f"pairs.options.prompt={name}: the prompt must contain {PLACE} exactly once")
    return PromptFile(path.stem, text.rstrip("\n"), content_key(text))


class CotGenerator:
    """Generates negatives of captions with a language model, from one or more replies per caption.

    With a ``cleaner``, captions are corrected first. Each caption is then yielded with the corrected text, from which
    its negatives are derived. ``counts`` contains the number of captions for each outcome.
    """

    def __init__(
        self,
        engine: Engine,
        store: ReplyStore,
        *,
        prompt: str | Path = "rearrange",
        cleaner: Engine | None = None,
        pipeline: str | Path = DEFAULT_PIPELINE,
        samples: int = 1,
        temperature: float = 0.2,
        top_p: float = 0.9,
        max_tokens: int = 800,
        length_ratio: tuple[float, float] = (0.7, 1.2),
        content_kept: float | None = None,
        seed: int = 0,
    ) -> None:
        """
        Args:
            store: stores the replies, so that a resumed run does not request them again.
            prompt: one of :data:`PROMPTS`, or a ``.txt`` file that contains :data:`PLACE`.
            cleaner: the engine that corrects typos first. None leaves captions unchanged.
            pipeline: spaCy pipeline with a lemmatizer.
            samples: number of replies per caption.
            length_ratio: minimum and maximum ratio of the word count of a negative to the word count of its caption.
            content_kept: minimum fraction of content lemmas that the caption and the negative share, in [0, 1]. None
                uses the value in :data:`PROMPTS`, or 0.5 for other prompts.
        """
        self.prompt = load_prompt(prompt)
        self.kind, default_kept = PROMPTS.get(self.prompt.name, (self.prompt.name, 0.5))
        self.name = f"cot.{self.prompt.name}"
        self.rule = f"{self.name}@{self.prompt.key} {engine.model}"
        self.counts: Counter[str] = Counter()
        self._engine, self._cleaner, self._store = engine, cleaner, store
        self._clean_prompt = load_prompt("clean")
        if cleaner is not None:
            self.rule += f" clean@{self._clean_prompt.key} {cleaner.model}"
        self._nlp = load_pipeline(pipeline, "lemmatizer")
        self._samples = samples
        self._settings: dict[str, Any] = {
            "temperature": temperature,
            "top_p": top_p,
            "max_tokens": max_tokens,
            "seed": seed,
        }
        self._length_ratio = length_ratio
        self._content_kept = default_kept if content_kept is None else content_kept

    def negatives(self, captions: Iterable[Caption]) -> Iterator[tuple[Caption, list[Negative] | Skip]]:
        """Yield each caption, corrected if there is a cleaner, with its valid negatives, in input order.

        Raises EngineError.
        """
        usable = _usable(captions)
        stream = usable if self._cleaner is None else self._cleaned(usable, self._cleaner)
        for caption, replies in ask_each(self._engine, self._store, stream, self._requests):
            outcome = replies if isinstance(replies, Skip) else self._read(caption, replies)
            self.counts[outcome.reason if isinstance(outcome, Skip) else "used"] += 1
            yield caption, outcome

    def totals(self) -> dict[str, Any]:
        """Return the requests, tokens and cost of each engine, and the number of captions for each outcome."""
        engines = {"generator": self._engine} | ({"cleaner": self._cleaner} if self._cleaner else {})
        return {name: dataclasses.asdict(engine.totals) for name, engine in engines.items()} | {
            "captions": dict(self.counts.most_common())
        }

    def _requests(self, caption: Caption) -> list[Request]:
        message = Message("user", self.prompt.fill(caption.text))
        return [Request((message,), sample=i, **self._settings) for i in range(self._samples)]

    def _read(self, caption: Caption, replies: list[Reply]) -> list[Negative] | Skip:
        negatives: dict[str, Negative] = {}
        reasons: list[str] = []
        for reply in replies:
            text, reason = read_answer(reply)
            reason = reason or self._fault(caption.text, text)
            if reason:
                reasons.append(reason)
                continue
            negatives[text] = Negative(text, self.kind, self.rule, changed_span(caption.text, text))
        return list(negatives.values()) if negatives else Skip(reasons[0])

    def _fault(self, caption: str, negative: str) -> str:
        """Return the reason why ``negative`` is not a valid negative of ``caption``, or "" if it is valid."""
        if reason := problem(negative):
            return reason
        before, after = self._nlp.pipe([caption, negative])
        ratio = _num_words(after) / max(1, _num_words(before))
        if not self._length_ratio[0] <= ratio <= self._length_ratio[1]:
            return "length ratio"
        if _lemmas(before) == _lemmas(after):
            return "same words in the same order"
        if shared_content(before, after) < self._content_kept:
            return "too few words in common with the caption"
        return ""

    def _cleaned(
        self, captions: Iterable[tuple[Caption, Skip | None]], cleaner: Engine
    ) -> Iterator[tuple[Caption, Skip | None]]:
        def requests(caption: Caption) -> list[Request]:
            message = Message("user", self._clean_prompt.fill(caption.text))
            return [Request((message,), max_tokens=256, schema=CAPTION_SCHEMA)]

        for caption, replies in ask_each(cleaner, self._store, captions, requests):
            if isinstance(replies, Skip):
                yield caption, replies
                continue
            text = read_clean(replies[0])
            if text and not problem(text) and shared_content(*self._nlp.pipe([caption.text, text])) >= 0.5:
                self.counts["cleaned"] += text != caption.text
                caption = dataclasses.replace(caption, text=text)
            else:
                self.counts["kept uncleaned"] += 1
            yield caption, None


def _usable(captions: Iterable[Caption]) -> Iterator[tuple[Caption, Skip | None]]:
    for caption in captions:
        reason = problem(caption.text)
        if reason:
            yield caption, Skip(reason)
        else:
            yield dataclasses.replace(caption, text=normalise(caption.text)), None


def read_answer(reply: Reply) -> tuple[str, str]:
    """Return the normalised caption in a reply, and the reason why there is no caption ("" if there is one)."""
    if reply.fault:
        return "", reply.fault
    _, marker, after = reply.text.rpartition(MARKER)
    if not marker and re.fullmatch(r"\W*N/?A\W*", reply.text.strip(), re.IGNORECASE):
        return "", "abstained"
    if not marker:
        return "", "no final caption in the reply"
    lines = [line.strip(" \t*`\"'“”") for line in after.splitlines()]
    answer = next((line for line in lines if line), "")
    if not answer:
        return "", "no final caption in the reply"
    if re.fullmatch(r"N/?A\W*", answer, re.IGNORECASE):
        return "", "abstained"
    return normalise(answer), ""


def read_clean(reply: Reply) -> str:
    """Return the normalised caption in the JSON reply of a cleaner, or "" if the reply has no caption."""
    if reply.fault:
        return ""
    match = re.search(r"\{.*\}", reply.text, re.DOTALL)
    try:
        caption = json.loads(match.group())["caption"] if match else ""
    except (ValueError, KeyError, TypeError):
        return ""
    return normalise(caption) if isinstance(caption, str) and caption.strip() else ""


def shared_content(before: Any, after: Any) -> float:
    """Return the fraction, in [0, 1], of the content lemmas of two ``Doc`` objects that both objects contain.

    Content lemmas are the lemmas of nouns, proper nouns, verbs, adjectives and numbers. A repeated lemma counts each
    time. The parts of speech may differ, because one parse may tag a lemma as a noun and the other as a verb.
    """
    words = [Counter(token.lemma_.lower() for token in doc if token.pos_ in CONTENT) for doc in (before, after)]
    everything = [Counter(token.lemma_.lower() for token in doc if not token.is_punct) for doc in (before, after)]
    shared = sum((words[0] & everything[1]).values()) + sum((words[1] & everything[0]).values())
    return shared / max(1, words[0].total() + words[1].total())


def _lemmas(doc: Any) -> list[str]:
    return [token.lemma_.lower() for token in doc if not token.is_punct and not token.is_space]


def _num_words(doc: Any) -> int:
    return sum(not token.is_punct and not token.is_space for token in doc)
