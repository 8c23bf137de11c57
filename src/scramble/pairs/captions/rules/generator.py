"""Generate all swaps and replacements of captions by rule, from one spaCy parse per caption.

No GPU is needed. Only the spaCy pipeline must be downloaded (``en_core_web_sm`` by default).
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
from scramble.language.parse import Sentence, parse_sentences
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

RULES = {"swap": swaps, "replace": replacements}
CHUNK = 256  # number of captions that are parsed, or sent to a worker, at a time
MAX_LEARNED = 20_000  # maximum number of captions from which plausibility is learned


class RuleGenerator:
    """Generates negatives by the rules in :mod:`~scramble.pairs.captions.rules.swap` and
    :mod:`~scramble.pairs.captions.rules.replace`.

    :meth:`learn` makes the negatives more plausible. If this method is not called, only the categories of
    the nouns are compared.

    Args:
        pipeline: name or folder of a spaCy pipeline with a tagger and a parser.
        rules: keys of :data:`RULES`.
        lexicon: folder of word lists. None uses the shipped lists.
        processes: number of worker processes, each with its own pipeline. With 1, captions are parsed in the calling
            process. Processes exchange captions and negatives, but no parses. At most ``2 * processes`` chunks are in
            flight, so memory is bounded.
        min_lift: minimum log-lift of a swapped noun in its new place
            (:meth:`scramble.pairs.captions.rules.plausibility.SelectionalTables.swap_lift`).
        min_replacement_lift: minimum log-lift of a new word in its place
            (:meth:`scramble.pairs.captions.rules.plausibility.SelectionalTables.noun_lift`).
        min_replacement_odds: minimum log-odds of a new word relative to the old word in its place
            (:meth:`scramble.pairs.captions.rules.plausibility.SelectionalTables.noun_odds`).
        min_swap_odds: minimum log-odds, relative to the caption, of a swap that moves a number or an attribute
            (:meth:`scramble.pairs.captions.rules.plausibility.SelectionalTables.move_odds`).
    """

    def __init__(
        self,
        pipeline: str | Path = DEFAULT_PIPELINE,
        *,
        rules: Sequence[str] = tuple(RULES),
        lexicon: Path | None = None,
        processes: int = 1,
        min_lift: float = MIN_LIFT,
        min_replacement_lift: float = MIN_REPLACEMENT_LIFT,
        min_replacement_odds: float = MIN_REPLACEMENT_ODDS,
        min_swap_odds: float = MIN_SWAP_ODDS,
    ) -> None:
        unknown = set(rules) - set(RULES)
        if unknown or not rules:
            fault = f"there is no rule {' or '.join(sorted(unknown))}" if unknown else "the list is empty"
            raise ValueError(f"pairs.options.rules: {fault}: choose from {', '.join(sorted(RULES))}")
        self.name = "+".join(rules)
        thresholds = {"swap": (min_lift, min_swap_odds), "replace": (min_replacement_lift, min_replacement_odds)}
        self._worker = _Worker(pipeline, lexicon, {rule: thresholds[rule] for rule in rules})
        self._processes = processes
        if processes == 1:
            self._worker.start()  # to report a missing pipeline before the first caption

    def learn(self, captions: Iterable[str]) -> None:
        """Learn from true captions which words are plausible in which contexts.

        Only the :data:`MAX_LEARNED` captions with the smallest hashes are parsed.
        """
        texts = (normalise(text) for text in captions if not problem(text))
        self._worker.learn(nsmallest(MAX_LEARNED, texts, key=lambda text: sha256(text.encode()).digest()))

    def negatives(self, captions: Iterable[Caption]) -> Iterator[tuple[Caption, list[Negative]]]:
        """Yield each caption, in input order, with its distinct negatives in a fixed order."""
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


_LOADED: dict[tuple[str, Path | None], tuple[Any, Lexicon]] = {}  # so that each process loads a pipeline once
# The tables that were learned last. All splits of a data set learn from the same captions, and learning can take longer
# than generating the negatives of a split.
_LEARNED: dict[tuple[str, Path | None, tuple[str, ...]], SelectionalTables] = {}
_WORKER: list[_Worker] = []  # the worker of this process, which is sent once and not with each chunk


def _start_process(worker: _Worker) -> None:
    interrupt.ignore_interrupt()
    _WORKER[:] = [worker]


def _negatives(texts: list[str]) -> list[list[Negative]]:
    return _WORKER[0](texts)


class _Worker:
    """Parses captions and lists their negatives. Each process loads the pipeline at the first call.

    ``rules`` maps each rule to its minimum log-lift and its minimum log-odds.
    """

    def __init__(self, pipeline: str | Path, lexicon: Path | None, rules: dict[str, tuple[float, float]]) -> None:
        self._pipeline, self._lexicon, self._rules = str(pipeline), lexicon, rules
        self._tables: SelectionalTables | None = None

    def learn(self, texts: list[str]) -> None:
        nlp, lexicon = self.start()
        key = (self._pipeline, self._lexicon, tuple(texts))
        if key not in _LEARNED:
            _LEARNED.clear()
            _LEARNED[key] = SelectionalTables(parse_sentences(nlp, texts, lexicon))
        self._tables = _LEARNED[key]

    def start(self) -> tuple[Any, Lexicon]:
        key = (self._pipeline, self._lexicon)
        if key not in _LOADED:
            lexicon = load_lexicon() if self._lexicon is None else load_lexicon(self._lexicon)
            _LOADED[key] = (load_pipeline(self._pipeline, "tagger", "parser"), lexicon)
        return _LOADED[key]

    def __call__(self, texts: list[str]) -> list[list[Negative]]:
        nlp, lexicon = self.start()
        return [self._negatives(sentence, lexicon) for sentence in parse_sentences(nlp, texts, lexicon)]

    def _negatives(self, sentence: Sentence, lexicon: Lexicon) -> list[Negative]:
        negatives: dict[str, Negative] = {}
        for rule, thresholds in self._rules.items():
            for negative in RULES[rule](sentence, lexicon, self._tables, *thresholds):
                negatives.setdefault(negative.text, negative)
        return list(negatives.values())
