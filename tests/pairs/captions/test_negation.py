"""Tests negation: nothing within the scope of a negation is edited, but words outside are.

Each installed pipeline is tested.
"""

from __future__ import annotations

import pytest

from scramble.language.lexicon import load_lexicon
from scramble.language.parse import parse_sentences
from scramble.language.spacy_pipeline import load_pipeline
from scramble.pairs.base import Caption
from scramble.pairs.captions.rules.generator import RuleGenerator
from scramble.pairs.captions.surface import normalise


@pytest.fixture(scope="module", params=["offline", "en_core_web_sm"])
def name(request, pipeline: str) -> str:
    """Return the name of a pipeline: the offline pipeline, and the pipeline that users install (skipped if not
    installed).
    """
    if request.param == "offline":
        return pipeline
    import spacy

    if not spacy.util.is_package(request.param):
        pytest.skip("en_core_web_sm is not installed")
    return request.param


@pytest.fixture(scope="module")
def rules(name: str) -> RuleGenerator:
    return RuleGenerator(name)


@pytest.fixture(scope="module")
def nlp(name: str):
    return load_pipeline(name, "tagger", "parser")


def negatives(rules: RuleGenerator, caption: str):
    ((_, result),) = rules.negatives([Caption("1", 0, normalise(caption))])
    return result


# A caption with the scope of its negation in brackets (at least these words must not change), and a word outside of it
# that some negative changes ("" if the whole caption is in the scope).
CASES = [
    ("A man [is not wearing a red hat].", "man"),
    ("A dog that [isn't sitting on a couch].", "dog"),
    ("A dog that [isnt sitting on a couch].", "dog"),
    ("There [are no dogs on the red couch].", ""),
    ("[Nobody is sitting on the blue bench].", ""),
    ("[No one is sitting on the blue bench next to the white dog].", ""),
    ("[None of the three men wear a red shirt].", ""),
    ("[Not all of the dogs are on the red couch].", ""),
    ("[Neither the dog nor the cat is on the red bed].", ""),
    ("[Neither the man nor the woman is holding a red umbrella].", ""),
    ("[Nothing is on the white plate].", ""),
    ("A street [without any cars] next to a white house.", "street"),
    ("A black cat, [not a white cat], on a table.", "table"),
    ("A man [never rides a brown horse].", "man"),
    ("An empty room [with no people] and a brown table.", "table"),
    ("A bench [with nobody on it] next to a red car.", "car"),
    ("The woman [does not hold a black umbrella].", "woman"),
    ("A bathroom [lacking a white toilet].", "bathroom"),
    ("A man [with no shirt] riding a brown horse.", "horse"),
    ("A man [without a hat] riding a brown horse.", "horse"),
    ("[Without a hat], a man rides a brown horse.", "horse"),
    ("A man [lacks a red hat] and rides a brown horse.", "horse"),
    ("A woman [wearing no shoes] walks a brown dog on the beach.", "dog"),
    ("A kitchen that [has no white stove] but has a red refrigerator.", "refrigerator"),
    ("The cat [isn't on the red couch] but under the brown table.", "table"),
    ("The image [doesn't show a red car] but a blue truck.", "truck"),
    ("There [is no dog on the couch] and a white cat is under the table.", "white"),
    ("[No one is on the couch] while a dog sleeps on a bed.", "bed"),
    ("The red car [is not parked in front of the white house]. A dog sits on a bench.", "dog"),
    ("The train [is no longer on the track next to a red building].", "train"),
    ("A man [cannot see the red bus behind the white truck].", "man"),
    ("A man [fails to catch a red frisbee].", "man"),
    ("A man [is unable to ride the brown horse].", "man"),
    ("The dog [hardly touches the red ball on the green grass].", "dog"),
    ("There['s hardly any food on the white plate].", ""),
    ("A street [empty of cars] next to a white building.", "building"),
    ("A man [instead of a woman] rides the brown horse.", "horse"),
    ("A cat [rather than a dog] sits on the red couch.", "couch"),
    ("A man [with neither a hat nor a coat] on a red bench.", "man"),
    ("A dog, but [no cat], on a red couch.", "couch"),
    ("A dog sits on a couch, [not on the red chair].", "couch"),
    ("A bedroom [without chairs, tables or lamps].", "bedroom"),
    ("A zoo pen [with few animals] and a white fence.", "white"),
    ("A bicycle [missing a front wheel].", "bicycle"),
    ("[People are not allowed on the green grass].", ""),
]


@pytest.mark.parametrize(("marked", "outside"), CASES, ids=[case[0] for case in CASES])
def test_scope_of_a_negation_is_left_alone(rules, marked, outside):
    before, rest = marked.split("[")
    inside, after = rest.split("]")
    caption, start, end = before + inside + after, len(before), len(before) + len(inside)
    result = negatives(rules, caption)
    for negative in result:
        for edit in negative.edits:
            assert edit.chosen[1] <= start or edit.chosen[0] >= end, negative.text
    changed = {caption[slice(*edit.chosen)] for n in result for edit in n.edits}
    if outside:
        assert any(outside in text for text in changed), changed
    else:
        assert not result, [n.text for n in result]


@pytest.mark.parametrize(
    "caption",
    [
        "A man in front of a few horses.",
        "A no parking sign next to a red car.",
        "A free standing sink next to a white toilet.",
        "An empty plate on a brown table.",
        "Any dog on a red couch.",
        "Three cats and all of the dogs on a couch.",
    ],
)
def test_what_only_looks_like_a_negation_has_no_scope(nlp, caption):
    (sentence,) = parse_sentences(nlp, [caption], load_lexicon())
    assert not sentence.negated


def test_a_symmetric_relation_across_a_negation_is_not_swapped(rules):
    """The swapped caption can be true of the same image, because "next to" is symmetric."""
    result = negatives(rules, "A bench with nobody on it next to a red car.")
    assert "A red car with nobody on it next to a bench." not in {n.text for n in result}
    assert "A red bench with nobody on it next to a car." in {n.text for n in result}
