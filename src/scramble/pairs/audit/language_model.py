"""Fit a trigram model with interpolated Kneser-Ney smoothing (Kneser and Ney 1995; Chen and Goodman 1999, equation 18).

The model is a text-only classifier that needs no download. A rejected caption that is improbable as text can be
recognised without the image.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from scramble.pairs.audit.text_features import words

START, END = "<s>", "</s>"


class TrigramModel:
    """A Kneser-Ney model of the trigrams of lower-case words, fitted on ``texts``.

    Each order has one discount, n1 / (n1 + 2 n2), where n1 and n2 are the numbers of n-grams with a (continuation)
    count of 1 and 2. All unknown words together count as one word of the vocabulary that occurs in no context.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._trigrams: Counter[tuple[str, ...]] = Counter()
        for text in texts:
            tokens = (START, START, *words(text), END)
            self._trigrams.update(zip(tokens, tokens[1:], tokens[2:], strict=False))
        # Lower orders count the distinct words to the left of an n-gram instead of its occurrences.
        self._bigrams = Counter(gram[1:] for gram in self._trigrams)
        self._unigrams = Counter(gram[1:] for gram in self._bigrams)
        self._orders = [(_contexts(counts), counts, _discount(counts)) for counts in (self._bigrams, self._trigrams)]
        self._bigram_types = sum(self._unigrams.values())
        self._unigram_discount = _discount(self._unigrams)

    def logp(self, text: str) -> float:
        """Return the log-probability of a text in nats, summed over its words and the end of the text."""
        tokens = (START, START, *words(text), END)
        return sum(math.log(self._probability(tokens[i - 2 : i + 1])) for i in range(2, len(tokens)))

    def _probability(self, gram: tuple[str, ...]) -> float:
        size = len(self._unigrams)
        if not size:
            return 1.0
        discount = self._unigram_discount
        count = self._unigrams.get(gram[2:], 0)
        probability = (max(count - discount, 0.0) + discount * size / (size + 1)) / self._bigram_types
        for order, (contexts, counts, discount) in enumerate(self._orders):
            key = gram[1 - order :]
            total, types = contexts.get(key[:-1], (0, 0))
            if total:
                probability = (max(counts.get(key, 0) - discount, 0.0) + discount * types * probability) / total
        return probability


def _contexts(counts: Counter[tuple[str, ...]]) -> dict[tuple[str, ...], tuple[int, int]]:
    """Return the total count of each context, and the number of its distinct continuations."""
    contexts: dict[tuple[str, ...], tuple[int, int]] = {}
    for gram, count in counts.items():
        total, types = contexts.get(gram[:-1], (0, 0))
        contexts[gram[:-1]] = total + count, types + 1
    return contexts


def _discount(counts: Counter[tuple[str, ...]]) -> float:
    once = sum(count == 1 for count in counts.values())
    twice = sum(count == 2 for count in counts.values())
    return once / (once + 2 * twice) if once else 0.5
