"""Nouns of a response compared with AMBER's annotation (Wang et al. 2023, arXiv 2311.07397)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from scramble.language.singular import noun_lemma
from scramble.language.spacy_pipeline import load_pipeline

SIMILARITY = 0.8
"""Two words with a higher cosine similarity count as the same object."""

Similar = Callable[[str, str], bool]


@dataclass(frozen=True)
class Lexicon:
    """AMBER's vocabulary: ``associations`` (relation.json) maps an object to words that also stand for it, and nouns
    among ``safe`` (safe_words.txt) are never hallucinated."""

    associations: Mapping[str, Sequence[str]]
    safe: frozenset[str]

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        """The objects and their associated words. All other nouns are ignored."""
        return frozenset(self.associations).union(*self.associations.values())

    def listed(self, objects: Sequence[str]) -> list[tuple[str, int]]:
        """Return the words with the index of the object that they stand for: associated words first, then the
        objects.
        """
        associated = [(word, place) for place, name in enumerate(objects) for word in self.associations[name]]
        return associated + [(name, place) for place, name in enumerate(objects)]


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts of one response.

    Attributes:
        nouns, hallucinated: nouns of the vocabulary, and those that are hallucinated.
        truth, covered: annotated objects of the image, and those that are mentioned.
        likely, hit: objects that models are likely to hallucinate, and those that are mentioned.
    """

    nouns: int
    hallucinated: int
    truth: int
    covered: int
    likely: int
    hit: int


def count(
    nouns: Sequence[str], truth: Sequence[str], likely: Sequence[str], lexicon: Lexicon, similar: Similar | None = None
) -> Counts:
    """Compare the nouns of a response with the annotation of its image.

    A noun counts for the first object that it stands for. A noun listed as a likely hallucination does not count as
    hallucinated if it is similar to a true object.

    Args:
        nouns: lemmas in the order of the response.
        truth, likely: the annotated objects ("truth", "hallu").
        similar: whether two words stand for the same object; None: only equal words do.
    """
    present, expected = lexicon.listed(truth), lexicon.listed(likely)
    kept = [noun for noun in nouns if noun in lexicon.vocabulary]
    covered: set[int] = set()
    hit: set[int] = set()
    hallucinated = 0
    for noun in kept:
        if noun in lexicon.safe:
            continue
        place = _first(noun, present, str.__eq__)
        if place is None:
            hit |= _places(_first(noun, expected, str.__eq__))
            if similar is not None:
                hit |= _places(_first(noun, expected, similar))
                place = _first(noun, present, similar)
        covered |= _places(place)
        hallucinated += place is None
    return Counts(len(kept), hallucinated, len(truth), len(covered), len(likely), len(hit))


def _first(noun: str, listed: Sequence[tuple[str, int]], same: Similar) -> int | None:
    return next((place for word, place in listed if same(noun, word)), None)


def _places(place: int | None) -> set[int]:
    return set() if place is None else {place}


def nouns(text: str, pipeline: str, lexicon: Lexicon) -> list[str]:
    """Return the lemmas of a text's nouns. Names in capital letters are not in the vocabulary, as in the original.

    The original tags words with NLTK; here a spaCy pipeline tags them.

    Raises:
        PipelineError: the pipeline is not installed or has no tagger.
    """
    tagged = tagger(pipeline)(text)
    return [noun_lemma(token.text, lexicon.vocabulary) for token in tagged if token.tag_.startswith("NN")]


def tagger(pipeline: str) -> Any:
    """Return the spaCy pipeline. Raises PipelineError if it is not installed or has no tagger."""
    return load_pipeline(pipeline, "tagger", setting="benchmark.amber.pipeline")


def has_vectors(pipeline: str) -> bool:
    """Return whether the pipeline has word vectors, which the similarity of words needs."""
    return bool(tagger(pipeline).vocab.vectors_length)


def similar(pipeline: str) -> Similar | None:
    """Return the similarity of words by the pipeline's vectors; None if it has none."""
    if not has_vectors(pipeline):
        return None
    document = cache(tagger(pipeline).make_doc)

    @cache
    def same(first: str, second: str) -> bool:
        one, other = document(first), document(second)
        return bool(one.has_vector and other.has_vector and one.similarity(other) > SIMILARITY)

    return same
