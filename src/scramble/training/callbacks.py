"""Callbacks for what transformers' own do not do: metrics.jsonl, lines of progress, stopping on a signal."""

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
from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

from scramble import interrupt
from scramble.storage.files import write_text
from scramble.storage.jsonl import JsonLines, read_jsonl

log = logging.getLogger(__name__)


def cut_rows(path: Path, step: int) -> list[dict[str, Any]]:
    """Drop a log's rows after ``step``, where a resumed run goes on (all of them at 0); the rows that are left."""
    rows = [row for row in read_jsonl(path) if row["step"] <= step and step]
    if path.exists():
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return rows


class MetricsFile(TrainerCallback):
    """Every logged row in ``metrics.jsonl``. A resumed run first drops the rows after its checkpoint."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: JsonLines | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            cut_rows(self.path, state.global_step)
            self._file = JsonLines(self.path)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if self._file is not None and logs:
            self._file.append({"step": state.global_step, **logs})

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._file is not None:
            self._file.close()


class ProgressLines(TrainerCallback):
    """A line with step, loss and margin now and then, :data:`LINES` over a run, where no progress bar is shown."""

    LINES = 20
    RECENT = 200  # steps whose pace counts: by default one evaluation is among them
    FEW = 5  # steps that say too little

    def __init__(self, label: str) -> None:
        self.label = label
        self._part: int | None = None  # the part of the run that the last line was about
        self._started = 0.0  # when this process began
        # Ends of steps, so that the first one, which warms up, is not measured.
        self._step_ends: deque[float] = deque(maxlen=self.RECENT + 1)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._started = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._step_ends.append(time.monotonic())

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if not logs or "loss" not in logs or not state.is_world_process_zero:
            return
        found = {"loss": logs["loss"], "margin": logs.get("rewards/margins")}
        shown = {name: f"{value:.3f}" for name, value in found.items() if value is not None}
        # Log rows come every few steps; a line stands for the first of them and for each twentieth of the run.
        part = state.global_step * self.LINES // state.max_steps
        if part == self._part and self._part is not None:
            return
        self._part = part
        left = self._seconds_left(state.max_steps - state.global_step)
        numbers = "".join(f", {name} {value}" for name, value in shown.items())
        log.info(
            f"{self.label}: step {state.global_step} of {state.max_steps}{numbers}, "
            f"{time.monotonic() - self._started:.0f} s" + (f", about {left:.0f} s left" if left else "")
        )

    def _seconds_left(self, steps: int) -> float | None:
        """What ``steps`` steps take at the pace of the recent ones; None while there are too few of them."""
        measured = len(self._step_ends) - 1
        return None if measured < self.FEW else (self._step_ends[-1] - self._step_ends[0]) / measured * steps


@contextmanager
def wandb_run(args: TrainingArguments, folder: Path) -> Iterator[None]:
    """Within the block transformers' Weights & Biases callback continues the run of ``folder``, or begins one there.

    Its name and id go through the environment, where wandb looks for them; mode, project and entity are the user's.
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
    before = {name: os.environ.get(name) for name in added}
    os.environ |= added
    try:
        yield
    finally:
        import wandb

        wandb.finish()  # the next arm of a sweep is another run
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


class ScoreBenchmarks(TrainerCallback):
    """Adds scores to every evaluation: the main process computes them, all processes see them.

    Args:
        score: from the model (a :class:`scramble.models.VLM`) to numbers by name.
    """

    def __init__(self, score: Callable[[Any], Mapping[str, float]]) -> None:
        self.score = score

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        scores = [dict(self.score(kwargs["model"].vlm)) if state.is_world_process_zero else {}]
        if dist.is_available() and dist.is_initialized():
            dist.broadcast_object_list(scores)
        if metrics is not None:
            metrics |= scores[0]


class DataFacts(TrainerCallback):
    """Adds what is known of the data set to the first evaluation of a run."""

    def __init__(self, numbers: Mapping[str, float]) -> None:
        self.numbers = dict(numbers)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if metrics is not None and state.global_step == 0:
            metrics |= self.numbers


class LogLastStep(TrainerCallback):
    """The last step is always logged."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_log = True


class StopWhenAsked(TrainerCallback):
    """After a signal to any process: all of them save after this step and leave the loop. See ``interrupt``."""

    def __init__(self) -> None:
        self.reason: str | None = None  # why the run ends before its last step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        signal = interrupt.asked()
        if dist.is_available() and dist.is_initialized():
            anyone = torch.tensor(float(signal is not None), device=args.device)
            dist.all_reduce(anyone, op=dist.ReduceOp.MAX)
            if anyone.item() and signal is None:
                signal = "a signal to another process"
        if signal is not None and state.global_step < state.max_steps:
            self.reason = signal
            control.should_save = control.should_training_stop = True
