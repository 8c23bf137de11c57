"""Training monitors: warnings for silent failures, memory use, and the device's peak throughput."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

from scramble.storage.jsonl import JsonLines
from scramble.training.callbacks import drop_rows_after

log = logging.getLogger(__name__)

# Dense bfloat16 TFLOP/s by part of the GPU's name, from the vendors' data sheets; the first match counts.
PEAK_TFLOPS = {
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L40": 181.0,
    "A40": 150.0,
    "A10": 125.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
    "V100": 125.0,
}

# Values in a log row that depend on the machine and its load and therefore differ between equal runs.
MEASURED = frozenset(
    {
        "seconds",
        "pairs_per_second",
        "pairs_per_second_per_device",
        "tokens_per_second",
        "data_fraction",
        "mfu",
        "memory/resident_gib",
        "memory/gpu_gib",
    }
)

ROWS = 5  # warnings use the mean of this many log rows, because a single row is too noisy
FALL = 1.0  # nats; at this fall chosen answers are e times less likely
SATURATED = 5.0  # margin; beyond it the slope of the sigmoid loss is below 1 % of its maximum


def peak_flops(device: torch.device, tflops: float | None = None) -> float | None:
    """Peak FLOP/s of a device: from ``tflops`` if given, else by the GPU's name; None if unknown."""
    if tflops is not None:
        return tflops * 1e12
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((1e12 * peak for part, peak in PEAK_TFLOPS.items() if part in name), None)


def memory_use(device: torch.device) -> dict[str, float]:
    """Memory in GiB: resident memory of this process, and peak GPU memory since the last call."""
    with open("/proc/self/statm") if os.path.exists("/proc/self/statm") else open(os.devnull) as file:
        pages = file.read().split()
    memory = {"memory/resident_gib": int(pages[1]) * os.sysconf("SC_PAGE_SIZE") / 2**30} if pages else {}
    if device.type == "cuda":
        memory["memory/gpu_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
        torch.cuda.reset_peak_memory_stats(device)
    return memory


class Warnings(TrainerCallback):
    """Warns once per failure mode, on the terminal and in ``warnings.jsonl``.

    - *likelihood displacement*: chosen answers become less likely than under the reference while margins grow
      (arXiv 2410.08847);
    - *saturated margins*: the margins of nearly all pairs are so large that their gradient vanishes.

    Args:
        path: path of ``warnings.jsonl``.
        beta: the loss's beta; rewards are beta times log-ratios in nats.
    """

    def __init__(self, path: str | Path, beta: float) -> None:
        self.path, self.beta = Path(path), beta
        self._recent: deque[Mapping[str, float]] = deque(maxlen=ROWS)
        self._reported: set[str] = set()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self._reported = {row["warning"] for row in drop_rows_after(self.path, state.global_step)}

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or not logs or "rewards/chosen" not in logs or "loss" not in logs:
            return
        self._recent.append(logs)
        if len(self._recent) < ROWS:
            return
        chosen = sum(row["rewards/chosen"] for row in self._recent) / ROWS / self.beta
        margin = sum(row["rewards/margins"] for row in self._recent) / ROWS
        accuracy = sum(row["rewards/accuracies"] for row in self._recent) / ROWS
        if chosen < -FALL:
            self._warn(
                state.global_step,
                "likelihood displacement",
                {"chosen_log_ratio": chosen, "margin": margin},
                f"chosen answers are {-chosen:.1f} nats less likely than at the start: raise beta, add an sft term "
                "(objective=mpo), or train shorter",
            )
        if margin > SATURATED and accuracy > 0.99:
            self._warn(
                state.global_step,
                "saturated margins",
                {"margin": margin, "accuracy": accuracy},
                f"the mean margin is {margin:.1f} and {accuracy:.0%} of the pairs are ranked correctly: more training "
                "on them has little effect; train shorter or on harder pairs",
            )

    def _warn(self, step: int, warning: str, numbers: Mapping[str, float], text: str) -> None:
        if warning in self._reported:
            return
        self._reported.add(warning)
        with JsonLines(self.path) as file:
            file.append({"step": step, "warning": warning, **numbers, "text": text})
        log.info(f"warning, step {step}: {warning}: {text}")
