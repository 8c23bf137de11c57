"""Tests text-only classifiers, refinement and the audit."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace

import numpy as np
import pytest

from scramble.formats import read_pairs
from scramble.formats.word_diff import word_edits
from scramble.language.scripts import word_count
from scramble.pairs.audit.audit import audit_pairs, length_ratios, sample_note
from scramble.pairs.audit.faults import faults
from scramble.pairs.audit.language_model import TrigramModel
from scramble.pairs.audit.text_features import character_ngrams, word_ngrams, words
from scramble.pairs.audit.text_only import (
    CLASSIFIERS,
    cross_fit,
    folds,
    measured,
    sample_of_pairs,
    sampled,
    text_only_accuracy,
    transfer_accuracies,
)
from scramble.pairs.steps.balanced_pairs import balance_gaps
from scramble.records import PreferencePair
from scramble.reporting.audit_page import audit_tables, write_audit_page


def pair(number: int, chosen: str, rejected: str, kind: str = "swap-object", image: str = "") -> PreferencePair:
    return PreferencePair(str(number), (image or str(number),), "", chosen, rejected, kind, "rule")


def leaky(count: int, share: float, seed: int = 0) -> list[PreferencePair]:
    """Return pairs, a share ``share`` of which can be recognised by the word order "cat ... dog"."""
    rng = random.Random(seed)
    pairs = []
    for i in range(count):
        texts = [f"A cat number{rng.randrange(3)} sees a dog.", f"A dog number{rng.randrange(3)} sees a cat."]
        pairs.append(pair(i, *(texts if rng.random() < share else texts[::-1])))
    return pairs


def test_accuracy_counts_ties_half_and_images_once():
    """Three images (right, wrong, tie) give 50 %. Residuals 0.5, -0.5, 0 give the error sqrt(0.5) / 3."""
    result = measured("x", np.array([1.0, -2.0, 0.0]), ["a", "b", "c"])
    assert result.accuracy == 50
    assert result.error == pytest.approx(100 * np.sqrt(0.5) / 3)
    same_image = measured("x", np.array([1.0, 1.0, -1.0, -1.0]), ["a", "a", "b", "b"]).error
    apart = measured("x", np.array([1.0, 1.0, -1.0, -1.0]), ["a", "b", "c", "d"]).error
    assert same_image == pytest.approx(apart * np.sqrt(2))


def test_intervals_resample_images():
    """100 images of four pairs, half of them right: the standard error over images is 5 points, over pairs 2.5."""
    scores = np.repeat([1.0, -1.0], 200)
    low, high = measured("x", scores, [str(i // 4) for i in range(400)]).interval
    assert low == pytest.approx(50 - 1.96 * 5, abs=1.5) and high == pytest.approx(50 + 1.96 * 5, abs=1.5)


def test_folds_keep_an_image_together():
    groups = [str(i // 4) for i in range(80)]
    fold = folds(groups, 5, seed=1)
    assert all(len(set(fold[i : i + 4])) == 1 for i in range(0, 80, 4))
    assert np.bincount(fold).tolist() == [16] * 5


def test_windows_of_changed_text_have_all_n_gram_differences():
    """The features of a pair equal the difference of the counts of both whole texts."""
    chosen, rejected = "A small cat sat on the old red mat by a dog", "A small dog sat on the old red mat by a cat"
    gap = word_ngrams(3)([pair(0, chosen, rejected)])

    sides = [word_ngrams(3)([pair(0, text, "q")]) for text in (chosen, rejected)]
    assert abs(gap - (sides[0] - sides[1])).sum() == 0 and abs(gap).sum() > 10
    sides = [character_ngrams([pair(0, text, "q")]) for text in (chosen, rejected)]
    assert abs(character_ngrams([pair(0, chosen, rejected)]) - (sides[0] - sides[1])).sum() == 0


def test_kneser_ney_by_hand():
    """Texts "a b" and "a c". Distinct left contexts: a, b, c 1 each, end 2, of 5 bigram types; all discounts are those
    of n1 and n2. Unigrams: n1 = 3, n2 = 1, D = 3/5, so P(a) = (1 - 0.6 + 0.6 * 4/5) / 5 = 0.176. Bigrams: "<s> a" has
    1 left context, and so have "a b", "a c", "b </s>", "c </s>": n1 = 5, n2 = 0, D = 1, so lower orders give 0.176 to
    "a" after "<s>". Trigrams: "<s> <s> a" has count 2, the other four have 1: D = 4/6, and
    P(a | <s> <s>) = (2 - 2/3 + 2/3 * 0.176) / 2."""
    model = TrigramModel(["a b", "a c"])
    assert model._probability(("<s>", "<s>", "a")) == pytest.approx((2 - 2 / 3 + 2 / 3 * 0.176) / 2)
    total = sum(model._probability(("a", "b", word)) for word in ("a", "b", "c", "</s>", "<unknown>"))
    assert total == pytest.approx(1)
    assert model.logp("a b") > model.logp("b a")
    assert TrigramModel([]).logp("a b") == 0


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


def test_the_rows_may_all_stand_at_even_places():
    """Signs alternate among the fitted rows, so that pairs 0, 2, 4, ... of a data set have two classes, too."""
    pairs = leaky(400, 0.8)[::2]
    classifier = CLASSIFIERS["bigram"]
    scores = cross_fit(classifier, classifier.features(pairs), np.arange(200) % 5)
    assert (scores > 0).mean() > 0.7


def test_readers_find_what_they_are_made_for():
    order = leaky(400, 0.9)
    assert text_only_accuracy(order, "language model").accuracy > 80
    assert text_only_accuracy(order, "boosting").accuracy == 50  # both are animals
    riders = [pair(i, f"A man {i} rides a horse.", f"A horse {i} rides a man.") for i in range(60)]
    assert text_only_accuracy(riders, "boosting").accuracy == 100
    plural = [pair(i, f"Two dogs near house {i}.", f"Two dog near house {i}.") for i in range(60)]
    assert text_only_accuracy(plural, "boosting").accuracy == 100


def test_transfer_shows_what_selection_by_own_scores_hides():
    """Pairs that a classifier of the same pairs recognises are removed until it is at chance. The out-of-fold accuracy
    then seems to be at chance or even below it, but a classifier of other images still finds the cue."""
    pairs, others = leaky(1500, 0.7), [replace(p, image_ids=(f"x{p.pair_id}",)) for p in leaky(1500, 0.7, seed=1)]
    assert transfer_accuracies(pairs, others)["trigram"].accuracy == pytest.approx(70, abs=4)
    rng = random.Random(0)
    kept = [p for p in pairs if not p.chosen.startswith("A cat") or rng.random() < 3 / 7]
    assert transfer_accuracies(kept, others)["trigram"].accuracy == pytest.approx(50, abs=4)
    assert len(sampled(pairs, seed=0, limit=500)) == pytest.approx(500, abs=60)
    assert len(sampled(pairs, seed=0, limit=1500)) == 1500


def test_a_stream_is_sampled_by_image(monkeypatch):
    """Of 1,500 images with two pairs each, the share is halved three times for a limit of 500, in any order."""
    stream = [p for pair in leaky(1500, 0.7) for p in (pair, replace(pair, pair_id=f"{pair.pair_id}-b"))]
    monkeypatch.setattr("scramble.pairs.audit.text_only.MAX_FITTED", 500)
    sample, other = sample_of_pairs(stream, 0), sample_of_pairs(stream[::-1], 0)
    assert sample.total == 3000 and sample.share == 1 / 8
    assert {p.pair_id for p in sample.items} == {p.pair_id for p in other.items}
    assert len(sample.items) == 2 * len({p.image_ids for p in sample.items}) == pytest.approx(375, abs=60)
    result = audit_pairs(sample.items, total=sample.total)
    assert (result["pairs"], result["measured"]) == (3000, len(sample.items))
    assert result["kinds"]["all"]["n"] == len(sample.items) and result["images"] == len(sample.items) / 2
    assert f"{len(sample.items)} of 3,000 pairs" in sample_note(result)
    assert sample_note(audit_pairs(sample.items)) == ""


def test_audit_reports_transfer_only_for_other_images():
    pairs, others = leaky(200, 0.8), [replace(p, image_ids=(f"x{p.pair_id}",)) for p in leaky(200, 0.8, seed=1)]
    result = audit_pairs(pairs, held_out=[*others, *pairs])
    assert result["held_out"] == 200 and set(result["kinds"]["all"]["transfer"]) == set(CLASSIFIERS)
    row = result["kinds"]["swap-object"]["transfer"]["bigram"]
    assert row["low"] < row["accuracy"] < row["high"] and row["accuracy"] > 70
    assert len(audit_tables(result)) == 4
    assert audit_pairs(pairs, held_out=pairs)["kinds"]["all"]["transfer"] == {}
    scored = [
        replace(p, scores={"likelihood.chosen": -9.0, "likelihood.rejected": -10.0 if i % 4 else -8.0})
        for i, p in enumerate(pairs)
    ]
    assert audit_pairs(scored)["kinds"]["all"]["blind"]["text_only"]["accuracy"] == 75


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
        ("A street with a tree.", "A street with two street signs.", set()),
    ],
)
def test_faults(chosen, rejected, expected):
    assert faults(pair(0, chosen, rejected)) == expected


def test_audit_of_sugarcrepe_finds_its_length_and_period_leaks(shared):
    pairs = list(read_pairs(shared / "data" / "sugarcrepe_sample"))
    result = audit_pairs(pairs)
    assert result["pairs"] == 280
    kinds = result["kinds"]
    assert kinds["add-object"]["blind"]["length"]["accuracy"] > 95
    assert kinds["all"]["blind"]["surface"]["accuracy"] > 58
    assert kinds["replace-object"]["same_bag"] == 0
    assert kinds["swap-attribute"]["same_bag"] > 40
    assert sum(kinds["all"]["length_ratio"]) == 280
    json.dumps(result)
    assert len(audit_tables(result)) == 3


def test_a_file_without_kinds_has_one_row_and_only_refined_pairs_have_the_note(tmp_path):
    pairs, note = leaky(200, 0.8), "in-sample accuracy"
    result = audit_pairs([replace(p, kind="unknown") for p in pairs])
    assert [row[0] for row in audit_tables(result)[0].rows] == ["all"]
    assert "<td>unknown</td>" not in _page(tmp_path, result, pairs)
    assert [row[0] for row in audit_tables(audit_pairs(pairs))[0].rows] == ["all", "swap-object"]
    pages = [_page(tmp_path, result, pairs, is_refined=is_refined) for is_refined in (None, True, False)]
    assert [page.count(note) for page in pages] == [1, 1, 0]
    assert "accuracy of refined pairs is too low" in pages[0] and "accuracy is too low" in pages[1]


def _page(folder, result, pairs, **options):
    write_audit_page(folder / "audit.html", result, pairs, **options)
    return (folder / "audit.html").read_text()


def test_page_is_self_contained_and_escapes_texts(tmp_path):
    from PIL import Image

    evil = '<script>alert("x")</script>'
    pairs = [pair(i, f"A cat {evil} {i}.", f"A dog {evil} {i}.", kind='k"><img src=x>') for i in range(5)]
    path = tmp_path / "audit.html"
    write_audit_page(path, audit_pairs(pairs), pairs, open_image=lambda name: Image.new("RGB", (500, 300), "red"))
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


def test_word_edits_of_a_script_without_spaces():
    (edit,) = word_edits("一只猫坐在红色沙发上。", "一只狗坐在红色沙发上。")
    assert (edit.chosen, edit.rejected) == ((2, 3), (2, 3))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It's a well-known café.", ["it's", "a", "well", "known", "café"]),
        ("一只iPhone手机，很新。", ["一", "只", "iphone", "手", "机", "很", "新"]),
        ("ネコとCPU", ["ネ", "コ", "と", "cpu"]),
        ("แมวดำ 2 ตัว", [*"แมวดำ", "2", *"ตัว"]),
        ("बिल्ली की कुर्सी।", ["बिल्ली", "की", "कुर्सी"]),
        ("고양이 두 마리", ["고양이", "두", "마리"]),
    ],
)
def test_words_of_all_scripts(text, expected):
    assert words(text) == expected


def test_words_of_english_are_runs_of_word_characters(shared):
    """The pattern for all scripts finds the same words in English as the pattern for English alone."""
    lines = (shared / "data" / "coco_val2017_captions.jsonl").read_text().splitlines()
    text = " ".join(json.loads(line)["caption"] for line in lines)
    assert words(text) == re.findall(r"\w+(?:'\w+)?", text.lower())
    assert word_count(text) == len(text.split())


ANIMALS = {
    "Chinese": ("一只{}在{}旁边看着{}。", "猫 狗 马 鸟 牛 羊 熊 鱼", "恐龙"),
    "Japanese": ("{}が{}の隣で{}を見ている。", "猫 いぬ ウマ 鳥 うし ヒツジ 熊 さかな", "恐竜"),
    "Thai": ("{}อยู่ข้าง{}และมอง{}", "แมว หมา ม้า นก วัว แกะ หมี ปลา", "ไดโนเสาร์"),
    "Hindi": ("{} {} के पास {} को देखता है।", "बिल्ली कुत्ता घोड़ा चिड़िया गाय भेड़ भालू मछली", "डायनासोर"),
}


@pytest.mark.parametrize("language", ANIMALS)
def test_shortcuts_are_found_in_scripts_without_spaces(language):
    """A rejected text with an animal that no chosen text has is recognised. A swap of two animals is not recognised."""
    template, names, other = ANIMALS[language]
    rng = random.Random(0)
    swaps, replaced = [], []
    for number in range(300):
        one, two, three = rng.sample(names.split(), 3)
        chosen = template.format(one, two, three)
        swaps.append(pair(number, chosen, template.format(two, one, three)))
        replaced.append(pair(number, chosen, template.format(other, two, three)))
    for name in ("unigram", "bigram", "trigram", "character", "language model"):
        assert text_only_accuracy(replaced, name).accuracy > 95, name
    for name in CLASSIFIERS:
        assert 40 <= text_only_accuracy(swaps, name).accuracy <= 60, name


def test_statistics_of_texts_without_spaces():
    """Repeated characters are no grammatical errors, and lengths are counted in characters."""
    pairs = [pair(0, "一只猫慢慢地走。", "一只狗看看花花草草，慢慢地走。")]
    result = audit_pairs(pairs)
    assert result["rules"]["rule"]["ungrammatical"] == 0
    assert length_ratios(pairs)[-1] == 1  # 13 and 7 characters
