"""Tests refinement: which pairs are kept and why; results for small sets, different seeds and different orders."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scramble.pairs.audit import refined_pairs
from scramble.pairs.audit.refine import TextOnlyOdds, kind_groups, refine, select
from scramble.pairs.audit.refined_pairs import RefinedPairs
from scramble.pairs.audit.text_only import MIN_PAIRS, text_only_accuracy, transfer_accuracies
from scramble.pairs.base import CandidateSet, Skip
from scramble.pairs.method import PairMethod
from scramble.records import PreferencePair

THINGS = ("cat", "dog", "bus", "tree", "boat", "chair")
COLOURS = ("red", "blue", "green", "black")


def make(number: int, kind: str, rng: random.Random, images: int, share: float = 0.7) -> PreferencePair:
    """Return a colour swap of a random caption. In a share of the pairs, the chosen side starts with "A" rather than
    "One".
    """
    (a, b), (x, y) = rng.sample(COLOURS, 2), rng.sample(THINGS, 2)
    opening = "A" if rng.random() < share else "One"
    other = "One" if opening == "A" else "A"
    return PreferencePair(
        str(number),
        (str(rng.randrange(images)),),
        "",
        f"{opening} {a} {x} and a {b} {y}.",
        f"{other} {b} {x} and a {a} {y}.",
        kind,
    )


def single(pairs: list[PreferencePair]) -> list[CandidateSet]:
    return [CandidateSet((pair,), (1.0,), 1) for pair in pairs]


def refined(pairs: list[PreferencePair], seed: int = 0) -> list[PreferencePair]:
    return refine(single(pairs), seed=seed)


def test_the_kept_share_follows_from_the_odds() -> None:
    """90 % of the chosen texts start with "A", so their log-odds are near log 9, and exp(-1.5 log 9) = 3.7 % of them
    are kept. All other texts are kept."""
    rng = random.Random(0)
    pairs = [make(n, "swap-attribute", rng, 1000, share=0.9) for n in range(1000)]
    odds = TextOnlyOdds(pairs, [1.0] * len(pairs))(pairs)
    usual = np.array([pair.chosen.startswith("A ") for pair in pairs])
    assert abs(odds[usual].mean() - math.log(9)) < 0.4 and abs(odds[~usual].mean() + math.log(9)) < 0.4
    remaining = refined(pairs)
    assert sum(not pair.chosen.startswith("A ") for pair in remaining) == (~usual).sum()
    assert 0 < sum(pair.chosen.startswith("A ") for pair in remaining) < 0.1 * usual.sum()
    (equal,) = {len(refine(single(pairs), exponent=0.0))}
    assert equal == 1000


def test_refinement_of_one_set_holds_against_classifiers_of_other_images() -> None:
    """With two cues of different strength, exponent 1 keeps equal shares of both sides, as expected for calibrated
    odds."""
    rng = random.Random(1)
    pairs = [make(n, "swap-attribute", rng, 1500, share=0.75) for n in range(1500)]
    others = [replace(make(n, "swap-attribute", rng, 1500, share=0.75), image_ids=(f"x{n}",)) for n in range(1500)]
    before = transfer_accuracies(pairs, others)
    after = transfer_accuracies(refine(single(pairs), exponent=1.0), others)
    for name in ("unigram", "trigram", "character"):
        assert before[name].accuracy > 72
        assert abs(after[name].accuracy - 50) < 4, name


def test_a_refused_swap_passes_on_and_a_refused_replacement_is_dropped() -> None:
    rng = random.Random(0)
    swaps = tuple(make(n, "swap-object", rng, 1) for n in range(3))
    words = tuple(make(n, "replace-object", rng, 1) for n in range(3))
    never, always = 1e9, -1.0
    assert select(CandidateSet(swaps, (), 1), [never, never, always]) == [swaps[2]]
    assert select(CandidateSet(words, (), 1), [never, always, always]) == []
    assert select(CandidateSet(words, (), 2), [never, always, always]) == [words[1]]
    assert select(CandidateSet((swaps[0], words[0], swaps[1]), (), 1), [never, never, always]) == []
    assert select(CandidateSet(swaps, (), 2), [0.0, always, always]) == list(swaps[:2])


def test_the_result_depends_on_neither_order_nor_the_other_images_selection() -> None:
    rng = random.Random(2)
    pairs = [make(n, "swap-attribute", rng, 100) for n in range(300)]
    remaining = refined(pairs, seed=3)
    assert remaining == refined(pairs, seed=3) != refined(pairs, seed=4)
    assert {p.pair_id for p in refined(pairs[::-1], seed=3)} == {p.pair_id for p in remaining}


def random_case(seed: int) -> None:
    rng = random.Random(seed)
    names = ("swap-a", "swap-b", "replace-a", "replace-b", "correctness", "add-a")
    kinds = [rng.choice(names) for _ in range(rng.randint(1, 5)) for _ in range(rng.choice((1, 1, 3, 20)))]
    pairs = [make(n, rng.choice(kinds), rng, rng.choice((1, 3, 8, 200))) for n in range(rng.randint(0, 126))]
    remaining = refined(pairs, seed)
    place = {id(pair): number for number, pair in enumerate(pairs)}
    order = [place[id(pair)] for pair in remaining]  # the remaining pairs are input pairs without repetition, in order
    assert order == sorted(set(order))
    groups = kind_groups(pairs, [1.0] * len(pairs))
    assert sorted((*groups.alone, *groups.pooled, *groups.unrefined)) == sorted({p.kind for p in pairs})
    for kind in groups.unrefined:
        assert [p for p in remaining if p.kind == kind] == [p for p in pairs if p.kind == kind]


@pytest.mark.parametrize("seed", range(8))
def test_random_subsets_kinds_and_seeds(seed: int) -> None:
    random_case(seed)


@pytest.mark.full
@pytest.mark.parametrize("block", range(10))
def test_many_random_subsets_kinds_and_seeds(block: int) -> None:
    for seed in range(100 + 20 * block, 120 + 20 * block):
        random_case(seed)


def test_small_kinds_are_scored_with_their_family_and_small_families_are_kept() -> None:
    rng = random.Random(1)
    sizes = {"swap-object": 40, "swap-number": 12, "replace-object": MIN_PAIRS - 1, "add": 30}
    pairs = [make(n, kind, rng, 500) for n, kind in enumerate(k for k, size in sizes.items() for _ in range(size))]
    pairs = [p if p.kind != "add" else replace(p, image_ids=("x",)) for p in pairs]
    groups = kind_groups(pairs, [1.0] * len(pairs))
    assert (groups.alone, groups.pooled, groups.unrefined) == (
        ("swap-object",),
        ("swap-number",),
        ("add", "replace-object"),
    )
    assert kind_groups(pairs, [0.4] * len(pairs)).alone == ()  # 16 draws of swap-object
    assert refined([]) == []
    kept = [p for p in refined(pairs) if not p.kind.startswith("swap")]
    assert kept == [p for p in pairs if not p.kind.startswith("swap")]


class Listed(PairMethod):
    """A method with given candidates."""

    def __init__(self, items: list[CandidateSet | Skip]) -> None:
        super().__init__(seed=0)
        self.items = items

    def pairs(self, split: Path) -> Iterator[PreferencePair | Skip]:
        for item in self.items:
            yield from (item,) if isinstance(item, Skip) else item.pairs[: item.count]

    def candidates(self, split: Path) -> Iterator[CandidateSet | Skip]:
        yield from self.items


def test_a_split_is_refined_from_a_file_and_other_splits_are_not(tmp_path: Path, monkeypatch) -> None:
    rng = random.Random(3)
    pairs = [make(n, "swap-attribute", rng, 100) for n in range(300)]
    items: list[CandidateSet | Skip] = [
        CandidateSet(tuple(pairs[i : i + 3]), (1.0, 0.5, 0.5), 2) for i in range(0, 300, 3)
    ]
    for name in ("train", "val"):
        (tmp_path / name).mkdir()
    expected = refine([item for item in items if isinstance(item, CandidateSet)])
    with RefinedPairs(Listed([Skip("abstained"), *items])) as method:
        assert len(list(method.pairs(tmp_path / "val"))) == 201
        skip, *remaining = method.pairs(tmp_path / "train")
        assert skip == Skip("abstained") and remaining == expected
        assert method.totals() == {"pairs_before_refinement": 200}
    assert not list((tmp_path / "train").iterdir())
    monkeypatch.setattr(refined_pairs, "MAX_CANDIDATES", 100)
    monkeypatch.setattr(refined_pairs, "CHUNK", 7)
    with RefinedPairs(Listed(items)) as forward, RefinedPairs(Listed(items[::-1])) as backward:
        one = {p.pair_id for p in forward.pairs(tmp_path / "train") if isinstance(p, PreferencePair)}
        other = {p.pair_id for p in backward.pairs(tmp_path / "train") if isinstance(p, PreferencePair)}
        assert one == other and one != {p.pair_id for p in expected}
        assert 20 < forward.totals()["classifiers_fitted_on"] <= 100


def test_answers_of_one_letter_have_no_character_n_grams() -> None:
    pairs = [PreferencePair(str(n), (str(n),), "Which?", "AB"[n % 2], "BA"[n % 2], "choice") for n in range(40)]
    assert text_only_accuracy(pairs, "character").accuracy == 50
    assert refined(pairs)
