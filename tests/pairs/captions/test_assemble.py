"""Tests pairs from images: bad captions, support by other captions, selection, yes/no questions."""

from __future__ import annotations

import pytest

from scramble.pairs.base import Caption, Negative, Skip, changed_span
from scramble.pairs.captions.assemble import caption_pairs
from scramble.pairs.captions.surface import normalise, problem
from scramble.pairs.method import collect
from scramble.records import Edit, ImageFile, ImageRecord

BAD = {
    "": "empty",
    "   \n ": "empty",
    "word " * 5000: "more than 60 words",
    "A dog 🐶 on a couch": "contains emoji or symbols",
    "Ein Hund liegt auf dem Sofa neben einer Katze": "not English",
    "Собака лежит на диване рядом с кошкой": "not English",
    "كلب يجلس على الأريكة بجانب قطة": "not English",
    "See https://example.com for the image": "contains a URL",
    "A <b>dog</b> on a couch": "contains HTML",
    "A dog <|im_end|> on a couch": "contains a control token",
    "[INST] A dog on a couch": "contains a control token",
    "A dog on a couch.</s>": "contains HTML",
    "A dog\x07 on a couch": "control characters",
    "!!! ... ???": "no words",
    "dog": "fewer than 3 words",
    "Is the dog on the red couch?": "a question",
    "dog dog dog dog": "one word repeated",
}


@pytest.mark.parametrize(("text", "reason"), BAD.items())
def test_bad_captions_are_skipped_with_a_reason(generator, text, reason):
    image = ImageRecord("7", ImageFile(path="7.jpg"), (text, "A cat on a table."))
    pairs, skips = collect(caption_pairs([image], generator))
    rows = [skip.row() for skip in skips]
    assert problem(text) == reason
    assert [(row["caption"], row["reason"]) for row in rows] == [(0, reason)]
    assert len(rows[0]["text"]) <= 500
    assert [pair.pair_id for pair in pairs] == ["7-1-0"]


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("a dog on a couch", "A dog on a couch."),
        ("A dog , on a couch . ", "A dog, on a couch."),
        ("A dog on a couch..", "A dog on a couch."),
        ("Is it a dog ?", "Is it a dog?"),
        ("THERE ARE WOMEN ON A BENCH", "There are women on a bench."),
        ("a TV  on a desk;", "A TV on a desk."),
    ],
)
def test_normal_form(text, normal):
    assert normalise(text) == normal
    assert normalise(normal) == normal


class Fixed:
    """A generator with fixed candidates."""

    name = "fixed"

    def __init__(self, *answers):
        self.answers = answers

    def negatives(self, captions):
        yield from zip(captions, self.answers, strict=False)


def image(*captions: str) -> ImageRecord:
    return ImageRecord("1", ImageFile(path="1.jpg"), captions, source="test")


def test_another_caption_saves_from_a_false_negative():
    """The image also has a dog: "a dog" must not replace "a cat", and no caption may be a negative of another."""
    answer = [
        Negative("A dog on a bed.", "replace-object", "r"),
        Negative("A pet dog sleeps.", "swap-object", "r"),
        Negative("A horse on a bed.", "replace-object", "r"),
    ]
    stream = caption_pairs([image("A cat on a bed.", "a pet dog sleeps")], Fixed(answer, Skip("done")), per_caption=9)
    (pair,), _ = collect(stream)
    assert pair.rejected == "A horse on a bed."
    assert pair.source == "test"


def test_every_caption_without_a_pair_is_reported():
    pairs, skips = collect(
        caption_pairs(
            [image("A cat on a bed.", "A cat on a mat.", "A cat in a box.")],
            Fixed([], Skip("abstained"), [Negative("A cat on a bed.", "swap-object", "r")]),
        )
    )
    assert pairs == []
    assert [skip.reason for skip in skips] == [
        "no word that the rules can swap or replace",
        "abstained",
        "another caption supports all candidates",
    ]


def test_sloppy_negatives_take_the_normal_form():
    (pair,) = caption_pairs([image("a cat on a bed")], Fixed([Negative("a bed on a cat .", "swap-object", "r")]))
    assert (pair.chosen, pair.rejected) == ("A cat on a bed.", "A bed on a cat.")
    (edit,) = pair.edits
    assert pair.chosen[slice(*edit.chosen)] == "cat on a bed"
    assert pair.rejected[slice(*edit.rejected)] == "bed on a cat"


def test_one_caption_per_image_by_seed_and_by_similarity(generator):
    record = image("A cat on a table.", "A dog on a bench.", "A man on a horse.")
    drawn = {next(caption_pairs([record], generator, captions_per_image="one", seed=s)).pair_id[2] for s in range(20)}
    assert drawn == {"0", "1", "2"}
    (pair,) = caption_pairs([record], generator, captions_per_image="clip", similarity=lambda items: [0.1, 0.3, 0.2])
    assert pair.chosen == "A dog on a bench." and pair.scores == {"similarity.chosen": 0.3}
    with pytest.raises(ValueError, match="similarity"):
        list(caption_pairs([record], generator, captions_per_image="clip"))


def test_yes_no_questions():
    answer = [Negative("A bed on a cat.", "swap-object", "r", (Edit((2, 5), (2, 5)),))]
    yes, no = caption_pairs([image("A cat on a bed.")], Fixed(answer), form="yes-no")
    assert yes.prompt == "Does the image show 'A cat on a bed'? Please answer yes or no."
    assert (yes.chosen, yes.rejected) == ("Yes", "No")
    assert no.prompt == "Does the image show 'A bed on a cat'? Please answer yes or no."
    assert (no.chosen, no.rejected) == ("No", "Yes")
    assert yes.pair_id != no.pair_id


def test_pairs_do_not_depend_on_the_order_of_images(generator):
    records = [
        ImageRecord(str(i), ImageFile(path=f"{i}.jpg"), (text,))
        for i, text in enumerate(["A cat on a table.", "Two dogs near a red car.", "A man riding a brown horse."])
    ]
    forward = list(caption_pairs(records, generator, per_caption=2, seed=3))
    backward = list(caption_pairs(records[::-1], generator, per_caption=2, seed=3))
    assert sorted(forward, key=lambda p: p.pair_id) == sorted(backward, key=lambda p: p.pair_id)


def test_changed_span_lies_on_word_bounds():
    (edit,) = changed_span("A cat on a mat.", "A car on a mat.")
    assert (edit.chosen, edit.rejected) == ((2, 5), (2, 5))
    assert changed_span("same", "same") == ()


def test_caption_index_and_text_reach_the_generator():
    seen: list[Caption] = []

    class Spy(Fixed):
        def negatives(self, captions):
            for caption in captions:
                seen.append(caption)
                yield caption, []

    list(caption_pairs([image("", "a cat on a bed")], Spy()))
    assert seen == [Caption("1", 1, "A cat on a bed.", None)]
