"""Compares losses with values derived by hand. test_against_trl.py compares them with TRL's trainer."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from scramble.training import losses
from scramble.training.losses import LOSSES, SFT_MEANS, PairLogps, combine, reads, resolve_loss_weights, weighted_sum


def logps(h_chosen: list[float], h_rejected: list[float], tokens: tuple[int, int] = (4, 2)) -> PairLogps:
    """Return pairs with the given log-ratios. The reference's log-probabilities are -10 and -20."""
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
    with pytest.raises(ValueError, match="choose 'answer' or 'batch'"):
        losses.sft(pairs, sft_mean="token")


MPO = {"sigmoid": 0.8, "bco_pair": 0.2, "sft": 1.0}


def test_mpo_adds_up() -> None:
    """0.8 * 0.126928 + 0.2 * 0.820075 + 1.0 * 8/4: policy log-probability of chosen is 2 - 10 = -8 over 4 tokens."""
    weights = MPO
    means = combine(weights, APART, {"beta": 0.5, "shift": 1.0, "sft_mean": "answer", "discopop_tau": 0.05})
    total = weighted_sum(weights, means)
    torch.testing.assert_close(total, torch.tensor(0.8 * 0.126928 + 0.2 * 0.820075 + 2.0), atol=5e-6, rtol=0)


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"discopop"}))
def test_every_loss_raises_the_margin_of_a_level_pair(name: str) -> None:
    """DiscoPOP is the exception: it is not convex and has the opposite slope at margin 0."""
    function, keys = LOSSES[name].function, LOSSES[name].options
    h = torch.zeros(3, requires_grad=True)
    minus = torch.full((3,), -5.0)
    pairs = PairLogps(minus + h, minus - h, minus, minus, torch.full((3,), 4.0), torch.full((3,), 4.0))
    options = OPTIONS | {"beta": 0.5, "shift": 0.0}
    loss = function(pairs, **{k: v for k, v in options.items() if k in keys}).mean()
    (gradient,) = torch.autograd.grad(loss, h)
    assert torch.isfinite(gradient).all() and (gradient < 0).all(), name


@pytest.mark.parametrize("sft_mean", SFT_MEANS)
@pytest.mark.parametrize("name", LOSSES)
def test_the_table_says_which_losses_depend_on_the_other_pairs_of_a_micro_batch(name: str, sft_mean: str) -> None:
    options = OPTIONS | {"beta": 0.5, "shift": 0.0, "sft_mean": sft_mean}
    columns = ([-5.0, -8.0, -6.0], [-9.0, -4.0, -7.0], [-7.0, -7.0, -7.0], [-7.0, -7.0, -8.0], [4.0, 3, 7], [2.0, 5, 6])
    pairs, *alone = (
        PairLogps(*(torch.tensor(column[part]) for column in columns))  # type: ignore[arg-type]
        for part in (slice(3), slice(1), slice(1, 2), slice(2, 3))
    )
    together, *singly = (combine({name: 1.0}, each, options)[name] for each in (pairs, *alone))
    differs = not torch.isclose(together, torch.stack(singly).mean(), atol=1e-6)
    assert differs == losses.depend_on_micro_batch([name], options)


@pytest.mark.parametrize("smoothing", [0.0, 1.0])
def test_exo_refuses_smoothing_that_makes_it_infinite(smoothing: float) -> None:
    with pytest.raises(ValueError, match="label_smoothing in"):
        losses.exo_pair(LEVEL, beta=0.5, label_smoothing=smoothing)


def test_robust_refuses_half() -> None:
    with pytest.raises(ValueError, match="label_smoothing in"):
        losses.robust(LEVEL, beta=0.5, label_smoothing=0.5)


def test_objectives() -> None:
    assert resolve_loss_weights(["sigmoid", "bco_pair", "sft"], [0.8, 0.2, 1]) == MPO
    assert resolve_loss_weights(["ipo", "sft"]) == {"ipo": 1.0, "sft": 1.0}
    assert losses.needs_pairs(MPO) and not losses.needs_pairs({"sft": 1.0})
    assert reads(MPO, "shift") and not reads({"sigmoid": 1.0}, "shift")


@pytest.mark.parametrize(
    ("divergence", "alpha", "expected"),
    [
        ("reverse_kl", 0.5, 0.693147),
        ("forward_kl", 0.5, 0.5),
        ("js_divergence", 0.5, 0.287682),
        ("alpha_divergence", 0.5, 0.585786),
        ("alpha_divergence", 1.0, 0.693147),
    ],
)
def test_divergences_by_hand_at_a_ratio_of_two(divergence: str, alpha: float, expected: float) -> None:
    actual = losses.f_derivative(torch.tensor(2.0).log(), divergence, alpha)
    torch.testing.assert_close(actual, torch.tensor(expected), atol=1e-6, rtol=0)


