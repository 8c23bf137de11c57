"""Losses against values derived by hand; TRL's trainer is compared in test_against_trl.py."""

from __future__ import annotations

import math

import pytest
import torch

from scramble.preference import losses
from scramble.preference.losses import LOSSES, PairLogps, combine, reads, resolve_objective, weighted_sum


def logps(h_chosen: list[float], h_rejected: list[float], tokens: tuple[int, int] = (4, 2)) -> PairLogps:
    """Pairs with the given log-ratios; the reference's log-probabilities are -10 and -20."""
    chosen, rejected = torch.tensor(h_chosen), torch.tensor(h_rejected)
    ref_chosen, ref_rejected = torch.full_like(chosen, -10), torch.full_like(rejected, -20)
    lengths = torch.ones_like(chosen)
    return PairLogps(
        chosen + ref_chosen, rejected + ref_rejected, ref_chosen, ref_rejected, tokens[0] * lengths, tokens[1] * lengths
    )


APART, LEVEL = logps([2.0], [-2.0]), logps([0.0], [0.0])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        # m = 4, z = 2: log(1 + e^-2)
        (losses.sigmoid(APART, beta=0.5), [0.126928]),
        (losses.sigmoid(LEVEL, beta=0.5), [math.log(2)]),
        # 1 - 0.5 * 1 and max(0, 1 - 0.5 * 4)
        (losses.hinge(logps([1.0], [0.0]), beta=0.5), [0.5]),
        (losses.hinge(APART, beta=0.5), [0.0]),
        # (2/4 + 2/2 - 1/(2 * 0.5))^2 = 0.5^2
        (losses.ipo(APART, beta=0.5), [0.25]),
        # 0.5 log(0.5/0.9) + 0.5 log(0.5/0.1)
        (losses.exo_pair(LEVEL, beta=0.5, label_smoothing=0.1), [0.510826]),
        # q = (sigma(2), sigma(-2)) = p for eps = sigma(-2): the divergence vanishes
        (losses.exo_pair(APART, beta=0.5, label_smoothing=1 / (1 + math.e**2)), [0.0]),
        # log 2 (1 + 0.5 + 0.5)
        (losses.nca_pair(LEVEL, beta=0.5), [2 * math.log(2)]),
        # beta h_c = 1, beta h_r = -1: 0.313262 + 0.5 * 1.313262 + 0.5 * 0.313262
        (losses.nca_pair(APART, beta=0.5), [1.126523]),
        # (0.9 * 0.126928 - 0.1 * 2.126928) / 0.8
        (losses.robust(APART, beta=0.5, label_smoothing=0.1), [-0.123072]),
        (losses.robust(LEVEL, beta=0.5, label_smoothing=0.3), [math.log(2)]),
        # 2 log(1 + e^-1); with delta 1: log(1 + e^0) + log(1 + e^-2)
        (losses.bco_pair(APART, beta=0.5), [0.626523]),
        (losses.bco_pair(APART, beta=0.5, shift=1.0), [0.820075]),
        # (2 - 1)^2 + (-2 + 1)^2
        (losses.sppo_hard(APART, beta=0.5), [2.0]),
        # 2 sigma(-1)
        (losses.apo_zero(APART, beta=0.5), [0.537883]),
        (losses.apo_zero(LEVEL, beta=0.5), [1.0]),
        # sigma(1) + 1 - sigma(2)
        (losses.apo_down(APART, beta=0.5), [0.850262]),
        # (log 2 + 1) / 2
        (losses.discopop(LEVEL, beta=0.5), [0.846574]),
        # z = 2, w = sigma(40) = 1: e^-2
        (losses.discopop(APART, beta=0.5), [0.135335]),
        # beta 2: 2 * (0.5 + 1) = 3, log(1 + e^-3)
        (losses.sigmoid_norm(APART, beta=2.0), [0.048587]),
    ],
)
def test_values_derived_by_hand(value: torch.Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(value, torch.tensor(expected), atol=2e-6, rtol=0)


def test_sorted_losses_compare_ranks_not_pairs() -> None:
    """Policy margins (3, 1) sort to (1, 3), reference margins (0, 2) stay: differences (1, 1). For the unpaired form
    h_c = (2, 1) sorts to (1, 2), h_r = (0, 1) stays: differences (1, 1). log(1 + e^-1) = 0.313262 each."""
    zeros = torch.zeros(2)
    pairs = PairLogps(torch.tensor([3.0, 1.0]), zeros, torch.tensor([0.0, 2.0]), zeros, zeros + 1, zeros + 1)
    torch.testing.assert_close(losses.aot(pairs, beta=1.0), torch.full((2,), 0.313262), atol=2e-6, rtol=0)
    pairs = logps([2.0, 1.0], [0.0, 1.0])
    torch.testing.assert_close(losses.aot_unpaired(pairs, beta=1.0), torch.full((2,), 0.313262), atol=2e-6, rtol=0)


def test_sft_by_answer_and_by_batch() -> None:
    """log pi = (-2, -9) over (4, 3) tokens: 0.5 and 3 by answer; 11/7 for both by batch."""
    zeros = torch.zeros(2)
    pairs = PairLogps(torch.tensor([-2.0, -9.0]), zeros, zeros, zeros, torch.tensor([4.0, 3.0]), zeros)
    assert losses.sft(pairs).tolist() == [0.5, 3.0]
    torch.testing.assert_close(losses.sft(pairs, sft_mean="batch"), torch.full((2,), 11 / 7))
    with pytest.raises(ValueError, match="'answer' or 'batch'"):
        losses.sft(pairs, sft_mean="token")


def test_mpo_adds_up() -> None:
    """0.8 * 0.126928 + 0.2 * 0.820075 + 1.0 * 8/4: policy log-probability of chosen is 2 - 10 = -8 over 4 tokens."""
    weights = resolve_objective("mpo")
    means = combine(weights, APART, {"beta": 0.5, "shift": 1.0, "sft_mean": "answer", "tau": 0.05})
    total = weighted_sum(weights, means)
    torch.testing.assert_close(total, torch.tensor(0.8 * 0.126928 + 0.2 * 0.820075 + 2.0), atol=5e-6, rtol=0)


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"discopop"}))
def test_every_loss_raises_the_margin_of_a_level_pair(name: str) -> None:
    """DiscoPOP aside: it is not convex, and at margin 0 its modulation pulls the other way."""
    function, keys = LOSSES[name]
    h = torch.zeros(3, requires_grad=True)
    minus = torch.full((3,), -5.0)
    pairs = PairLogps(minus + h, minus - h, minus, minus, torch.full((3,), 4.0), torch.full((3,), 4.0))
    options = {"beta": 0.5, "label_smoothing": 0.1, "shift": 0.0}
    loss = function(pairs, **{k: v for k, v in options.items() if k in keys}).mean()
    (gradient,) = torch.autograd.grad(loss, h)
    assert torch.isfinite(gradient).all() and (gradient < 0).all(), name


