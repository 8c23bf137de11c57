"""Defines the preference losses, which are pure functions of summed log-probabilities.

Every loss takes :class:`PairLogps` and returns one loss per pair, (P,), in nats unless its docstring says otherwise.
The training loss is the mean over pairs. Policy and reference log-probabilities are sums over the answer's tokens.

Suffixes: P pairs. Symbols used in the docstrings, for one pair with prompt x, chosen c and rejected r:

    h_c = log pi(c|x) - log pi_ref(c|x)      log-ratio of the chosen answer, h_r likewise
    m   = h_c - h_r                          margin of the log-ratios
    sigma                                    logistic function; log sigma(z) = -softplus(-z)
    beta, eps                                inverse temperature, label smoothing

Every loss in :data:`LOSSES` is tested against TRL 1.16 (``bco_pair`` with shift 0).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class PairLogps(NamedTuple):
    """Summed log-probabilities (nats) and lengths (tokens) of P pairs; all tensors are (P,).

    If an objective needs neither rejected answers nor a reference (``sft``), ``policy_rejected``, ``ref_chosen``,
    ``ref_rejected`` and ``rejected_tokens`` are zeros. ``f_divergence_type``, one of :data:`F_DIVERGENCES`, determines
    the margin that DPO-like losses use.
    """

    policy_chosen: Tensor
    policy_rejected: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor
    f_divergence_type: str = "reverse_kl"
    f_alpha_divergence_coef: float = 0.5

    @property
    def h_chosen(self) -> Tensor:
        """Log-ratio of the chosen answers (P,), nats."""
        return self.policy_chosen - self.ref_chosen

    @property
    def h_rejected(self) -> Tensor:
        """Log-ratio of the rejected answers (P,), nats."""
        return self.policy_rejected - self.ref_rejected

    @property
    def f_chosen(self) -> Tensor:
        """Derivative f'(t) of the divergence for the chosen answers (P,), where log t = h_c."""
        return f_derivative(self.h_chosen, self.f_divergence_type, self.f_alpha_divergence_coef)

    @property
    def f_rejected(self) -> Tensor:
        """Derivative f'(t) of the divergence for the rejected answers (P,), where log t = h_r."""
        return f_derivative(self.h_rejected, self.f_divergence_type, self.f_alpha_divergence_coef)

    @property
    def margin(self) -> Tensor:
        """The margin m = f'_c - f'_r (P,). For the reverse KL divergence, m is h_c - h_r in nats."""
        return self.f_chosen - self.f_rejected


SFT_MEANS = ("answer", "batch")
F_DIVERGENCES = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")


def f_derivative(log_ratio: Tensor, f_divergence_type: str = "reverse_kl", alpha: float = 0.5) -> Tensor:
    """Return f'(t), up to a constant, for log t = ``log_ratio`` (any shape). f-DPO uses f'(t) in place of log t.

    The divergences are from Wang et al. 2024 (2309.16240), table 1:

    | divergence     | f'(t)                               | value at t = 2                               |
    |----------------|-------------------------------------|----------------------------------------------|
    | reverse KL     | log t                               | 0.693147                                     |
    | forward KL     | 1 - 1/t                             | 0.5                                          |
    | Jensen-Shannon | log(2t / (1 + t))                   | log(4/3) = 0.287682                          |
    | alpha          | (t^(alpha - 1) - 1) / (alpha - 1)   | alpha = 0.5: (2^-0.5 - 1) / -0.5 = 0.585786  |

    The exponent of the alpha divergence is clamped at 80, as in TRL, so that float32 stays finite. Raises ValueError
    for an unknown divergence.
    """
    if f_divergence_type == "reverse_kl" or (f_divergence_type == "alpha_divergence" and abs(alpha - 1) < 1e-6):
        return log_ratio
    if f_divergence_type == "forward_kl":
        return 1 - torch.exp(-log_ratio)
    if f_divergence_type == "js_divergence":
        return math.log(2) + F.logsigmoid(log_ratio)
    if f_divergence_type == "alpha_divergence":
        return (torch.exp(((alpha - 1) * log_ratio).clamp(max=80.0)) - 1) / (alpha - 1)
    raise ValueError(f"f_divergence_type={f_divergence_type!r} is unknown: choose one of {', '.join(F_DIVERGENCES)}")


def sigmoid(logps: PairLogps, beta: float) -> Tensor:
    """Return the DPO loss -log sigma(beta m); Rafailov et al. 2023 (2305.18290), eq. 7.

    For example, beta = 0.5, h_c = 2 and h_r = -2 give m = 4 and the loss log(1 + e^-2) = 0.126928.
    """
    return -F.logsigmoid(beta * logps.margin)


