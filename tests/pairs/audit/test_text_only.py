"""Text-only classifiers, refinement and the audit."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from scramble.formats import read_pairs
from scramble.formats.word_diff import word_edits
from scramble.pairs.audit.audit import audit
from scramble.pairs.audit.faults import faults
from scramble.pairs.audit.refine import balance_gaps, refine_text_only
from scramble.pairs.audit.text_only import accuracy, folds, text_only_accuracy
from scramble.records import PreferencePair
from scramble.reporting.audit_page import audit_tables, write_page


def pair(number: int, chosen: str, rejected: str, kind: str = "swap-object", image: str = "") -> PreferencePair:
    return PreferencePair(str(number), (image or str(number),), "", chosen, rejected, kind, "rule")


def leaky(count: int, share: float, seed: int = 0) -> list[PreferencePair]:
    """Pairs of which the share ``share`` is recognisable by the word order "cat ... dog"."""
    rng = random.Random(seed)
    pairs = []
    for i in range(count):
        texts = [f"A cat number{rng.randrange(3)} sees a dog.", f"A dog number{rng.randrange(3)} sees a cat."]
        pairs.append(pair(i, *(texts if rng.random() < share else texts[::-1])))
    return pairs


def test_accuracy_counts_ties_half_and_images_once():
    """Three images (right, wrong, tie) give 50 %. Residuals 0.5, -0.5, 0 give the error sqrt(0.5) / 3."""
    mean, error = accuracy(np.array([1.0, -2.0, 0.0]), ["a", "b", "c"])
    assert mean == 50
    assert error == pytest.approx(100 * np.sqrt(0.5) / 3)
    _, same_image = accuracy(np.array([1.0, 1.0, -1.0, -1.0]), ["a", "a", "b", "b"])
    _, apart = accuracy(np.array([1.0, 1.0, -1.0, -1.0]), ["a", "b", "c", "d"])
    assert same_image == pytest.approx(apart * np.sqrt(2))


def test_folds_keep_an_image_together():
    pairs = [pair(i, "a b c", "a c b", image=str(i // 4)) for i in range(80)]
    fold = folds(pairs, 5, seed=1)
    assert all(len(set(fold[i : i + 4])) == 1 for i in range(0, 80, 4))
    assert set(fold) == set(range(5))


def test_classifiers_find_the_leak_they_are_made_for():
    order = leaky(400, 0.9)
    assert text_only_accuracy(order, "bigram").accuracy > 80
    assert text_only_accuracy(order, "unigram").accuracy < 60  # the bags are nearly equal
    case = [pair(i, f"A cat {i}.", f"a cat {i} .") for i in range(60)]
    assert text_only_accuracy(case, "surface").accuracy == 100
    assert text_only_accuracy(case, "unigram").accuracy == 50
    longer = [pair(i, f"A cat {i}.", f"A big cat {i}.") for i in range(60)]
    assert text_only_accuracy(longer, "length").accuracy == 100
    assert abs(text_only_accuracy(leaky(400, 0.5), "bigram").accuracy - 50) < 8


def test_refinement_leaves_a_coin_and_is_seeded():
    pairs = leaky(600, 0.8)
    remaining = refine_text_only(pairs, seed=3)
    right = sum(p.chosen.startswith("A cat") for p in remaining) / len(remaining)
    assert 0.42 < right < 0.58
    assert 0.25 < len(remaining) / len(pairs) < 0.5  # at most 2 * (1 - 0.8), minus unmatched pairs in the bins
    assert text_only_accuracy(remaining, "character", seed=9).accuracy < 60
    assert remaining == refine_text_only(pairs, seed=3)


def test_refinement_drops_nothing_where_nothing_leaks():
    pairs = [
        pair(
            i,
            "A cat sees a dog." if i % 2 else "A dog sees a cat.",
            "A dog sees a cat." if i % 2 else "A cat sees a dog.",
        )
        for i in range(200)
    ]
    assert len(refine_text_only(pairs)) == len(pairs)


def test_cells_are_matched_with_their_mirror_images():
    """Cell (1, 1) has 3 pairs and (-1, -1) has 1: one of each is kept. (1, -1) has no partner. Gaps of 0 are kept."""
    gaps = [(0.01, 0.01), (0.012, 0.015), (0.019, 0.001), (-0.005, -0.01), (0.01, -0.01), (0.0, 0.0)]
    pairs = [pair(i, "a", "b") for i in range(6)]
    remaining = balance_gaps(pairs, *zip(*gaps, strict=True), seed=1)
    ids = {p.pair_id for p in remaining}
    assert {"3", "5"} < ids
    assert len(ids) == 3
    assert "4" not in ids


def test_a_gap_of_exactly_one_falls_in_the_last_cell():
    pairs = [pair(i, "a", "b") for i in range(4)]
    remaining = balance_gaps(pairs, [1.0, -1.0, 1.0, -0.99], [1.0, -1.0, 0.0, 0.0])
    assert {p.pair_id for p in remaining} == {"0", "1", "2", "3"}
    with pytest.raises(ValueError, match="pair 0"):
        balance_gaps(pairs[:1], [float("nan")], [0.0])


def test_balance_is_per_kind():
    pairs = [pair(0, "a", "b", "x"), pair(1, "a", "b", "y")]
    assert balance_gaps(pairs, [0.5, -0.5], [0.5, -0.5]) == []


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        ("A cat and a dog.", "A dog and a cat.", {"meaning-preserving"}),
        ("A cat next to a dog.", "A dog next to a cat.", {"meaning-preserving"}),
        ("A man on a couch.", "A man on a sofa.", {"meaning-preserving"}),
        ("A cat on a dog.", "A dog on a cat.", set()),
        ("A cat on a mat.", "a cat on a mat", {"identity"}),
        ("A horse on a field.", "A elephant on a field.", {"ungrammatical"}),
        ("Two dogs on a field.", "Two dog on a field.", {"ungrammatical"}),
        ("Two dogs on a field.", "Three dogs on a field.", set()),
        ("A dog on a field.", "A dog on on a field.", {"ungrammatical"}),
        ("An man on a horse.", "A horse on an man.", set()),
    ],
)
def test_faults(chosen, rejected, expected):
    assert faults(pair(0, chosen, rejected)) == expected


def test_audit_of_sugarcrepe_finds_its_length_and_period_leaks(shared):
    pairs = list(read_pairs(shared / "data" / "sugarcrepe_sample"))
    result = audit(pairs)
    assert result["pairs"] == 280
    kinds = result["kinds"]
    assert kinds["add-object"]["blind"]["length"]["accuracy"] > 95
    assert kinds["all"]["blind"]["surface"]["accuracy"] > 58
    assert kinds["replace-object"]["same_bag"] == 0
    assert kinds["swap-attribute"]["same_bag"] > 40
    assert sum(kinds["all"]["length_ratio"]) == 280
    json.dumps(result)
    assert len(audit_tables(result)) == 3


def test_page_is_self_contained_and_escapes_texts(tmp_path):
    from PIL import Image

    evil = '<script>alert("x")</script>'
    pairs = [pair(i, f"A cat {evil} {i}.", f"A dog {evil} {i}.", kind='k"><img src=x>') for i in range(5)]
    path = tmp_path / "audit.html"
    write_page(path, audit(pairs), pairs, open_image=lambda name: Image.new("RGB", (500, 300), "red"))
    page = path.read_text()
    assert evil not in page
    assert "<img src=x>" not in page
    assert "&lt;script&gt;" in page
    assert page.count('src="data:image/jpeg;base64,') == 5
    assert "http:" not in page and "https:" not in page
    assert "<mark>cat</mark>" in page
    assert "<mark>dog</mark>" in page


def test_word_edits():
    (edit,) = word_edits("A cat sat.", "A dog sat.")
    assert (edit.chosen, edit.rejected) == ((2, 5), (2, 5))
