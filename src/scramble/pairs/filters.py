"""Add scores to pairs as columns, and filter pairs by conditions on columns.

A scorer (:mod:`scramble.pairs.scoring`) returns a number for each text. :func:`score_pairs` and :func:`score_images`
add the columns ``<name>.chosen`` and ``<name>.rejected`` to a pair's scores. A filter is a bound on a column and never
runs a model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

from scramble.pairs.audit.text_features import lower_words
from scramble.pairs.base import Similarity, TextScorer
from scramble.pairs.captions.surface import problem
from scramble.records import ImageFile, PreferencePair

SIDES = ("chosen", "rejected")
TEXT_COLUMNS = ("length_ratio", "common_words", "same_words", "usable")


class FilterError(ValueError):
    """Raised if a filter cannot be applied because a column is missing. The message names the pair and the column."""


# ---------------------------------------------------------------------------------------------------------- columns


def score_pairs(
    pairs: Iterable[PreferencePair], scorers: dict[str, TextScorer], *, batch: int = 256
) -> Iterator[PreferencePair]:
    """Stream the pairs and add the columns ``<name>.chosen`` and ``<name>.rejected`` of each scorer."""
    stream = iter(pairs)
    while chunk := list(islice(stream, batch)):
        columns: list[dict[str, float]] = [dict(pair.scores) for pair in chunk]
        for name, scorer in scorers.items():
            for side in SIDES:
                values = scorer([getattr(pair, side) for pair in chunk])
                for column, value in zip(columns, values, strict=True):
                    column[f"{name}.{side}"] = float(value)
        for pair, column in zip(chunk, columns, strict=True):
            yield replace(pair, scores=column)


def score_images(
    pairs: Iterable[PreferencePair], similarity: Similarity, images: Mapping[str, ImageFile], *, batch: int = 64
) -> Iterator[PreferencePair]:
    """Stream the pairs and add columns with the similarity between each text and the pair's first image.

    The columns are ``similarity.chosen`` and ``similarity.rejected``. If the rejected text has a high similarity, it is
    probably still true of the image.
    """
    stream = iter(pairs)
    while chunk := list(islice(stream, batch)):
        files = {pair.image_ids[0]: images[pair.image_ids[0]] for pair in chunk}  # one object for each image
        values = similarity([(files[p.image_ids[0]], text) for p in chunk for text in (p.chosen, p.rejected)])
        for pair, chosen, rejected in zip(chunk, values[::2], values[1::2], strict=True):
            scores = {"similarity.chosen": float(chosen), "similarity.rejected": float(rejected)}
            yield replace(pair, scores=pair.scores | scores)


def text_columns(pair: PreferencePair) -> dict[str, float]:
    """Return the columns that need no model.

    - ``length_ratio``: number of words of the rejected text divided by the number of words of the chosen text
    - ``common_words``: fraction of the distinct words of the pair that both texts contain
    - ``same_words``: 1 if both texts have the same words in the same order
    - ``usable``: 1 if :func:`scramble.pairs.captions.surface.problem` finds no problem in the rejected text
    """
    chosen, rejected = lower_words(pair.chosen).split(), lower_words(pair.rejected).split()
    common = len(set(chosen) & set(rejected)) / max(1, len(set(chosen) | set(rejected)))
    return {
        "length_ratio": len(rejected) / max(1, len(chosen)),
        "common_words": common,
        "same_words": float(chosen == rejected),
        "usable": float(not problem(pair.rejected)),
    }


def lemma_identity(nlp: Any) -> Callable[[PreferencePair], dict[str, float]]:
    """Return a function that computes the column ``same_lemmas``.

    The column is 1 if both texts have the same lemmas in the same order, in lower case and without punctuation.
    """

    def column(pair: PreferencePair) -> dict[str, float]:
        lemmas = [[t.lemma_.lower() for t in nlp(text) if not t.is_punct] for text in (pair.chosen, pair.rejected)]
        return {"same_lemmas": float(lemmas[0] == lemmas[1])}

    return column


def with_columns(pair: PreferencePair, *columns: Callable[[PreferencePair], dict[str, float]]) -> PreferencePair:
    """Return the pair with the columns that each function computes from it."""
    scores = dict(pair.scores)
    for column in columns:
        scores |= column(pair)
    return replace(pair, scores=scores)


# ---------------------------------------------------------------------------------------------------------- filters


def is_within(pair: PreferencePair, name: str, low: float | None, high: float | None) -> bool:
    """Return whether a pair's value in a column is within bounds. A bound of None has no effect.

    Raises FilterError if the pair lacks the column.
    """
    value = column_value(pair, name)
    return (low is None or value >= low) and (high is None or value <= high)


def column_value(pair: PreferencePair, name: str) -> float:
    """Return a pair's value in a column. ``<score>.gap`` is the chosen text's score minus the rejected text's score.

    Raises FilterError if the pair lacks the column.
    """
    score, _, side = name.rpartition(".")
    columns = [f"{score}.{each}" for each in SIDES] if side == "gap" else [name]
    if missing := [column for column in columns if column not in pair.scores]:
        raise FilterError(
            f"pair {pair.pair_id} has no column {missing[0]!r}, only {sorted(pair.scores)}: add the score to "
            "pairs.scores, or choose another column"
        )
    first, *rest = (pair.scores[column] for column in columns)
    return first - sum(rest)


def near_duplicates() -> Callable[[PreferencePair], dict[str, float]]:
    """Return a function that computes the column ``near_duplicate``.

    The column is 1 if an earlier pair about the same images has the same rejected text and the same words in the chosen
    text. Case and punctuation are ignored. In the chosen text, articles, "is", "are" and the order and repetition of
    words are ignored too. Memory grows with the number of distinct pairs.
    """
    seen: set[int] = set()

    def column(pair: PreferencePair) -> dict[str, float]:
        key = hash((pair.image_ids, _bag(pair.chosen), lower_words(pair.rejected)))
        is_new = key not in seen
        seen.add(key)
        return {"near_duplicate": float(not is_new)}

    return column


def _bag(text: str) -> frozenset[str]:
    return frozenset(re.sub(r"\b(?:a|an|the|is|are)\b", " ", lower_words(text)).split())