def hinge(logps: PairLogps, beta: float) -> Tensor:
    """Return the hinge loss max(0, 1 - beta m).

    This is the calibration loss of SLiC-HF (2305.10425) on log-ratios, as in the hinge-norm variant of RSO (Liu et
    al. 2023, 2309.06657).

    The loss has no unit. With beta = 0.5, m = 1 gives 0.5, and m = 4 gives 0.
    """
    return torch.relu(1 - beta * logps.margin)


def ipo(logps: PairLogps, beta: float) -> Tensor:
    """Return the IPO loss (h_c/|c| - h_r/|r| - 1/(2 beta))^2; Azar et al. 2023 (2310.12036), eq. 17, with beta for tau.

    Log-ratios are means over tokens (the form that the authors used), so the unit is (nats per token)^2.
    For example, beta = 0.5, h_c = 2 over 4 tokens and h_r = -2 over 2 tokens give (0.5 + 1 - 1)^2 = 0.25.
    """
    return (_per_token_margin(logps) - 1 / (2 * beta)) ** 2


def exo_pair(logps: PairLogps, beta: float, label_smoothing: float) -> Tensor:
    """Return the EXO loss KL(q || p), where q = (sigma(beta m), sigma(-beta m)) and p = (1 - eps, eps).

    Ji et al. 2024 (2402.00856), eq. 16.

    For example, m = 0 and eps = 0.1 give 0.5 log(0.5/0.9) + 0.5 log(0.5/0.1) = 0.510826. Raises ValueError if eps is
    not in (0, 1), because the divergence would be infinite.
    """
    if not 0 < label_smoothing < 1:
        raise ValueError("exo_pair needs label_smoothing in (0, 1): set trainer.label_smoothing, for example to 1e-3")
    z = beta * logps.margin
    chosen = torch.sigmoid(z) * (F.logsigmoid(z) - math.log1p(-label_smoothing))
    return chosen + torch.sigmoid(-z) * (F.logsigmoid(-z) - math.log(label_smoothing))


def nca_pair(logps: PairLogps, beta: float) -> Tensor:
    """Return the NCA loss -log sigma(b h_c) - 0.5 log sigma(-b h_c) - 0.5 log sigma(-b h_r), where b = beta.

    Chen et al. 2024 (2402.05369), for one pair (K = 2).

    For example, h_c = h_r = 0 gives 2 log 2 = 1.386294.
    """
    chosen, rejected = beta * logps.h_chosen, beta * logps.h_rejected
    return -F.logsigmoid(chosen) - 0.5 * F.logsigmoid(-chosen) - 0.5 * F.logsigmoid(-rejected)


def robust(logps: PairLogps, beta: float, label_smoothing: float) -> Tensor:
    """Return the rDPO loss (-(1 - eps) log sigma(beta m) + eps log sigma(-beta m)) / (1 - 2 eps).

    Chowdhury et al. 2024 (2403.00409).

    For every eps, m = 0 gives log 2.
    For example, beta = 0.5, m = 4 and eps = 0.1 give (0.9 * 0.126928 - 0.1 * 2.126928) / 0.8 = -0.123072.
    Raises ValueError if eps is not in [0, 0.5).
    """
    if not 0 <= label_smoothing < 0.5:
        raise ValueError("robust needs label_smoothing in [0, 0.5): set trainer.label_smoothing, for example to 0.1")
    z = beta * logps.margin
    clean, flipped = -F.logsigmoid(z), -F.logsigmoid(-z)
    return ((1 - label_smoothing) * clean - label_smoothing * flipped) / (1 - 2 * label_smoothing)


def bco_pair(logps: PairLogps, beta: float, shift: Tensor | float = 0.0) -> Tensor:
    """Return the BCO loss -log sigma(beta h_c - delta) - log sigma(-(beta h_r - delta)).

    Jung et al. 2024 (2404.04656). This is also L_q of MPO (Wang et al. 2024, 2411.10442). ``shift`` is delta, the
    running mean of rewards (:class:`scramble.training.reward_shift.RewardShift`). Since version 0.29, TRL uses no
    shift, which corresponds to ``shift=0``.

    With beta = 0.5, h_c = 2 and h_r = -2, delta = 0 gives 2 log(1 + e^-1) = 0.626523,
    and delta = 1 gives log 2 + log(1 + e^-2) = 0.820075.
    """
    return -F.logsigmoid(beta * logps.h_chosen - shift) - F.logsigmoid(shift - beta * logps.h_rejected)


def sppo_hard(logps: PairLogps, beta: float) -> Tensor:
    """Return the SPPO loss (h_c - 1/(2 beta))^2 + (h_r + 1/(2 beta))^2.

    Wu et al. 2024 (2405.00675), eq. 4.7 with P in {0, 1}.

    The unit is nats^2. For example, beta = 0.5, h_c = 2 and h_r = -2 give 1 + 1 = 2.
    """
    return (logps.h_chosen - 0.5 / beta) ** 2 + (logps.h_rejected + 0.5 / beta) ** 2


