"""The rule-based generator: streams all swap and replace candidates from one spaCy parse per caption.

It needs no GPU and no download except the pipeline (``en_core_web_sm`` by default).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from heapq import nsmallest
from itertools import islice
from pathlib import Path
from typing import Any

from scramble import interrupt
from scramble.language.lexicon import Lexicon, load_lexicon
from scramble.language.parse import Sentence, parse
from scramble.language.spacy_pipeline import DEFAULT_PIPELINE, load_pipeline
from scramble.pairs.base import Caption, Negative
from scramble.pairs.captions.rules.plausibility import (
    MIN_LIFT,
    MIN_REPLACEMENT_LIFT,
    MIN_REPLACEMENT_ODDS,
    MIN_SWAP_ODDS,
    SelectionalTables,
)
from scramble.pairs.captions.rules.replace import replacements
from scramble.pairs.captions.rules.swap import swaps
from scramble.pairs.captions.surface import normalise, problem

RULES = ("swap", "replace")
CHUNK = 256  # number of captions that are parsed, or sent to a worker, at a time
MAX_LEARNED = 20_000  # maximum number of captions from which plausibility is learned


def candidates(
    sentence: Sentence,
    lexicon: Lexicon,
    rules: Sequence[str] = RULES,
    tables: SelectionalTables | None = None,
    min_lift: float = MIN_LIFT,
    min_replacement_lift: float = MIN_REPLACEMENT_LIFT,
    min_replacement_odds: float = MIN_REPLACEMENT_ODDS,
    min_swap_odds: float = MIN_SWAP_ODDS,
) -> list[Negative]:
    """Return all distinct candidates of a parsed caption, in a fixed order."""
    negatives: dict[str, Negative] = {}
    for rule in rules:
        for negative in (
            swaps(sentence, lexicon, tables, min_lift, min_swap_odds)
            if rule == "swap"
            else replacements(sentence, lexicon, tables, min_replacement_lift, min_replacement_odds)
        ):
            negatives.setdefault(negative.text, negative)
    return list(negatives.values())


class RuleGenerator:
    """Generates swap and replace candidates by rule (see :mod:`scramble.pairs.captions.rules.swap`,
    :mod:`scramble.pairs.captions.rules.replace`).

    If ``processes`` is above 1, this many worker processes parse, each with its own pipeline. Only captions and
    candidates are exchanged, never parses. At most ``2 * processes`` chunks are in flight, so memory is bounded.

    :meth:`learn` makes candidates more plausible. Without it, only the categories of the nouns are compared.

    Args:
        min_lift: lowest log-lift of a swapped noun in its new place
            (:meth:`scramble.pairs.captions.rules.plausibility.SelectionalTables.swap_lift`).
        min_replacement_lift: lowest log-lift of a new word in its place
            (:meth:`scramble.pairs.captions.rules.plausibility.SelectionalTables.noun_lift`).
        min_replacement_odds: lowest log-odds of a new word against the old word in its place
            (:meth:`scramble.pairs.captions.rules.plausibility.SelectionalTables.noun_odds`).
        min_swap_odds: lowest log-odds of a moved number or attribute against the caption
            (:meth:`scramble.pairs.captions.rules.plausibility.SelectionalTables.move_odds`).
    """

    def __init__(
        self,
        pipeline: str | Path = DEFAULT_PIPELINE,
        *,
        rules: Sequence[str] = RULES,
        lexicon: Path | None = None,
        processes: int = 1,
        min_lift: float = MIN_LIFT,
        min_replacement_lift: float = MIN_REPLACEMENT_LIFT,
        min_replacement_odds: float = MIN_REPLACEMENT_ODDS,
        min_swap_odds: float = MIN_SWAP_ODDS,
    ) -> None:
        unknown = set(rules) - set(RULES)
        if unknown or not rules:
            fault = f"there is no rule {', '.join(sorted(unknown))}" if unknown else "it must name a rule"
            raise ValueError(f"pairs.options.rules: {fault}: choose from {', '.join(sorted(RULES))}")
        self.name = "+".join(rules)
        thresholds = (min_lift, min_replacement_lift, min_replacement_odds, min_swap_odds)
        self._worker = _Worker(pipeline, tuple(rules), lexicon, thresholds)
        self._processes = processes
        if processes == 1:
            self._worker.start()  # to report a missing pipeline before the first caption

    def learn(self, captions: Iterable[str]) -> None:
        """Learn from true captions which words are plausible in which contexts.

        At most :data:`MAX_LEARNED` captions are parsed: those with the smallest hashes.
        """
        texts = (normalise(text) for text in captions if not problem(text))
        self._worker.learn(nsmallest(MAX_LEARNED, texts, key=lambda text: sha256(text.encode()).digest()))

    def negatives(self, captions: Iterable[Caption]) -> Iterator[tuple[Caption, list[Negative]]]:
        """Yield each caption with its candidates, in input order."""
        stream = iter(captions)
        chunks = iter(lambda: list(islice(stream, CHUNK)), [])
        if self._processes == 1:
            for chunk in chunks:
                yield from zip(chunk, self._worker([caption.text for caption in chunk]), strict=True)
            return
        from concurrent.futures import Future, ProcessPoolExecutor
        from multiprocessing import get_context

        pending: deque[tuple[list[Caption], Future[list[list[Negative]]]]] = deque()
        context = get_context("spawn")
        with ProcessPoolExecutor(
            self._processes, mp_context=context, initializer=_start_process, initargs=(self._worker,)
        ) as pool:
            for chunk in chunks:
                pending.append((chunk, pool.submit(_negatives, [caption.text for caption in chunk])))
                if len(pending) >= 2 * self._processes:
                    captions, future = pending.popleft()
                    yield from zip(captions, future.result(), strict=True)
            for captions, future in pending:
                yield from zip(captions, future.result(), strict=True)


_LOADED: dict[tuple[str, Path | None], tuple[Any, Lexicon]] = {}  # one pipeline per worker process
# The tables of the last captions. The splits of a data set learn from the same captions, which takes longer than a
# split.
_LEARNED: dict[tuple[str, Path | None, tuple[str, ...]], SelectionalTables] = {}
_WORKER: list[_Worker] = []  # of a worker process, which receives it only once and not with each chunk


def _start_process(worker: _Worker) -> None:
    interrupt.ignore_interrupt()
    _WORKER[:] = [worker]


def _negatives(texts: list[str]) -> list[list[Negative]]:
    return _WORKER[0](texts)


class _Worker:
    """Parses texts and lists their candidates. Each process loads the pipeline at the first call."""

    def __init__(
        self, pipeline: str | Path, rules: tuple[str, ...], lexicon: Path | None, thresholds: tuple[float, ...]
    ) -> None:
        self._pipeline, self._rules, self._lexicon = str(pipeline), rules, lexicon
        self._thresholds = thresholds
        self._tables: SelectionalTables | None = None

    def learn(self, texts: list[str]) -> None:
        nlp, lexicon = self.start()
        key = (self._pipeline, self._lexicon, tuple(texts))
        if key not in _LEARNED:
            _LEARNED.clear()
            _LEARNED[key] = SelectionalTables(parse(nlp, texts, lexicon))
        self._tables = _LEARNED[key]

    def start(self) -> tuple[Any, Lexicon]:
        key = (self._pipeline, self._lexicon)
        if key not in _LOADED:
            lexicon = load_lexicon() if self._lexicon is None else load_lexicon(self._lexicon)
            _LOADED[key] = (load_pipeline(self._pipeline, "tagger", "parser"), lexicon)
        return _LOADED[key]

    def __call__(self, texts: list[str]) -> list[list[Negative]]:
        nlp, lexicon = self.start()
        sentences = parse(nlp, texts, lexicon)
        return [candidates(s, lexicon, self._rules, self._tables, *self._thresholds) for s in sentences]
