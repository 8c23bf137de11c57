"""Computes the reward shift delta of BCO and MPO, which is a running mean of rewards."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

REWARD_SHIFTS = ("earlier", "inclusive", "none")


class RewardShift:
    """Cumulative mean of all chosen and rejected rewards of a training run, over all processes.

    - ``earlier``: the mean over all *earlier optimizer steps*, 0 in the first step ("moving average of previous
      rewards", MPO, 2411.10442). This mean does not depend on how a step is split into micro-batches and processes.
    - ``inclusive``: the mean includes the current micro-batch, as in TRL up to 0.28 and in InternVL's trainer.
    - ``none``: the shift is always 0, as in TRL since 0.29.

    A reward is beta times the log-ratio, in nats. Every process must make the same calls, which are collective
    operations.
    """

    def __init__(self, kind: str = "earlier", device: torch.device | str = "cpu") -> None:
        self.kind = kind
        self._seen = torch.zeros(2, dtype=torch.float64, device=device)  # sum and count
        self._step = torch.zeros_like(self._seen)

    @property
    def value(self) -> Tensor:
        """The current delta, a float32 scalar without gradient."""
        return (self._seen[0] / self._seen[1].clamp(min=1)).float()

    def observe(self, rewards: Tensor) -> None:
        """Record the rewards of one training micro-batch (any shape)."""
        if self.kind == "none":
            return
        rewards = rewards.detach().double()
        self._step += torch.stack([rewards.sum(), rewards.new_tensor(float(rewards.numel()))])
        if self.kind == "inclusive":
            self._merge_step()

    def end_step(self) -> None:
        """End an optimizer step. With ``earlier``, the rewards of the step become part of the mean."""
        if self.kind == "earlier":
            self._merge_step()

    def _merge_step(self) -> None:
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(self._step)
        self._seen += self._step
        self._step.zero_()

    def state_dict(self) -> dict[str, float | str]:
        """Return the state for a checkpoint as JSON values, which are exact because the sums are float64."""
        return {"kind": self.kind, "sum": self._seen[0].item(), "count": self._seen[1].item()}

    def load_state_dict(self, state: Mapping[str, float | str]) -> None:
        """Restore the state from a checkpoint. Raises ValueError if the checkpoint's kind of reward shift differs."""
        if state["kind"] != self.kind:
            raise ValueError(
                f"the checkpoint has trainer.reward_shift={state['kind']}, but this run has {self.kind}: set "
                f"trainer.reward_shift={state['kind']}"
            )
        self._seen.copy_(torch.tensor([float(state["sum"]), float(state["count"])], dtype=torch.float64))
        self._step.zero_()
