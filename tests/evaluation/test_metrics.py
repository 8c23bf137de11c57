"""Compare metrics with examples computed by hand, chance levels, and an enumeration of orders."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from scramble.evaluation.scoring import metrics

# Order c0_i0, c0_i1, c1_i0, c1_i1 -> text, image, group; each computed by hand from the strict definitions.
HAND = [
    ((0.9, 0.1, 0.2, 0.8), (1, 1, 1)),
    ((0.9, 0.1, 0.8, 0.95), (1, 1, 1)),
    ((0.5, 0.6, 0.1, 0.9), (1, 0, 0)),
    ((0.5, 0.1, 0.6, 0.9), (0, 1, 0)),
    ((0.5, 0.5, 0.1, 0.9), (1, 0, 0)),
    ((0.5, 0.5, 0.5, 0.5), (0, 0, 0)),
]


def matrix(c0_i0: float, c0_i1: float, c1_i0: float, c1_i1: float) -> list[list[float]]:
    return [[c0_i0, c1_i0], [c0_i1, c1_i1]]


@pytest.mark.parametrize(("scores", "expected"), HAND)
def test_two_by_two_by_hand(scores, expected):
    result = metrics.two_by_two([matrix(*scores)])
    assert (result.text[0], result.image[0], result.group[0]) == expected


def test_ties_are_counted():
    result = metrics.two_by_two([matrix(*scores) for scores, _ in HAND])
    assert result.ties.tolist() == [0, 0, 0, 0, 1, 4]
    assert (result.ties > 0).sum() == 2


def test_chance_of_random_scores():
    n = 100_000
    result = metrics.two_by_two(np.random.default_rng(0).random((n, 2, 2)))
    for value, chance in ((result.text, 1 / 4), (result.image, 1 / 4), (result.group, 1 / 6)):
        assert abs(value.mean() - chance) < 3 * np.sqrt(chance * (1 - chance) / n)


def test_half_is_the_mean_over_all_ways_to_break_ties():
    """Every value is replaced by its rank under each order of the four cells that respects the strict inequalities."""
    generator = np.random.default_rng(1)
    for _ in range(60):
        cells = generator.integers(0, 3, 4).astype(float)
        outcomes = []
        for order in permutations(range(4)):
            if all(cells[order[k]] <= cells[order[k + 1]] for k in range(3)):
                ranks = np.empty(4)
                ranks[list(order)] = range(4)
                strict = metrics.two_by_two(ranks.reshape(1, 2, 2))
                outcomes.append((strict.text[0], strict.image[0], strict.group[0]))
        half = metrics.two_by_two(cells.reshape(1, 2, 2), "half")
        assert np.allclose((half.text[0], half.image[0], half.group[0]), np.mean(outcomes, axis=0))


def test_constant_scorer_under_each_policy():
    """An argmax returns index 0: right for the first row and column, wrong for the second, so each score is 0."""
    scores = np.zeros((1, 2, 2))
    half = metrics.two_by_two(scores, "half")
    assert (half.text[0], half.image[0], half.group[0]) == (0.25, 0.25, pytest.approx(1 / 6))
    assert metrics.two_by_two(scores, "first").group[0] == 0
    # Tied on the first image only: the argmax takes caption 0 there, which is right.
    assert metrics.two_by_two([[[0.5, 0.5], [0.1, 0.9]]], "first").text[0] == 1
    assert metrics.two_by_two([[[0.5, 0.5], [0.1, 0.9]]], "wrong").text[0] == 0


def test_choice_and_its_ties():
    assert metrics.choice([2.0, 1.0], 0) == (1.0, False)
    assert metrics.choice([1.0, 2.0], 0) == (0.0, False)
    assert [metrics.choice([1.0, 1.0], 0, policy)[0] for policy in metrics.TIE_POLICIES] == [0.0, 0.5, 1.0]
    assert metrics.choice([1.0, 1.0], 1, "first") == (0.0, True)
    assert metrics.choice([1.0, 1.0, 0.0], 0, "half") == (0.5, True)
    assert metrics.choice([0.0, 1.0, 1.0], 0, "half") == (0.0, False)


def test_natural_bench_by_hand():
    """Group 1 is all right, and group 2 is wrong only on question 0 with image 1: Acc 7/8, Q 3/4, I 3/4, G 1/2."""
    result = metrics.natural_bench([[[1, 1], [1, 1]], [[1, 0], [1, 1]]])
    assert {k: v.mean() for k, v in result.items()} == {"acc": 7 / 8, "q_acc": 3 / 4, "i_acc": 3 / 4, "g_acc": 1 / 2}
    # The wrong answer is that of question 0 and image 1 of the second group.
    assert result["q_acc"].tolist() == [1, 1, 0, 1]
    assert result["i_acc"].tolist() == [1, 1, 1, 0]


def test_natural_bench_chance():
    n = 50_000
    result = metrics.natural_bench(np.random.default_rng(3).integers(0, 2, (n, 2, 2)))
    for name, chance in (("acc", 0.5), ("q_acc", 0.25), ("i_acc", 0.25), ("g_acc", 0.0625)):
        units = len(result[name])
        # Outcomes inside a group share replies, so twice the independent error is a safe bound for Q and I.
        assert abs(result[name].mean() - chance) < 3 * np.sqrt(chance * (1 - chance) / units) * 1.5


def test_pairs():
    assert metrics.all_right([1, 1, 1, 0, 0, 0], ["a", "a", "b", "b", "c", "c"]).tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.two_by_two(np.zeros((3, 4))), "shape"),
        (
            lambda: metrics.two_by_two(np.array([[[np.nan, 0], [0, 1]]])),
            "2x2 scores contain NaN. Number of affected items: 1, index of the first: 0",
        ),
        (lambda: metrics.two_by_two(np.zeros((0, 2, 2))), "no items"),
        (lambda: metrics.two_by_two(np.zeros((1, 2, 2)), "best"), "tie_policy"),  # type: ignore[arg-type]
        (lambda: metrics.all_right([1], []), "but is 0: pass one label per outcome"),
        (lambda: metrics.choice([1.0], 0), "at least two scores"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(metrics.MetricError, match=message):
        call()
