"""What watches a run: metrics.jsonl, progress, Weights & Biases, periodic evaluation."""

from __future__ import annotations

import json
import logging
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
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


class ProgressBar(TrainerCallback):
    """Steps, loss and margin: a bar on a terminal; elsewhere a line now and then, :data:`LINES` over a run."""

    LINES = 20
    RECENT = 200  # steps whose pace counts: by default one evaluation is among them
    FEW = 5  # steps that say too little

    def __init__(self, label: str) -> None:
        self.label = label
        self._bar: Any = None
        self._part: int | None = None  # the part of the run that the last line was about
        self._started = 0.0  # when this process began
        self._step_ends: deque[float] = deque(
            maxlen=self.RECENT + 1
        )  # so the first step, which warms up, is not measured

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._started = time.monotonic()
        if state.is_world_process_zero and sys.stderr.isatty():
            from tqdm.auto import tqdm

            self._bar = tqdm(total=state.max_steps, initial=state.global_step, desc=self.label, unit="step")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._step_ends.append(time.monotonic())
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

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
        if self._bar is not None:
            self._bar.set_postfix(shown)
            return
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

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._bar is not None:
            self._bar.close()


class WeightsAndBiases(TrainerCallback):
    """Logged rows to Weights & Biases; a resumed run goes on in the same W&B run (its id is kept in the run folder).

    Args:
        mode: ``offline`` or ``online``.
        folder: the run folder; offline data goes to ``folder/wandb``.
        project, entity, name: as W&B shows them; ``entity`` None is the user's own.
        config: what is recorded as the run's configuration.
    """

    def __init__(
        self,
        mode: str,
        folder: str | Path,
        project: str,
        name: str | None,
        config: Mapping[str, Any],
        entity: str | None = None,
    ) -> None:
        self.mode, self.folder, self.project, self.name, self.config = mode, Path(folder), project, name, dict(config)
        self.entity = entity
        self._run: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            import wandb

            id_file = self.folder / "wandb_id.txt"
            run_id = id_file.read_text() if id_file.exists() else uuid.uuid4().hex[:8]
            write_text(id_file, run_id)
            self._run = wandb.init(
                mode=self.mode,  # type: ignore[arg-type]
                dir=self.folder,
                project=self.project,
                entity=self.entity,
                name=self.name,
                id=run_id,
                resume="allow",
                config=self.config,
            )

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if self._run is not None and logs:
            self._run.log(dict(logs), step=state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._run is not None:
            self._run.finish()


class Every(TrainerCallback):
    """Calls ``work`` at step 0, every ``steps`` steps and after the last, and logs the numbers it returns.

    ``work`` runs without gradient and with the policy in evaluation mode; random state and modes are as before after.
    """

    def __init__(self, steps: int, work: Callable[[], Mapping[str, float]]) -> None:
        self.steps, self.work = steps, work
        self.log: Callable[[dict[str, float]], None] | None = None  # the trainer's, set once it exists

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == 0:
            self._do(kwargs["model"])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.steps == 0 or state.global_step == state.max_steps:
            self._do(kwargs["model"])

    def _do(self, model: torch.nn.Module) -> None:
        modes = {module: module.training for module in model.modules()}
        model.eval()
        with torch.random.fork_rng(), torch.no_grad():
            numbers = dict(self.work())
        for module, mode in modes.items():
            module.training = mode
        if self.log is not None and numbers:
            self.log(numbers)


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
