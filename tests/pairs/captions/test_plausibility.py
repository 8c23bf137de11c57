"""Tests plausibility: relations of captions, lifts by hand, and candidates that a generator drops after learning."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

from scramble.language.lexicon import load_lexicon
from scramble.language.parse import Sentence, parse_sentences
from scramble.language.spacy_pipeline import load_pipeline
from scramble.pairs.base import Caption, Negative
from scramble.pairs.captions.rules.generator import RuleGenerator
from scramble.pairs.captions.rules.plausibility import SelectionalTables
from scramble.pairs.captions.rules.relations import caption_relations
from scramble.pairs.captions.rules.replace import replacements


@pytest.fixture(scope="module")
def sentences(pipeline: str):
    nlp, lexicon = load_pipeline(pipeline, "tagger", "parser"), load_lexicon()
    return lambda *texts: list(parse_sentences(nlp, texts, lexicon))


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A man is riding a horse.", [("man", "rid", "horse")]),
        ("A cat sits on a bed.", [("cat", "sit on", "bed")]),
        ("A woman with a dog is standing.", [("woman", "with", "dog"), ("woman", "stand", None)]),
        ("A cat and a dog.", []),
    ],
)
def test_relations_name_their_subjects(sentences, caption, expected):
    (sentence,) = sentences(caption)
    found = [
        (left and left.noun.lemma, words, right and right.noun.lemma)
        for left, words, right in caption_relations(sentence)
    ]
    assert found == expected


def test_lifts_follow_the_captions(sentences):
    """Beds and tables occur to the right of "on" and cats never do, so a cat has a low lift there."""
    tables = SelectionalTables(sentences(*["A cat sits on a bed.", "A dog sits on a table."] * 30))
    (sentence,) = sentences("A cat sits on a table.")
    cat, table = sentence.phrases
    assert tables.swap_lift(sentence, cat, table) < math.log(0.3)
    (sentence,) = sentences("A cat sits on a bed next to a dog.")
    assert tables.swap_lift(sentence, sentence.phrases[0], sentence.phrases[2]) > -0.5
    assert SelectionalTables().swap_lift(sentence, *sentence.phrases[:2]) == 0


def test_numbers_follow_the_captions(sentences):
    """In all 30 captions there are several dogs and one bed: exchanging the numbers has the odds (1 / 31) ** 2.

    The odds over the relation are only 1 / 31: 30 captions have several things on one bed, none the reverse.
    """
    tables = SelectionalTables(sentences(*["Two dogs on a bed."] * 30))
    (sentence,) = sentences("Two dogs on a bed.")
    assert tables.number_lift(sentence, *sentence.phrases) == pytest.approx(2 * math.log(1 / 31))
    (sentence,) = sentences("A dog on a bed.")
    assert tables.number_lift(sentence, *sentence.phrases) == 0


def test_a_man_does_not_ride_two_horses(sentences):
    """Each number of men and of horses is equally frequent, but one man never rides several horses: log(1 / 21)."""
    captions = ["A man riding a horse.", "Two men riding a horse.", "Two men riding horses.", "A man near horses."] * 20
    tables = SelectionalTables(sentences(*captions))
    (sentence,) = sentences("Two men riding a horse.")
    assert tables.number_lift(sentence, *sentence.phrases) == pytest.approx(math.log(1 / 21))


def test_odds_of_exchanged_numbers(sentences):
    """Twice 1 / 31 for the nouns, once for the relation, and twice for the first and the later phrase."""
    tables = SelectionalTables(sentences(*["Two dogs on a bed."] * 30))
    (sentence,) = sentences("Two dogs on a bed.")
    assert tables.number_odds(sentence, *sentence.phrases) == pytest.approx(5 * math.log(1 / 31))
    (sentence,) = sentences("A dog on a bed.")
    assert tables.number_odds(sentence, *sentence.phrases) == 0


def test_odds_of_a_moved_attribute(sentences):
    """In the other captions, 39 of 49 cats and 10 of 50 couches are black; cats come first."""
    captions = ["A black cat on a couch."] * 40 + ["A cat on a black couch."] * 10
    tables = SelectionalTables(sentences(*captions))
    (sentence,) = sentences("A black cat on a couch.")
    cat, couch = sentence.phrases
    nouns, positions = (10.5 / 60) / (39.5 / 59), (11 / 51) / (41 / 51)
    assert tables.move_odds(sentence, "black", cat, couch) == pytest.approx(math.log(nouns * positions))
    (sentence,) = sentences("A cat on a black couch.")
    cat, couch = sentence.phrases
    nouns = (40.5 / 60) / (9.5 / 59)
    assert tables.move_odds(sentence, "black", couch, cat) == pytest.approx(math.log(nouns / positions))


def test_lifts_of_new_nouns_and_verbs(sentences):
    """10 of 40 captions have a book and 20 have "brush", never both: 5 are expected, and the lift is log(0.5 / 5.5).

    All captions contain a girl, so she is no evidence for or against a bed: the lift is 0.
    """
    captions = ["A girl brushing her teeth with a toothbrush."] * 20 + [
        "A girl reading a book.",
        "A girl on a bed.",
    ] * 10
    tables, book = SelectionalTables(sentences(*captions)), load_lexicon().nouns["book"][0]
    (sentence,) = sentences("A girl brushing her teeth with a toothbrush.")
    phrase = sentence.phrases[-1]
    assert tables.noun_lift(sentence, phrase, book) <= math.log(0.5 / 5.5)
    (sentence,) = sentences("A girl on a bed.")
    assert tables.noun_lift(sentence, sentence.phrases[-1], load_lexicon().nouns["bed"][0]) == 0
    token = sentence.lower.index("on")
    assert tables.relation_lift(sentence, {token: "under"}) <= tables.relation_lift(sentence, {token: "on"})


def test_odds_of_new_words(sentences):
    """A dog is as frequent on beds as on tables, and four times as frequent as a rabbit: log(1 / 4), smoothed."""
    captions = ["A dog on a bed."] * 40 + ["A rabbit on a bed."] * 10 + ["A black dog under a bed."] * 10
    tables, nouns = SelectionalTables(sentences(*captions)), load_lexicon().nouns
    (sentence,) = sentences("A dog on a bed.")
    dog, _ = sentence.phrases
    odds = tables.noun_odds(sentence, dog, nouns["rabbit"][0])
    assert math.log(10.5 / 50.5) < odds < math.log(1 / 3)  # a dog is also under beds
    assert tables.noun_odds(sentence, dog, dog.noun) == 0
    token = sentence.lower.index("on")
    assert tables.relation_odds(sentence, {token: "under"}) == pytest.approx(math.log(10 / 40), abs=0.3)
    assert tables.attribute_odds(dog, "black", "white") < math.log(1 / 10)


def texts(generator: RuleGenerator, text: str, rule: str) -> set[str]:
    ((_, negatives),) = generator.negatives([Caption("1", 0, text)])
    assert all(isinstance(n, Negative) for n in negatives)
    return {n.text for n in negatives if n.rule == rule}


def swaps(generator: RuleGenerator, text: str) -> set[str]:
    return texts(generator, text, "swap.phrases")


def test_a_generator_learns_which_replacements_are_absurd(pipeline: str):
    """Cars are never on the beach, and horses are never pink in these captions; other things can have any colour."""
    generator = RuleGenerator(pipeline)
    assert "A bus on a beach." in texts(generator, "A car on a beach.", "replace.object")
    training = [
        "A bus on a street.",
        "A brown horse on a beach.",
        "A white horse in a field.",
        "A pink bag on a bed.",
        "A white bag on a bed.",
        "A red bag on a bed.",
    ] * 20
    generator.learn(training)
    assert "A bus on a beach." not in texts(generator, "A car on a beach.", "replace.object")
    assert texts(generator, "A white horse in a field.", "replace.colour") == {"A brown horse in a field."}
    assert "A red bag on a bed." in texts(generator, "A white bag on a bed.", "replace.colour")
    assert texts(generator, "A woman in a short blue skirt.", "replace.size") == set()
    assert texts(generator, "A woman in a large blue skirt.", "replace.size") == {"A woman in a small blue skirt."}


def test_a_generator_learns_which_replacements_are_rare(pipeline: str):
    """Parrots are 20 times rarer than dogs; "a slice of soup" does not occur."""
    training = ["A dog on a bed."] * 40 + ["A rabbit on a bed."] * 2 + ["A slice of pizza.", "A slice of cake."] * 20
    training += ["A bowl of soup."] * 20
    generator, lenient = RuleGenerator(pipeline), RuleGenerator(pipeline, min_replacement_odds=-99.0)
    for one in (generator, lenient):
        one.learn(training)
    assert "A rabbit on a bed." in texts(lenient, "A dog on a bed.", "replace.object")
    assert "A rabbit on a bed." not in texts(generator, "A dog on a bed.", "replace.object")
    assert texts(lenient, "A slice of pizza.", "replace.object") == {"A slice of cake."}


def test_a_generator_learns_which_swaps_are_recognised(pipeline: str):
    """In these captions two people are frequent and two benches are not, and black cats are more frequent than black
    benches."""
    training = ["Two women near a bench."] * 20 + ["Two women near two benches.", "A woman near two benches."] * 2
    training += ["A black cat on a bench."] * 20 + ["A cat on a black bench."] * 2
    generator, lenient = RuleGenerator(pipeline), RuleGenerator(pipeline, min_lift=-99.0, min_swap_odds=-99.0)
    plausible = RuleGenerator(pipeline, min_lift=-99.0)
    for one in (generator, lenient, plausible):
        one.learn(training)
    for caption, rule, swap in (
        ("Two women near a bench.", "swap.numbers", "A woman near two benches."),
        ("A black cat on a bench.", "swap.move-attribute", "A cat on a black bench."),
    ):
        assert texts(lenient, caption, rule) == {swap}
        assert texts(generator, caption, rule) == texts(plausible, caption, rule) == set()
    assert "Two women near a bench." in texts(generator, "A woman near two benches.", "swap.numbers")


def test_a_generator_learns_which_swaps_are_absurd(pipeline: str):
    """The caption has the swap as long as the training captions do not make it implausible, with one and two
    processes."""
    absurd, caption = "A sheep herding a dog.", "A dog herding a sheep."
    training = ["A dog herding a cow.", "A dog herding a horse.", "A sheep near a dog."] * 20
    generator = RuleGenerator(pipeline)
    assert absurd in swaps(generator, caption)
    generator.learn(training)
    assert absurd not in swaps(generator, caption)
    lenient = RuleGenerator(pipeline, min_lift=-99.0)
    lenient.learn(training)
    assert absurd in swaps(lenient, caption)


def test_the_same_captions_are_learned_once(pipeline: str, monkeypatch: pytest.MonkeyPatch):
    """A second generator has the tables of the first; other captions are parsed."""
    parsed: list[list[str]] = []

    def counted(nlp: Any, texts: list[str], lexicon: Any) -> Iterator[Sentence]:
        parsed.append(texts)
        return parse_sentences(nlp, texts, lexicon)

    module = "scramble.pairs.captions.rules.generator"
    monkeypatch.setattr(f"{module}.parse_sentences", counted)
    monkeypatch.setattr(f"{module}._LEARNED", {})
    one, two = RuleGenerator(pipeline), RuleGenerator(pipeline)
    for generator, captions in ((one, ["A dog on a bed."]), (two, ["A dog on a bed."]), (one, ["A cat on a bed."])):
        generator.learn(captions)
    assert parsed == [["A dog on a bed."], ["A cat on a bed."]]


def test_absurd_categories_are_never_swapped(pipeline: str):
    """Only people, animals and places can exchange their roles; other swaps are dropped without statistics from
    captions."""
    for caption in ("A woman holding a phone.", "A dog sits on a couch.", "A man wearing a hat.", "A pan on a stove."):
        assert swaps(RuleGenerator(pipeline), caption) == set()


@pytest.mark.full
def test_worker_processes_have_the_same_tables(pipeline: str):
    one, two = RuleGenerator(pipeline), RuleGenerator(pipeline, processes=2)
    captions = [Caption(str(i), 0, f"A {thing} near a black cat.") for i, thing in enumerate(("dog", "man", "horse"))]
    for generator in (one, two):
        generator.learn(["A dog near a cat.", "A man near a horse."] * 20)
    assert list(one.negatives(captions)) == list(two.negatives(captions))


@pytest.mark.parametrize(
    ("caption", "captions", "used"),
    [
        ("A red car next to a tree.", "A grey car next to a tree.", "grey car"),
        ("A red car next to a tree.", "A gray car next to a tree.", "gray car"),
        ("A red car next to a grey wall.", "A gray car next to a tree.", "grey car"),
        ("A red car next to a gray wall.", "A grey car next to a tree.", "gray car"),
        ("A cupcake on a plate.", "A doughnut on a plate.", "A doughnut on"),
        ("Two cupcakes on a plate.", "Two doughnuts on a plate.", "Two doughnuts on"),
    ],
)
def test_a_replacement_has_the_spelling_of_the_caption_or_of_the_captions(sentences, caption, captions, used):
    tables = SelectionalTables(sentences(*[captions, "A red car.", "A cupcake on a plate."] * 30))
    (sentence,) = sentences(caption)
    negatives = " ".join(n.text for n in replacements(sentence, load_lexicon(), tables, min_lift=-9, min_odds=-9))
    spellings = {"grey car", "gray car", "doughnut", "donut"}
    assert used in negatives
    assert not any(spelling in negatives for spelling in spellings if spelling not in used)
