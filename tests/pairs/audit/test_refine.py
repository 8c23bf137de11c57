"""Refinement of small and unbalanced sets: any subset, kinds and seed give a usable result."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from scramble.pairs.audit.audit import audit
from scramble.pairs.audit.refine import kind_groups, refine_text_only
from scramble.pairs.audit.text_only import MIN_PAIRS, cross_fit, differences, text_only_accuracy
from scramble.records import ImageFile, ImageRecord, PreferencePair

THINGS = ("cat", "dog", "bus", "tree", "boat", "chair")
COLOURS = ("red", "blue", "green", "black")


def make(number: int, kind: str, rng: random.Random, images: int) -> PreferencePair:
    """A colour swap of a random caption; the chosen side starts more often with "A" than with "One"."""
    (a, b), (x, y) = rng.sample(COLOURS, 2), rng.sample(THINGS, 2)
    opening = "A" if rng.random() < 0.7 else "One"
    other = "One" if opening == "A" else "A"
    return PreferencePair(
        str(number),
        (str(rng.randrange(images)),),
        "",
        f"{opening} {a} {x} and a {b} {y}.",
        f"{other} {b} {x} and a {a} {y}.",
        kind,
    )


def check(pairs: list[PreferencePair], seed: int) -> list[PreferencePair]:
    remaining = refine_text_only(pairs, seed=seed)
    place = {id(pair): number for number, pair in enumerate(pairs)}
    order = [place[id(pair)] for pair in remaining]  # the remaining pairs are input pairs without repetition, in order
    assert order == sorted(set(order))
    groups = kind_groups(pairs)
    assert sorted((*groups.alone, *groups.pooled, *groups.unrefined)) == sorted({p.kind for p in pairs})
    for kind in groups.unrefined:
        assert [p for p in remaining if p.kind == kind] == [p for p in pairs if p.kind == kind]
    assert remaining == refine_text_only(pairs, seed=seed)
    return remaining


def random_case(seed: int) -> None:
    rng = random.Random(seed)
    kinds = [f"kind{k}" for k in range(rng.randint(1, 8)) for _ in range(rng.choice((1, 1, 3, 20)))]
    pairs = [make(n, rng.choice(kinds), rng, rng.choice((1, 3, 8, 200))) for n in range(rng.randint(0, 126))]
    check(pairs, seed)


@pytest.mark.parametrize("seed", range(12))
def test_random_subsets_kinds_and_seeds(seed: int) -> None:
    random_case(seed)


@pytest.mark.full
@pytest.mark.parametrize("block", range(10))
def test_many_random_subsets_kinds_and_seeds(block: int) -> None:
    for seed in range(100 + 20 * block, 120 + 20 * block):
        random_case(seed)


@pytest.mark.full
def test_subsets_of_the_rules_pairs_of_coco_captions(shared: Path, generator) -> None:
    """Regression test: refinement failed for 76 of 80 subsets of 10 to 126 pairs."""
    import json

    from scramble.pairs.captions.assemble import caption_pairs
    from scramble.pairs.method import collect

    captions: dict[str, list[str]] = {}
    for line in (shared / "data" / "coco_val2017_captions.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        captions.setdefault(row["image"], []).append(row["caption"])
    images = [ImageRecord(name, ImageFile(path="x"), tuple(texts)) for name, texts in captions.items()]
    pairs, _ = collect(caption_pairs(images, generator, seed=0))
    for seed in range(80):
        rng = random.Random(seed)
        check(rng.sample(pairs, rng.randint(10, 126)), seed)


def test_the_rows_of_a_kind_may_all_stand_at_even_places() -> None:
    """Signs alternate among the fitted rows, so that pairs 0, 2, 4, ... of a data set have two classes, too."""
    rng = random.Random(0)
    pairs = [make(n, "rare" if n % 2 == 0 else "common", rng, 200) for n in range(120)]
    check(pairs, 1)
    table = differences(pairs, "unigram")
    lonely = np.flatnonzero(np.arange(120) % 2 == 0)
    scores = cross_fit(table[lonely], np.arange(60) % 5)
    assert (scores > 0).mean() > 0.55  # "A" opens 70 % of the chosen texts


def test_small_kinds_are_refined_together_or_left_alone() -> None:
    rng = random.Random(1)
    sizes = {"large": 40, "small": 12, "smaller": 9, "one image": 30}
    pairs = [make(n, kind, rng, 500) for n, kind in enumerate(k for k, size in sizes.items() for _ in range(size))]
    pairs = [
        p if p.kind != "one image" else PreferencePair(p.pair_id, ("x",), "", p.chosen, p.rejected, p.kind)
        for p in pairs
    ]
    groups = kind_groups(pairs)
    assert (groups.alone, groups.pooled, groups.unrefined) == (("large",), ("one image", "small", "smaller"), ())
    few = [p for p in pairs if p.kind in ("large", "small")]
    assert kind_groups(few).unrefined == ("small",)
    check(few, 0)
    assert refine_text_only(few[-MIN_PAIRS + 1 :]) == few[-MIN_PAIRS + 1 :]
    assert kind_groups([]).names == {} and refine_text_only([]) == []


def test_a_kind_may_lose_all_its_pairs() -> None:
    """All chosen texts of one kind start alike, so that the first round drops them all; the other kind continues."""
    rng = random.Random(2)
    fair = [make(n, "fair", rng, 500) for n in range(120)]
    recognisable = [
        PreferencePair(f"t{n}", (f"t{n}",), "", f"True {n % 7}.", f"False {n % 7}.", "told") for n in range(30)
    ]
    remaining = check([*fair, *recognisable], 0)
    assert {p.kind for p in remaining} == {"fair"}
    assert check(recognisable, 3) == []


def test_answers_of_one_letter_have_no_character_n_grams() -> None:
    pairs = [PreferencePair(str(n), (str(n),), "Which?", "AB"[n % 2], "BA"[n % 2], "choice") for n in range(40)]
    assert text_only_accuracy(pairs, "character").accuracy == 50
    numbers = audit(pairs)["kinds"]["choice"]["blind"]
    assert numbers["character"]["accuracy"] == 50 and "unigram" in numbers
