"""Find the COCO objects that a caption mentions, with the word lists and rules of CHAIR and Object HalBench.

CHAIR: Rohrbach et al., EMNLP 2018 (arXiv 1809.02156). Object HalBench: Yu et al., CVPR 2024 (RLHF-V, arXiv 2312.00849).
Neither benchmark handles negation or word senses. For example, an orange shirt counts as an orange.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

from scramble.language import tokens
from scramble.language.singular import noun_lemma, sections, singular
from scramble.language.spacy_pipeline import load_pipeline

Mention = tuple[str, str]
"""A word of a caption, and the COCO category that the word denotes."""

_CHAIR_PAIRS = (
    "motor bike, motor cycle, air plane, traffic light, street light, traffic signal, stop light, fire hydrant, "
    "stop sign, parking meter, suit case, sports ball, baseball bat, baseball glove, tennis racket, wine glass, "
    "hot dog, cell phone, mobile phone, teddy bear, hair drier, potted plant, laptop computer, stove top oven, "
    "home plate, train track"
)
_HALBENCH_WORDS = {
    "brother": "person",
    "pedestrian": "person",
    "coffee table": "dining table",
    "remote control": "remote",
}
_ANIMALS = "bird cat dog horse sheep cow elephant bear zebra giraffe animal cub"


@dataclass(frozen=True)
class Vocabulary:
    """Contains a benchmark's words for the categories of COCO.

    Attributes:
        category: mapping from words to categories.
        pairs: mapping from two consecutive words to the word that they count as ("baby bear" is a bear, not a person).
        base_form: function that returns the base form of a token ("dogs" -> "dog").
    """

    category: Mapping[str, str]
    pairs: Mapping[str, str]
    base_form: Callable[[str], str]

    def mentions(self, caption: str) -> list[Mention]:
        """Return the object words of a caption in order, with repetitions."""
        return self.among(joined(self.tokens(caption), self.pairs))

    def tokens(self, caption: str) -> list[str]:
        """Return the base forms of the tokens of the lower-cased caption."""
        return [self.base_form(token) for token in tokens.words(caption.lower())]

    def among(self, words: Sequence[str]) -> list[Mention]:
        """Return the object words in ``words``. "seat" does not count as a chair if "toilet" also occurs."""
        seats = "toilet" in words
        return [
            (word, self.category[word]) for word in words if word in self.category and not (seats and word == "seat")
        ]


def joined(words: Sequence[str], pairs: Mapping[str, str], only_pairs: bool = False) -> list[str]:
    """Replace each known pair of words with the word that the pair counts as. ``only_pairs`` drops all other words."""
    result, place = [], 0
    while place < len(words):
        pair = " ".join(words[place : place + 2])
        if pair in pairs:
            result.append(pairs[pair])
            place += 2
        else:
            result += () if only_pairs else (words[place],)
            place += 1
    return result


def _pairs(pairs: Collection[str]) -> dict[str, str]:
    animals = {f"{age} {animal}": animal for age in ("baby", "adult") for animal in _ANIMALS.split()}
    vehicles = {f"passenger {vehicle}": vehicle for vehicle in ("jet", "train")}
    special = {"bow tie": "tie", "toilet seat": "toilet", "wine glas": "wine glass"}
    return {pair: pair for pair in pairs} | animals | vehicles | special


@cache
def chair() -> Vocabulary:
    """Return CHAIR's vocabulary, including its wrong singular forms. For example, a single bus is never
    counted, because the singular of "bus" is "bu"."""
    lines = [line.strip().split(", ") for line in sections("coco_synonyms.txt")[""]]
    return Vocabulary({word: line[0] for line in lines for word in line}, _pairs(_CHAIR_PAIRS.split(", ")), singular)


@cache
def object_halbench() -> Vocabulary:
    """Return Object HalBench's vocabulary: CHAIR's words without leading and trailing spaces, plus four words. The
    base forms are WordNet's lemmas."""
    category = {word.strip(): name for word, name in chair().category.items()} | _HALBENCH_WORDS
    pairs = _pairs([word for word in category if " " in word] + ["home plate", "train track"])
    parts = {part for word in (*category, *pairs) for part in word.split(" ")}
    return Vocabulary(category, pairs, lambda token: noun_lemma(token, parts))


@dataclass(frozen=True, slots=True)
class Counts:
    """Contains the counts of one caption's objects.

    Attributes:
        mentioned, hallucinated: number of mentions, and number of mentions whose category is not in the image.
        right, truth: number of mentioned categories that are in the image, and number of categories in the image.
    """

    mentioned: int
    hallucinated: int
    right: int
    truth: int


def count(mentions: Sequence[Mention], truth: Collection[str]) -> Counts:
    """Compare the mentions of a caption with the categories in its image."""
    wrong = sum(category not in truth for _, category in mentions)
    right = {category for _, category in mentions} & set(truth)
    return Counts(len(mentions), wrong, len(right), len(set(truth)))


# ------------------------------------------------------------------------------------------ objects named by a judge


def parse_object_list(text: str) -> Any:
    """Parse a judge's reply as JSON. If the reply is not valid JSON but contains ``["``, parse only its last line.

    Raises:
        ValueError: the reply cannot be parsed. Object HalBench's code repeats the request in this case.
    """
    try:
        return json.loads(text)
    except ValueError:
        if '["' not in text:
            raise
        return json.loads(text.strip().split("\n")[-1])


def named_objects(names: Sequence[str], pipeline: str) -> list[str]:
    """Return the distinct objects in a judge's list of names.

    If a name contains pairs of words that are in the benchmark's vocabulary, the objects are the words that these pairs
    count as. Otherwise, the objects are the runs of consecutive nouns in the name, as lemmas.

    Args:
        pipeline: a spaCy pipeline, by name or folder.

    Raises:
        PipelineError: the pipeline is not installed, or lacks a tagger or a lemmatizer.
    """
    tag = load_pipeline(pipeline, "tagger", "lemmatizer", setting="benchmark.object_halbench.pipeline")
    objects: list[str] = []
    for name in names:
        words = list(tag(f"a {name}"))
        pairs = joined([word.lemma_ for word in words], object_halbench().pairs, only_pairs=True)
        runs = groupby(words, lambda word: word.tag_ in ("NN", "NNS", "NNP", "NNPS"))
        objects += pairs or [" ".join(word.lemma_ for word in run) for is_noun, run in runs if is_noun]
    return list(dict.fromkeys(objects))
