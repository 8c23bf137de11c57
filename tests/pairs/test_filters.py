"""Tests score columns, conditions on columns, near-duplicates, and images of benchmarks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scramble.pairs.contamination import coco_id, find_benchmark_images
from scramble.pairs.filters import (
    FilterError,
    column_value,
    is_within,
    lemma_identity,
    near_duplicates,
    score_images,
    score_pairs,
    text_columns,
    with_columns,
)
from scramble.records import ImageFile, ImageRecord, PreferencePair
from scramble.storage.files import StoreError


def pair(number: int, chosen: str, rejected: str) -> PreferencePair:
    return PreferencePair(str(number), ("1",), "", chosen, rejected, "k")


def test_columns_then_predicates():
    pairs = [pair(0, "A cat on a mat.", "A mat on a cat."), pair(1, "A cat.", "A very very long dog indeed.")]
    scored = list(score_pairs(pairs, {"words": lambda texts: [len(t.split()) for t in texts]}, batch=1))
    assert scored[0].scores == {"words.chosen": 5.0, "words.rejected": 5.0}
    assert [is_within(p, "words.rejected", None, 5) for p in scored] == [True, False]
    assert [is_within(p, "words.rejected", 6, None) for p in scored] == [False, True]
    with pytest.raises(FilterError, match="pair 0 has no column 'grammar"):
        is_within(pairs[0], "grammar.rejected", 0.5, None)


def test_similarities_are_columns():
    image = ImageFile(bytes=b"x")
    values = {"A cat.": 0.9, "A dog.": 0.2}
    (scored,) = score_images([pair(0, "A cat.", "A dog.")], lambda items: [values[t] for _, t in items], {"1": image})
    assert scored.scores == {"similarity.chosen": 0.9, "similarity.rejected": 0.2}


def test_text_columns():
    scored = with_columns(pair(0, "A cat on a mat.", "A cat on a big red mat."), text_columns)
    assert scored.scores["length_ratio"] == pytest.approx(7 / 5)
    assert scored.scores["common_words"] == pytest.approx(4 / 6)
    assert text_columns(pair(0, "A cat.", "a CAT"))["same_words"] == 1


def test_lemma_identity(shared):
    import spacy

    nlp = spacy.load(shared / "models" / "en_core_standin")
    column = lemma_identity(nlp)
    assert column(pair(0, "A cat sits.", "a cat sits"))["same_lemmas"] == 1
    assert column(pair(0, "A cat sits.", "A dog sits."))["same_lemmas"] == 0


def test_near_duplicates():
    pairs = [
        pair(0, "A cat on a mat.", "A mat on a cat."),
        pair(1, "the cat on the mat", "A mat on a cat"),
        pair(2, "A cat on a mat.", "A dog."),
    ]
    column = near_duplicates()
    assert [with_columns(p, column).scores["near_duplicate"] for p in pairs] == [0, 1, 0]


def test_the_gap_of_a_score_is_a_column():
    scored = replace(pair(0, "A cat.", "A dog."), scores={"grammar.chosen": 0.75, "grammar.rejected": 0.5})
    assert column_value(scored, "grammar.gap") == 0.25
    assert not is_within(scored, "grammar.gap", None, 0.2)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("COCO_val2014_000000000139.jpg", 139),
        ("000000000139", 139),
        ("139", 139),
        ("folder/000000397133.jpg", 397133),
        ("cat.jpg", None),
        ("", None),
        ("0054c91397f2fe05", None),
        ("1234567890123456", None),
        ("1000092795.jpg", None),
        ("photo_139.jpg", None),
        ("139.jpg", None),
        ("000001234567", None),
        ("0", None),
    ],
)
def test_coco_ids(name, number):
    assert coco_id(name) == number


def test_contamination_by_id_and_by_hash(tmp_path, shared):
    from PIL import Image

    folder = tmp_path / "bench"
    folder.mkdir()
    Image.new("RGB", (8, 8), "red").save(folder / "odd.bmp")
    Image.new("RGB", (8, 8), "blue").save(folder / "COCO_val2014_000000000139.jpg")
    copy = tmp_path / "renamed.bmp"
    copy.write_bytes((folder / "odd.bmp").read_bytes())
    benchmark_images = find_benchmark_images(
        {"sugarcrepe": shared / "data" / "sugarcrepe_sample" / "add_att.json", "mine": folder}
    )
    images = [
        ImageRecord("000000562121", ImageFile(bytes=b"x")),  # the first entry of add_att.json
        ImageRecord("copy", ImageFile(path=str(copy))),
        ImageRecord("139", ImageFile(bytes=b"encoded again")),
        ImageRecord("clean", ImageFile(bytes=b"y")),
    ]
    assert [benchmark_images.benchmark(image) for image in images] == ["sugarcrepe", "mine", "mine", ""]
    with pytest.raises(StoreError, match="nothing"):
        find_benchmark_images({"nothing": tmp_path / "absent.json"})
