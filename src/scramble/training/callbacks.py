"""Defines the trainer's callbacks: metrics.jsonl, warnings, progress lines, Weights & Biases, benchmark scores, and
stopping on a signal."""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers.trainer_callback import TrainerCallback, TrainerState
from transformers.training_args import TrainingArguments

from scramble import interrupt
from scramble.storage.files import write_text
from scramble.storage.jsonl import JsonLines, read_jsonl

log = logging.getLogger(__name__)

Logs = Mapping[str, float] | None
Metrics = dict[str, float] | None

ROWS = 5  # warnings use the mean of this many log rows, because a single row is too noisy
FALL = 1.0  # nats; after a fall by this much, chosen answers are e times less likely
SATURATED = 5.0  # margin; at larger margins, the slope of the sigmoid loss is below 1 % of its maximum


def drop_rows_after(path: Path, step: int) -> list[dict[str, Any]]:
    """Remove all rows of a log file that are later than the checkpoint's ``step``, and return the remaining rows."""
    rows = [row for row in read_jsonl(path) if row["step"] <= step and step]
    if path.exists():
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return rows


class MetricsFile(TrainerCallback):
    """Appends every logged row to ``metrics.jsonl``. A resumed run first removes the rows after its checkpoint."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: JsonLines | None = None

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            drop_rows_after(self.path, state.global_step)
            self._file = JsonLines(self.path)

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Logs = None, **kwargs: Any) -> None:
        if self._file is not None and logs:
            self._file.append({"step": state.global_step, **logs})

    def on_train_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if self._file is not None:
            self._file.close()


class Warnings(TrainerCallback):
    """Warns once per failure mode, on the terminal and in ``warnings.jsonl``.

    - *likelihood displacement*: chosen answers have become much less likely than under the reference (arXiv
      2410.08847);
    - *saturated margins*: nearly all pairs are ranked correctly, with margins so large that the gradient vanishes.

    Args:
        path: path of ``warnings.jsonl``.
        beta: the loss's beta; rewards are beta times log-ratios in nats.
    """

    def __init__(self, path: str | Path, beta: float) -> None:
        self.path, self.beta = Path(path), beta
        self._recent: deque[Mapping[str, float]] = deque(maxlen=ROWS)
        self._reported: set[str] = set()

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._reported = {row["warning"] for row in drop_rows_after(self.path, state.global_step)}

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Logs = None, **kwargs: Any) -> None:
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
                f"chosen answers are {-chosen:.1f} nats less likely than at the start: raise trainer.beta, add an sft "
                "term (objective=mpo), or train for fewer steps",
            )
        if margin > SATURATED and accuracy > 0.99:
            self._warn(
                state.global_step,
                "saturated margins",
                {"margin": margin, "accuracy": accuracy},
                f"the mean margin is {margin:.1f} and {accuracy:.0%} of the pairs are ranked correctly: more training "
                "on these pairs has little effect; train for fewer steps or on harder pairs",
            )

    def _warn(self, step: int, warning: str, numbers: Mapping[str, float], text: str) -> None:
        if warning in self._reported:
            return
        self._reported.add(warning)
        with JsonLines(self.path) as file:
            file.append({"step": step, "warning": warning, **numbers, "text": text})
        log.info(f"warning, step {step}: {warning}: {text}")


class ProgressLines(TrainerCallback):
    """Logs step, loss and margin about :attr:`LINES` times per run, if no progress bar is shown."""

    LINES = 20
    RECENT = 200  # the remaining time is estimated from this many last steps, which by default include one evaluation
    FEW = 5  # minimum number of measured steps for an estimate

    def __init__(self, label: str) -> None:
        self.label = label
        self._part: int | None = None  # the run has LINES parts; this is the index of the last reported part
        self._started = 0.0  # time.monotonic() at the start of training
        # Times at which steps ended. The differences exclude the first step, which is slower (warm-up of kernels).
        self._step_ends: deque[float] = deque(maxlen=self.RECENT + 1)

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self._started = time.monotonic()

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self._step_ends.append(time.monotonic())

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Logs = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs or not state.is_world_process_zero:
            return
        values = {"loss": logs["loss"], "margin": logs.get("rewards/margins")}
        shown = {name: f"{value:.3f}" for name, value in values.items() if value is not None}
        # There are more log rows than progress lines, so report only the first row and one row per twentieth of the
        # run.
        part = state.global_step * self.LINES // state.max_steps
        if part == self._part:
            return
        self._part = part
        remaining = self._seconds_left(state.max_steps - state.global_step)
        numbers = "".join(f", {name} {value}" for name, value in shown.items())
        log.info(
            f"{self.label}: step {state.global_step} of {state.max_steps}{numbers}, "
            f"{time.monotonic() - self._started:.0f} s" + (f", about {remaining:.0f} s left" if remaining else "")
        )

    def _seconds_left(self, steps: int) -> float | None:
        """Return the estimated time in seconds for ``steps`` steps, or None if too few steps have been measured."""
        measured = len(self._step_ends) - 1
        return None if measured < self.FEW else (self._step_ends[-1] - self._step_ends[0]) / measured * steps


@contextmanager
def wandb_run(args: TrainingArguments, folder: Path) -> Iterator[None]:
    """Make transformers' Weights & Biases callback resume the W&B run of ``folder``, or start one, within the block.

    wandb reads the folder and the run id from environment variables, which this function sets. The user sets the
    variables for mode, project and entity.
    """
    if "wandb" not in (args.report_to or ()):
        yield
        return
    id_file = folder / "wandb_id.txt"
    if args.process_index == 0 and not id_file.exists():
        write_text(id_file, uuid.uuid4().hex[:8])
    added = {"WANDB_DIR": str(folder), "WANDB_RESUME": "allow"}
    if id_file.exists():
        added["WANDB_RUN_ID"] = id_file.read_text(encoding="utf-8")
    previous = {name: os.environ.get(name) for name in added}
    os.environ |= added
    try:
        yield
    finally:
        import wandb

        wandb.finish()  # otherwise the next arm of a sweep would log to this run
        for name, value in previous.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


class ScoreBenchmarks(TrainerCallback):
    """Adds benchmark scores to every evaluation. The main process computes and broadcasts the scores.

    Args:
        score: function of the model (a :class:`scramble.models.VLM`) that returns scores by name.
    """

    def __init__(self, score: Callable[[Any], Mapping[str, float]]) -> None:
        self.score = score

    def on_evaluate(self, args: Any, state: TrainerState, control: Any, metrics: Metrics = None, **kwargs: Any) -> None:
        scores = [dict(self.score(kwargs["model"].vlm)) if state.is_world_process_zero else {}]
        if dist.is_available() and dist.is_initialized():
            dist.broadcast_object_list(scores)
        if metrics is not None:
            metrics |= scores[0]


class DataFacts(TrainerCallback):
    """Adds values that do not change during training, such as statistics of the data set, to a run's first
    evaluation.
    """

    def __init__(self, numbers: Mapping[str, float]) -> None:
        self.numbers = dict(numbers)

    def on_evaluate(self, args: Any, state: TrainerState, control: Any, metrics: Metrics = None, **kwargs: Any) -> None:
        if metrics is not None and state.global_step == 0:
            metrics |= self.numbers


class ConfiguredSteps(TrainerCallback):
    """Makes a resumed run use its own logging, evaluation and saving steps instead of those in the checkpoint."""

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        state.compute_steps(args, state.max_steps)


class LogLastStep(TrainerCallback):
    """Logs the last step even if it is not a multiple of ``logging_steps``."""

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_log = True


class StopOnSignal(TrainerCallback):
    """Makes all processes save and stop after the current step if any process received a signal; see ``interrupt``."""

    def __init__(self) -> None:
        self.reason: str | None = None  # why the run ends before its last step

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        signal = interrupt.stop_signal()
        if dist.is_available() and dist.is_initialized():
            # All processes must stop, because a process that stopped alone would block all other processes in a
            # collective call.
            any_signal = torch.tensor(float(signal is not None), device=args.device)
            dist.all_reduce(any_signal, op=dist.ReduceOp.MAX)
            if any_signal.item() and signal is None:
                signal = "a signal to another process"
        if signal is not None and state.global_step < state.max_steps:
            self.reason = signal
            control.should_save = control.should_training_stop = True
