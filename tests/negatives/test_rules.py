"""Swap and replace rules: what they make, what they leave alone, and the failure modes of earlier generators."""

from __future__ import annotations

import re
from itertools import islice

import pytest

from scramble.negatives.base import Caption, choose
from scramble.negatives.faults import faults
from scramble.negatives.parse import PipelineError, load_pipeline
from scramble.negatives.rules import RuleGenerator
from scramble.records import PreferencePair
from scramble.store import read_jsonl


def texts(found) -> set[str]:
    return {negative.text for negative in found}


@pytest.mark.parametrize(
    ("caption", "rule", "negative"),
    [
        ("A blue plate with a green salad.", "swap.attributes", "A green plate with a blue salad."),
        ("A black cat sitting on a couch.", "swap.move", "A cat sitting on a black couch."),
        ("A dog chasing a cat.", "swap.phrases", "A cat chasing a dog."),
        ("Two men are riding a horse.", "swap.phrases", "A horse is riding two men."),
        ("A white truck behind a red car.", "swap.heads", "A white car behind a red truck."),
        ("Two people in a field flying a kite.", "swap.numbers", "A person in a field flying two kites."),
        ("An orange cat sitting on a blue chair.", "swap.attributes", "A blue cat sitting on an orange chair."),
        ("A red umbrella next to a bench.", "replace.object", None),
        ("A cat on a table.", "replace.preposition", "A cat under a table."),
        ("A man sitting on a bench.", "replace.verb", "A man standing on a bench."),
        ("Two dogs in a field.", "replace.number", "Three dogs in a field."),
        ("A man wearing a red shirt.", "replace.colour", "A man wearing an orange shirt."),
        ("An old man on a bench.", "replace.age", "A young man on a bench."),
    ],
)  # fmt: skip
def test_makes(candidates, caption, rule, negative):
    found = texts(candidates(caption, rule))
    if negative == "A man wearing an orange shirt.":  # orange is too near to red; blue is not
        assert "A man wearing a blue shirt." in found
        assert negative not in found
    elif negative is None:
        assert found
        assert all(re.match(r"(A red \w|An? )", text) for text in found)
    else:
        assert negative in found


@pytest.mark.parametrize(
    ("caption", "why"),
    [
        ("A cat and a dog.", "coordination"),
        ("A cat next to a dog.", "symmetric relation"),
        ("A cat sitting beside a dog.", "symmetric relation after a verb of rest"),
        ("A plate with a sandwich.", "with, between equals"),
        ("A group of people.", "partitive"),
        ("A man near a person.", "a person may be the man"),
        ("A statue of a horse.", "of"),
    ],
)
def test_leaves_alone_what_would_mean_the_same(candidates, caption, why):
    assert not texts(candidates(caption, "swap.phrases")), why


def test_replaces_whole_words_at_their_place_only(candidates):
    """Failure modes 1 and 2: "red" is inside "covered", and the word comes twice."""
    found = candidates("A covered wagon with a red door and a red window.", "replace.colour")
    assert found
    for negative in found:
        assert "covered" in negative.text
        assert len(re.findall(r"\bred\b", negative.text)) == 1
        (edit, *_) = [e for e in negative.edits if e.chosen[1] - e.chosen[0] == 3]
        assert "A covered wagon with a red door and a red window."[slice(*edit.chosen)] == "red"


def test_never_writes_synonyms_or_what_is_there(candidates):
    found = texts(candidates("A couch and a bed next to a table.", "replace.object"))
    assert not any("sofa" in text for text in found)
    assert not any(text.count("bed") > 1 or text.count("table") > 1 for text in found)
    assert not any("desk" in text for text in found)  # too like a table


def test_articles_numbers_and_case(candidates):
    assert "An elephant stands in a field." in texts(candidates("A horse stands in a field.", "replace.object"))
    assert "Buses parked on the road." in texts(candidates("Trucks parked on the road.", "replace.object"))
    assert all(n.text[0].isupper() for n in candidates("Two dogs watching a bird on a fence."))


def test_edits_cover_exactly_what_changed(candidates):
    caption = "Two men are riding a brown horse in front of an old building."
    for negative in candidates(caption):
        rest, end = "", 0
        for edit in negative.edits:
            rest += caption[end : edit.chosen[0]] + negative.text[slice(*edit.rejected)]
            end = edit.chosen[1]
        assert rest + caption[end:] == negative.text


def test_frozen_names_and_gendered_pronouns_stay(candidates):
    assert not texts(candidates("A hot dog on a plate.", "replace.state"))
    assert not any("teddy" not in t for t in texts(candidates("A red kite behind a teddy bear.", "swap.phrases")))
    assert not any(t.startswith("A woman") for t in texts(candidates("A man holding his phone.", "replace.object")))


def test_candidates_do_not_depend_on_chunks_or_processes(pipeline, shared, generator):
    rows = list(islice(read_jsonl(shared / "data" / "coco_val2017_captions.jsonl"), 300))
    captions = [Caption(row["image"], i, row["caption"]) for i, row in enumerate(rows)]
    one = list(generator.negatives(captions))
    again = [next(iter(generator.negatives([caption]))) for caption in captions[:40]]
    assert one[:40] == again
    assert list(RuleGenerator(pipeline, processes=2).negatives(captions)) == one


def test_reads_a_bounded_number_of_captions_ahead(generator):
    drawn = 0

    def captions():
        nonlocal drawn
        for drawn in range(1, 100_000):
            yield Caption(str(drawn), 0, "A cat on a table.")

    stream = generator.negatives(captions())
    next(stream)
    assert drawn <= 1024


def test_choice_depends_on_seed_and_caption_alone(candidates):
    found = candidates("A brown dog chasing a white cat under a table.")
    first = choose(found, 3, 1, "image", 0)
    assert first == choose(found[::1], 3, 1, "image", 0)
    assert len({n.text for n in first}) == 3
    assert len({n.kind for n in first}) > 1
    draws = {choose(found, 1, seed, "image", 0)[0].text for seed in range(20)}
    assert len(draws) > 3


def test_few_faults_on_real_captions(generator, shared):
    """No identity at all; what a pattern sees as ungrammatical or as the same in meaning stays under 1 %."""
    rows = list(islice(read_jsonl(shared / "data" / "coco_val2017_captions.jsonl"), 600))
    captions = [Caption(row["image"], i, row["caption"]) for i, row in enumerate(rows)]
    pairs = [
        PreferencePair(f"{c.image_id}-{c.index}-{k}", (c.image_id,), "", c.text, n.text, n.kind, n.rule)
        for c, found in generator.negatives(captions)
        for k, n in enumerate(found)
    ]
    seen = [fault for pair in pairs for fault in faults(pair)]
    assert seen.count("identity") == 0
    assert seen.count("meaning-preserving") <= 0.01 * len(pairs)
    assert seen.count("ungrammatical") <= 0.01 * len(pairs)


def test_missing_pipeline_names_the_command():
    with pytest.raises(PipelineError, match="python -m spacy download en_core_web_sm"):
        load_pipeline("en_core_web_absent")


def test_unknown_rule_is_named(pipeline):
    with pytest.raises(ValueError, match="shuffle"):
        RuleGenerator(pipeline, rules=("swap", "shuffle"))