def test_pairs_are_weighed_within_the_mean() -> None:
    """Two pairs with losses log 2 and weights 1 and 0: half of log 2."""
    zeros, ones = torch.zeros(2), torch.ones(2)
    logps = PairLogps(zeros, zeros, zeros, zeros, ones, ones)
    means = combine({"sigmoid": 1.0}, logps, {"beta": 0.5}, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(means["sigmoid"], torch.tensor(math.log(2) / 2))


TOKENS = (4, 2)
MARGINS = [0.0, *(sign * m for m in (1e-3, 0.7, 5.0, 17.0, 60.0, 87.0, 90.0, 105.0, 900.0, 1e4) for sign in (1, -1))]
EPS, TAU, SHIFT = 0.1, 0.05, 0.5
OPTIONS = {"label_smoothing": EPS, "discopop_tau": TAU, "shift": SHIFT, "sft_mean": "answer"}


def reference_losses(beta: float) -> dict[str, Any]:
    """Return each loss as in its paper, as a function of (h_c, h_r) in 60-digit arithmetic, for one pair and without
    sorting.
    """
    from mpmath import exp, log, log1p, mpf

    def sigma(z: Any) -> Any:
        return 1 / (1 + exp(-z))

    def softplus(z: Any) -> Any:
        return log1p(exp(z))

    b, eps, tau, shift = mpf(beta), mpf(EPS), mpf(TAU), mpf(SHIFT)

    def smoothed(c: Any, r: Any) -> Any:
        z = b * (c - r)
        return (1 - eps) * softplus(-z) + eps * softplus(z)

    def exo(c: Any, r: Any) -> Any:
        z = b * (c - r)
        return sigma(z) * (-softplus(-z) - log(1 - eps)) + sigma(-z) * (-softplus(z) - log(eps))

    def discopop(c: Any, r: Any) -> Any:
        z = b * (c - r)
        w = sigma(z / tau)
        return (1 - w) * softplus(-z) + w * exp(-z)

    def per_token(c: Any, r: Any) -> Any:
        return c / TOKENS[0] - r / TOKENS[1]

    return {
        "sigmoid": lambda c, r: softplus(-b * (c - r)),
        "hinge": lambda c, r: max(mpf(0), 1 - b * (c - r)),
        "ipo": lambda c, r: (per_token(c, r) - 1 / (2 * b)) ** 2,
        "exo_pair": exo,
        "nca_pair": lambda c, r: softplus(-b * c) + softplus(b * c) / 2 + softplus(b * r) / 2,
        "robust": lambda c, r: ((1 - eps) * softplus(-b * (c - r)) - eps * softplus(b * (c - r))) / (1 - 2 * eps),
        "bco_pair": lambda c, r: softplus(shift - b * c) + softplus(b * r - shift),
        "sppo_hard": lambda c, r: (c - 1 / (2 * b)) ** 2 + (r + 1 / (2 * b)) ** 2,
        "aot": smoothed,
        "aot_unpaired": smoothed,
        "apo_zero": lambda c, r: 1 - sigma(b * c) + sigma(b * r),
        "apo_down": lambda c, r: sigma(b * c) + 1 - sigma(b * (c - r)),
        "discopop": discopop,
        "sigmoid_norm": lambda c, r: softplus(-b * per_token(c, r)),
        "sft": lambda c, r: (10 - c) / TOKENS[0],
    }


@pytest.mark.parametrize("beta", [0.1, 1.0])
@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients_are_right_however_large_the_margin(name: str, beta: float) -> None:
    """Losses in float32 agree with 60-digit arithmetic for margins of the log-ratios from -10^4 to 10^4.

    The reference's log-probabilities are -10 (chosen) and -20; log-ratios are powers of two where they are large, so
    that the sums are exact.
    """
    import mpmath

    reference = reference_losses(beta)[name]
    for margin in MARGINS:
        for share in (1.0, 0.5, 0.0, -1.0):
            h_chosen, h_rejected = margin * share, margin * (share - 1)
            pairs = logps([h_chosen], [h_rejected], TOKENS)
            chosen, rejected = pairs.policy_chosen.requires_grad_(), pairs.policy_rejected.requires_grad_()
            function, keys = LOSSES[name].function, LOSSES[name].options
            options = OPTIONS | {"beta": beta}
            loss = function(pairs, **{key: options[key] for key in keys})
            gradients = torch.autograd.grad(loss.sum(), (chosen, rejected), allow_unused=True)
            with mpmath.workdps(60):
                # The value in float32 after adding and subtracting the reference.
                c, r = mpmath.mpf(pairs.h_chosen.item()), mpmath.mpf(pairs.h_rejected.item())
                wanted = [
                    reference(c, r),
                    mpmath.diff(reference, (c, r), (1, 0)),
                    mpmath.diff(reference, (c, r), (0, 1)),
                ]
            actual = [float(loss.detach()), *(0.0 if g is None else float(g) for g in gradients)]
            for what, value, right in zip(
                ("value", "by chosen", "by rejected"), actual, map(float, wanted), strict=True
            ):
                assert value == pytest.approx(right, rel=1e-4, abs=1e-5), (what, margin, share)
