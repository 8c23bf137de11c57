"""Runs ``train`` on the CPU with a test's settings as keyword arguments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers.trainer_callback import TrainerCallback

from scramble.models import VLM
from scramble.training import PreferenceConfig, train
from scramble.training.data import Data

OBJECTIVES: dict[str, dict[str, Any]] = {
    "sft": {"loss_type": ["sft"]},
    "dpo": {"loss_type": ["sigmoid"]},
    "mpo": {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]},
}
LORA = {"r": 4, "lora_alpha": 8}


class Stop(TrainerCallback):
    """Ends the run after a step, with a checkpoint."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            control.should_save = control.should_training_stop = True


def config(objective: str = "dpo", **fields: Any) -> PreferenceConfig:
    """Return the settings of a run on the CPU."""
    return PreferenceConfig(use_cpu=True, **{**OBJECTIVES[objective], **fields})


def fit(
    vlm: VLM,
    data: Data,
    out: Path,
    *,
    eval_data: Data | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    **fields: Any,
) -> dict[str, Any]:
    """Train with :func:`config`'s settings."""
    return train(vlm, data, out, config(**fields), eval_data=eval_data, callbacks=callbacks)