def aot(logps: PairLogps, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """Return the paired AOT loss: the smoothed logistic loss of sorted policy margins minus sorted reference margins.

    Melnyk et al. 2024 (2406.05882).

    The P values belong to ranks, not to pairs. With beta = 1, the policy margins (3, 1) and the reference margins
    (0, 2) give the sorted differences (1 - 0, 3 - 2) = (1, 1), so both values are log(1 + e^-1) = 0.313262.
    """
    policy_P, _ = torch.sort(logps.policy_chosen - logps.policy_rejected, dim=0)
    ref_P, _ = torch.sort(logps.ref_chosen - logps.ref_rejected, dim=0)
    return _smoothed_logistic(beta * (policy_P - ref_P), label_smoothing)


def aot_unpaired(logps: PairLogps, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """Return the unpaired AOT loss: the smoothed logistic loss of sorted h_c minus sorted h_r.

    Melnyk et al. 2024 (2406.05882).

    The P values belong to ranks, not to pairs.
    For example, h_c = (2, 1) and h_r = (0, 1) give the sorted differences (1, 1).
    """
    chosen_P, _ = torch.sort(logps.h_chosen, dim=0)
    rejected_P, _ = torch.sort(logps.h_rejected, dim=0)
    return _smoothed_logistic(beta * (chosen_P - rejected_P), label_smoothing)


def apo_zero(logps: PairLogps, beta: float) -> Tensor:
    """Return the APO-zero loss 1 - sigma(beta h_c) + sigma(beta h_r); D'Oosterlinck et al. 2024 (2408.06266), eq. 7.

    The loss has no unit. For example, h_c = h_r = 0 gives 1.
    With beta = 0.5, h_c = 2 and h_r = -2 give 2 sigma(-1) = 0.537883.
    """
    return 1 - torch.sigmoid(beta * logps.h_chosen) + torch.sigmoid(beta * logps.h_rejected)


def apo_down(logps: PairLogps, beta: float) -> Tensor:
    """Return the APO-down loss sigma(beta h_c) + 1 - sigma(beta m); D'Oosterlinck et al. 2024 (2408.06266), eq. 8.

    The loss has no unit. For example, h_c = h_r = 0 gives 1.
    With beta = 0.5, h_c = 2 and h_r = -2 give 0.731059 + 0.119203 = 0.850262.
    """
    margin = logps.h_chosen - logps.h_rejected
    return torch.sigmoid(beta * logps.h_chosen) + 1 - torch.sigmoid(beta * margin)


def discopop(logps: PairLogps, beta: float, discopop_tau: float = 0.05) -> Tensor:
    """Return the DiscoPOP loss (1 - w) log(1 + e^-z) + w e^-z.

    Lu et al. 2024 (2406.08414), eq. 5, with z = beta m, w = sigma(z / tau) and tau = ``discopop_tau``.

    For example, m = 0 gives (log 2 + 1)/2 = 0.846574.
    """
    z = beta * logps.margin
    weight = torch.sigmoid(z / discopop_tau)
    # w e^-z is computed in one exponent: below z = -88, e^-z is infinite in float32, w is 0, and their product is NaN.
    return -F.logsigmoid(z) * (1 - weight) + torch.exp(F.logsigmoid(z / discopop_tau) - z)


def sigmoid_norm(logps: PairLogps, beta: float) -> Tensor:
    """Return the length-normalised DPO loss -log sigma(beta (h_c/|c| - h_r/|r|)); Lambert et al. 2024 (2411.15124).

    For example, beta = 2, h_c = 2 over 4 tokens and h_r = -2 over 2 tokens give log(1 + e^-3) = 0.048587.
    """
    return -F.logsigmoid(beta * _per_token_margin(logps))


def sft(logps: PairLogps, sft_mean: str = "answer") -> Tensor:
    """Return the negative log-likelihood of the chosen answer in nats per token. This is L_g of MPO (2411.10442).

    ``sft_mean="answer"`` is the mean over the tokens of each answer, as in the paper. ``"batch"`` is the mean over all
    chosen tokens of the micro-batch, as in TRL; this value is the same for every pair.

    For example, log pi = (-2, -9) over (4, 3) tokens gives (0.5, 3) with ``answer`` and (11/7, 11/7) with ``batch``.
    """
    if sft_mean == "answer":
        return -logps.policy_chosen / logps.chosen_tokens
    if sft_mean == "batch":
        return (-logps.policy_chosen.sum() / logps.chosen_tokens.sum()).expand_as(logps.policy_chosen)
    raise ValueError(f"sft_mean={sft_mean!r}: choose {' or '.join(map(repr, SFT_MEANS))}")


def _per_token_margin(logps: PairLogps) -> Tensor:
    return logps.f_chosen / logps.chosen_tokens - logps.f_rejected / logps.rejected_tokens


def _smoothed_logistic(z_P: Tensor, label_smoothing: float) -> Tensor:
    return -F.logsigmoid(z_P) * (1 - label_smoothing) - F.logsigmoid(-z_P) * label_smoothing


@dataclass(frozen=True)
class LossFunction:
    """A loss function and its requirements.

    Attributes:
        function: the function, which takes the log-probabilities and the values of ``options``.
        options: names of the options that the function reads.
        needs_rejected: whether the loss needs rejected answers and a reference.
        mixes_pairs: function of the values of the options that returns whether the loss of a pair depends on the other
            pairs of the micro-batch.
    """

    function: Callable[..., Tensor]
    options: frozenset[str]
    needs_rejected: bool = True
    mixes_pairs: Callable[[Mapping[str, Any]], bool] = lambda _: False


# Losses by their TRL names.
LOSSES: dict[str, LossFunction] = {
    "sigmoid": LossFunction(sigmoid, frozenset({"beta"})),
    "hinge": LossFunction(hinge, frozenset({"beta"})),
    "ipo": LossFunction(ipo, frozenset({"beta"})),
    "exo_pair": LossFunction(exo_pair, frozenset({"beta", "label_smoothing"})),
    "nca_pair": LossFunction(nca_pair, frozenset({"beta"})),
    "robust": LossFunction(robust, frozenset({"beta", "label_smoothing"})),
    "bco_pair": LossFunction(bco_pair, frozenset({"beta", "shift"})),
    "sppo_hard": LossFunction(sppo_hard, frozenset({"beta"})),
    "aot": LossFunction(aot, frozenset({"beta", "label_smoothing"}), mixes_pairs=lambda options: True),
    "aot_unpaired": LossFunction(
        aot_unpaired, frozenset({"beta", "label_smoothing"}), mixes_pairs=lambda options: True
    ),
    "apo_zero": LossFunction(apo_zero, frozenset({"beta"})),
    "apo_down": LossFunction(apo_down, frozenset({"beta"})),
    "discopop": LossFunction(discopop, frozenset({"beta", "discopop_tau"})),
    "sigmoid_norm": LossFunction(sigmoid_norm, frozenset({"beta"})),
    "sft": LossFunction(
        sft, frozenset({"sft_mean"}), False, mixes_pairs=lambda options: options["sft_mean"] == "batch"
    ),
}


def resolve_loss_weights(loss_type: Sequence[str], loss_weights: Sequence[float] | None = None) -> dict[str, float]:
    """Return the weights by loss name. Without weights, every loss has weight 1, as in TRL.

    :class:`scramble.training.settings.TrainerSettings` checks the names and the weights.
    """
    values = [1.0] * len(loss_type) if loss_weights is None else [float(weight) for weight in loss_weights]
    return dict(zip(loss_type, values, strict=True))


def needs_pairs(weights: Mapping[str, float]) -> bool:
    """Return whether any loss of an objective needs rejected answers and a reference."""
    return any(LOSSES[name].needs_rejected for name in weights)


def reads(weights: Mapping[str, float], option: str) -> bool:
    """Return whether any loss of an objective reads ``option`` (``beta``, ``label_smoothing``, ``shift``, ...)."""
    return any(option in LOSSES[name].options for name in weights)


def depend_on_micro_batch(names: Iterable[str], options: Mapping[str, Any]) -> bool:
    """Return whether the value of any of the losses depends on which pairs share a micro-batch."""
    return any(LOSSES[name].mixes_pairs(options) for name in names)


def combine(
    weights: Mapping[str, float],
    logps: PairLogps,
    options: Mapping[str, object],
    pair_weights_P: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return the mean over pairs of each loss of an objective (scalars, not multiplied by ``weights``).

    ``options`` contains the values of all options; each loss receives the options that it reads. ``pair_weights_P``
    multiplies the losses of the pairs before the mean (WPO).
    """
    means = {}
    for name in weights:
        loss = LOSSES[name]
        losses_P = loss.function(logps, **{key: options[key] for key in loss.options})
        means[name] = (losses_P if pair_weights_P is None else losses_P * pair_weights_P).mean()
    return means


def weighted_sum(weights: Mapping[str, float], means: Mapping[str, Tensor]) -> Tensor:
    """Return the weighted sum of the mean losses, for example 0.8 L_p + 0.2 L_q + 1.0 L_g for MPO (2411.10442)."""
    terms = [weight * means[name] for name, weight in weights.items()]
    return torch.stack(terms).sum()
