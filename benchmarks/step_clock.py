"""Defines the protocol and the clock of the processes that benchmarks/preference_step.py starts.

This module imports only torch and transformers, because benchmarks/peer_runner.py uses it in the environments of
ms-swift and LLaMA-Factory.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

PROMPT = "Describe the image in one sentence."
MARK = "@@"  # start of each line of the protocol; all other lines on stdout are ignored
LORA: dict[str, Any] = {"r": 16, "lora_alpha": 32}
# Large enough that the losses of a few steps differ visibly if two implementations differ.
LEARNING_RATE, BETA = 1e-3, 0.1


def send(**values: Any) -> None:
    """Send a line to preference_step.py."""
    print("\n" + MARK + json.dumps(values), flush=True)  # a progress bar may have left an unfinished line


def receive() -> str:
    """Read a line from preference_step.py."""
    return sys.stdin.readline().strip()


def resident_bytes() -> int:
    """Return the current resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_bytes() -> int:
    """Return the peak resident memory in bytes since the last call of :func:`reset_peak`."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def reset_peak() -> None:
    """Reset the peaks of host and device memory."""
    Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def set_adapter(model: torch.nn.Module) -> int:
    """Fill the LoRA weights with noise that depends only on each weight's name, and return the number of weights.

    All implementations therefore start from the same policy, and their losses can be compared. The policy differs from
    the reference.
    """
    count = 0
    for name, parameter in model.named_parameters():
        if match := re.search(r"layers\.\d+\..*\.lora_[AB]", name):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(zlib.crc32(match[0].encode())))
            parameter.data.copy_(0.02 * noise)
            count += parameter.numel()
    return count


class Clock:
    """Waits for a line before each step and reports the seconds from that line to the end of the step.

    The clock reports the wall time, the CPU time of all threads of this process (which is more stable than the wall
    time on a busy machine), and the peak memory in bytes.
    """

    def __init__(self, steps: int) -> None:
        self.left = steps
        self.start = (0.0, 0.0)
        self.device_peak = 0  # stored here, because trainers reset CUDA's counter when they log

    def begin(self, model: torch.nn.Module) -> None:
        """Set the LoRA weights, report that the process is ready, and wait for the first step."""
        self._look()
        send(ready=True, lora_weights=set_adapter(model))
        self._wait()

    def end_step(self) -> None:
        """Report a step, and wait for the next step unless it was the last one."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        wall, cpu = time.perf_counter() - self.start[0], time.process_time() - self.start[1]
        self._look()
        self.left -= 1
        send(seconds=wall, cpu_seconds=cpu, peak=peak_bytes(), device_peak=self.device_peak)
        if self.left:
            self._wait()

    def _look(self) -> None:
        if torch.cuda.is_available():
            self.device_peak = max(self.device_peak, torch.cuda.max_memory_allocated())

    def _wait(self) -> None:
        if not receive():
            raise SystemExit("preference_step.py has ended")
        self.start = time.perf_counter(), time.process_time()


class StepClock(TrainerCallback):
    """Runs the clock in transformers' trainer, and reports the losses of all steps at the end."""

    def __init__(self, steps: int) -> None:
        self.clock = Clock(steps)
        self.losses: list[float] = []

    def on_train_begin(self, *args: Any, model: torch.nn.Module, **kwargs: Any) -> None:
        """Wait for the line that starts the first step."""
        self.clock.begin(model)

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Report the step."""
        self.clock.end_step()

    def on_log(self, *args: Any, logs: dict[str, Any], **kwargs: Any) -> None:
        """Collect the loss of a step, which the trainer logs after the step has ended."""
        if "loss" in logs:
            self.losses.append(float(logs["loss"]))

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Report the losses."""
        send(losses=self.losses)
