"""Computes the metrics of a log row: averages over micro-batches and processes, and rates.

Suffixes of tensor names: P pairs of a micro-batch, M scored tokens.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from scramble.training.collator import PairBatch
from scramble.training.config import PreferenceConfig
from scramble.training.flops import OperationMeter
from scramble.training.losses import PairLogps, needs_pairs, reads
from scramble.training.monitoring import memory_use, peak_flops
from scramble.trie.backbone import Backbone

COUNTERS = ("pairs", "tokens", "positions", "images", "flops")


class RunningMetrics:
    """Metrics of the micro-batches since the last logged row.

    Args:
        args: settings of the run.
        backbone: the model, for counting operations; None omits the count.
        in_step_reference: whether each step also runs the reference model.
    """

    def __init__(self, args: PreferenceConfig, backbone: Backbone | None, in_step_reference: bool) -> None:
        self.args = args
        self._peak_flops = None if backbone is None else peak_flops(args.device, args.peak_tflops)
        self._meter = None
        if backbone is not None and self._peak_flops is not None:
            self._meter = OperationMeter(backbone, in_step_reference=in_step_reference)
        self._values: dict[str, list[Tensor]] = defaultdict(list)
        self._counts: dict[str, float] = defaultdict(float)
        self._num_tokens = 0.0  # since the start of the run, over all processes
        self._row_time = time.perf_counter()

    def add(
        self,
        batch: PairBatch,
        logps: PairLogps,
        rewards_2P: Tensor,
        losses: Mapping[str, Tensor | None],
        reward_shift: Tensor,
        entropy_M: Tensor | None,
    ) -> None:
        """Record one micro-batch.

        ``losses`` contains the total under ``loss``, the mean of each term and, for mixtures of experts, the
        load-balancing loss under ``aux_loss``.
        """
        weights = self.args.losses
        means = {name: value for name, value in losses.items() if value is not None}
        row: dict[str, Tensor] = {name: means[name] for name in ("loss", "aux_loss") if name in means}
        if entropy_M is not None and self.args.log_entropy:
            row["entropy"] = entropy_M.mean()
        if len(weights) > 1:
            row |= {f"loss/{name}": means[name] for name in weights}
        row["logps/chosen"] = logps.policy_chosen.mean()
        row["logps_per_token/chosen"] = logps.policy_chosen.sum() / logps.chosen_tokens.sum()
        if batch.rejected_P is not None:
            row["logps/rejected"] = logps.policy_rejected.mean()
            row["logps/accuracies"] = (logps.policy_chosen > logps.policy_rejected).float().mean()
        if needs_pairs(weights):
            row["rewards/chosen"], row["rewards/rejected"] = rewards_2P.mean(1)
            row["rewards/margins"] = (rewards_2P[0] - rewards_2P[1]).mean()
            row["rewards/accuracies"] = (rewards_2P[0] > rewards_2P[1]).float().mean()
            row["kl"] = kl_estimate(logps)
        if reads(weights, "shift"):
            row["reward_shift"] = reward_shift
        for name, value in row.items():
            self._values[name].append(value.detach().double())
        tries = batch.tries
        self._counts["pairs"] += len(batch.example_ids)
        self._counts["tokens"] += tries.num_tokens
        self._counts["positions"] += tries.input_ids_BL.numel()
        self._counts["images"] += len({id(image) for image in tries.images if image is not None})
        if self._meter is not None:
            self._counts["flops"] += self._meter(tries)

    def row(self, data_seconds: float) -> dict[str, float]:
        """Return the averages and rates since the last call. Every process must call this collective operation.

        ``data_seconds`` is the time in seconds spent waiting for batches since the last call.
        """
        now = time.perf_counter()
        seconds, self._row_time = now - self._row_time, now
        names = list(self._values)
        means = torch.stack([torch.stack(self._values[name]).mean() for name in names])
        counts = means.new_tensor([self._counts[name] for name in COUNTERS])
        world = 1
        if dist.is_available() and dist.is_initialized():
            world = dist.get_world_size()
            dist.all_reduce(means)
            means /= world
            dist.all_reduce(counts)
        self._values.clear()
        self._counts.clear()
        pairs, tokens, positions, images, flops = counts.tolist()
        self._num_tokens += tokens
        mfu = {"mfu": flops / seconds / world / self._peak_flops} if self._peak_flops and flops else {}
        return {
            **dict(zip(names, means.tolist(), strict=True)),
            "pairs": pairs,
            "num_tokens": self._num_tokens,
            "images": images,
            "padding_fraction": 1 - tokens / positions,
            "seconds": seconds,
            "pairs_per_second": pairs / seconds,
            "pairs_per_second_per_device": pairs / seconds / world,
            "tokens_per_second": tokens / seconds,
            "data_fraction": data_seconds / seconds,
            **mfu,
            **memory_use(self.args.device),
        }

    def means(self, sizes: list[float]) -> dict[str, float]:
        """Return the averages over the examples of all recorded micro-batches.

        ``sizes`` are the numbers of examples per micro-batch. Every process must call this collective operation.
        """
        values = torch.stack([torch.stack(column) for column in self._values.values()])
        weights = values.new_tensor(sizes)
        sums = torch.cat([values @ weights, weights.sum()[None]])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        *means, _ = (sums / sums[-1]).tolist()
        return dict(zip(self._values, means, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Return the state from which a resumed run can complete the current log row, as JSON values."""
        values = {name: torch.stack(column).tolist() for name, column in self._values.items()}
        return {"metrics": values, "counts": self._counts, "num_tokens": self._num_tokens}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that :meth:`state_dict` returned."""
        for name, column in state["metrics"].items():
            self._values[name] += list(torch.tensor(column, dtype=torch.float64, device=self.args.device))
        self._counts |= state["counts"]
        self._num_tokens = state["num_tokens"]


def kl_estimate(logps: PairLogps) -> Tensor:
    """Return an estimate of the KL divergence between policy and reference, in nats per token.

    The estimate is the mean over answers of e^-d - 1 + d, where d is an answer's mean log-ratio per token. This is
    Schulman's k3 estimator of KL(policy || reference), which is never negative. The estimate is biased, because the
    answers come from the data and not from the policy. Use the estimate only to compare runs. For example, d = 0 gives
    0, and d = log 2 gives 1/2 - 1 + 0.693147 = 0.193147.
    """
    d = torch.cat([logps.h_chosen / logps.chosen_tokens, logps.h_rejected / logps.rejected_tokens])
    return (torch.exp(-d) - 1 + d).mean()
