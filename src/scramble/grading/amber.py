"""Compare the nouns of a response with AMBER's annotation (Wang et al. 2023, arXiv 2311.07397)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from scramble.language.singular import noun_lemma
from scramble.language.spacy_pipeline import load_pipeline

SIMILARITY = 0.8
"""Two words denote the same object if their cosine similarity is above this value."""

Similar = Callable[[str, str], bool]


@dataclass(frozen=True)
class AmberVocabulary:
    """Contains AMBER's vocabulary.

    Attributes:
        associations: mapping from objects to other words that denote them (relation.json).
        safe: nouns that never count as hallucinated (safe_words.txt).
    """

    associations: Mapping[str, Sequence[str]]
    safe: frozenset[str]

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        """The objects and their associated words. All other nouns are ignored."""
        return frozenset(self.associations).union(*self.associations.values())

    def listed(self, objects: Sequence[str]) -> list[tuple[str, int]]:
        """Return each word that denotes one of the objects, with the index of this object.

        The associated words come before the objects themselves.
        """
        associated = [(word, place) for place, name in enumerate(objects) for word in self.associations[name]]
        return associated + [(name, place) for place, name in enumerate(objects)]


@dataclass(frozen=True, slots=True)
class Counts:
    """Contains the counts of one response.

    Attributes:
        nouns, hallucinated: number of nouns from the vocabulary, and number of these nouns that are hallucinated.
        truth, covered: number of annotated objects in the image, and number of these objects that are mentioned.
        likely, hit: number of likely hallucinations, and number of these hallucinations that are mentioned.
    """

    nouns: int
    hallucinated: int
    truth: int
    covered: int
    likely: int
    hit: int


def count(
    nouns: Sequence[str],
    truth: Sequence[str],
    likely: Sequence[str],
    lexicon: AmberVocabulary,
    similar: Similar | None = None,
) -> Counts:
    """Compare the nouns of a response with the annotation of its image.

    A noun counts for the first object that it can denote. A noun that is annotated as a likely hallucination does not
    count as hallucinated if it is similar to a true object.

    Args:
        nouns: lemmas in the order of the response.
        truth, likely: the objects in the image and the likely hallucinations (``truth`` and ``hallu`` in the
            annotation).
        similar: function that returns whether two words denote the same object; None means that only equal words do.
    """
    present, expected = lexicon.listed(truth), lexicon.listed(likely)
    counted = [noun for noun in nouns if noun in lexicon.vocabulary]
    covered: set[int] = set()
    hit: set[int] = set()
    hallucinated = 0
    for noun in counted:
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
    return Counts(len(counted), hallucinated, len(truth), len(covered), len(likely), len(hit))


def _first(noun: str, listed: Sequence[tuple[str, int]], same: Similar) -> int | None:
    return next((place for word, place in listed if same(noun, word)), None)


def _places(place: int | None) -> set[int]:
    return set() if place is None else {place}


def nouns(text: str, pipeline: str, lexicon: AmberVocabulary) -> list[str]:
    """Return the lemmas of the nouns in a text.

    As in AMBER's code, words are not lower-cased, so a capitalised word never matches the vocabulary. Unlike AMBER's
    code, which tags words with NLTK, this function uses a spaCy pipeline.

    Raises:
        PipelineError: the pipeline is not installed or has no tagger.
    """
    tagged = tagger(pipeline)(text)
    return [noun_lemma(token.text, lexicon.vocabulary) for token in tagged if token.tag_.startswith("NN")]


def tagger(pipeline: str) -> Any:
    """Return the spaCy pipeline. Raises PipelineError if the pipeline is not installed or has no tagger."""
    return load_pipeline(pipeline, "tagger", setting="benchmark.amber.pipeline")


def has_vectors(pipeline: str) -> bool:
    """Return whether the pipeline has word vectors, which are needed to compute the similarity of words."""
    return bool(tagger(pipeline).vocab.vectors_length)


def similar(pipeline: str) -> Similar | None:
    """Return a function that compares the word vectors of two words, or None if the pipeline has no word vectors."""
    if not has_vectors(pipeline):
        return None
    document = cache(tagger(pipeline).make_doc)

    @cache
    def same(first: str, second: str) -> bool:
        one, other = document(first), document(second)
        return bool(one.has_vector and other.has_vector and one.similarity(other) > SIMILARITY)

    return same