@pytest.mark.parametrize("smoothing", [0.0, 1.0])
def test_exo_refuses_smoothing_that_makes_it_infinite(smoothing: float) -> None:
    with pytest.raises(ValueError, match="label_smoothing in"):
        losses.exo_pair(LEVEL, beta=0.5, label_smoothing=smoothing)


def test_robust_refuses_half() -> None:
    with pytest.raises(ValueError, match="label_smoothing in"):
        losses.robust(LEVEL, beta=0.5, label_smoothing=0.5)


def test_objectives() -> None:
    assert resolve_objective("mpo") == {"sigmoid": 0.8, "bco_pair": 0.2, "sft": 1.0}
    assert resolve_objective("dpo") == resolve_objective("sigmoid") == {"sigmoid": 1.0}
    assert resolve_objective({"ipo": 2, "sft": 0.5}) == {"ipo": 2.0, "sft": 0.5}
    assert losses.needs_pairs(resolve_objective("mpo")) and not losses.needs_pairs(resolve_objective("sft"))
    assert reads(resolve_objective("mpo"), "shift") and not reads(resolve_objective("dpo"), "shift")


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ("dop", "objective 'dop' is unknown"),
        ({"sigmod": 1}, "loss 'sigmod' is unknown"),
        ({"sigmoid": math.nan}, "weight of loss 'sigmoid' is nan"),
        ({}, "no loss"),
        ({"sigmoid": 0}, "no loss"),
    ],
)
def test_bad_objectives_are_named(objective: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve_objective(objective)  # type: ignore[arg-type]
