"""Defines the names, types and ranges of the trainer's settings, and the conditions on several settings.

The command line and :class:`scramble.training.config.PreferenceConfig` both use :class:`TrainerSettings` to check their
values. This module imports no slow library, so that the command line reports a wrong value immediately.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from scramble.field_checks import (
    NOT_EMPTY,
    Bound,
    PositiveInt,
    Section,
    Share,
    Text,
    Whole,
    above,
    as_override,
    at_least,
    between,
    hint,
)
from scramble.training.fields import TrlLoss, optimizer_fault, package_fault, trl_faults

# A test compares these names with the names in the code that reads them (tests/test_config.py).
Loss = TrlLoss  # a loss that TRL lacks is added here: Literal[TrlLoss, "mine"]
SMOOTHED = ("exo_pair", "robust", "aot", "aot_unpaired")  # the losses that use label_smoothing
WITHOUT_REJECTED = ("sft",)  # the losses that need neither rejected answers nor a reference
Scheduler = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
    "reduce_lr_on_plateau",
    "cosine_with_min_lr",
    "cosine_warmup_with_min_lr",
    "warmup_stable_decay",
    "greedy",
]
# The package that transformers' callback needs, for each value of trainer.report_to.
REPORTERS = {
    "wandb": "wandb",
    "tensorboard": "tensorboard",
    "mlflow": "mlflow",
    "trackio": "trackio",
    "comet_ml": "comet_ml",
    "swanlab": "swanlab",
    "clearml": "clearml",
    "neptune": "neptune",
    "dvclive": "dvclive",
    "codecarbon": "codecarbon",
    "azure_ml": "azureml",
    "flyte": "flytekit",
}

Positive = Annotated[float, above(0)]
Fraction = Annotated[float, between(0, 1, with_most=False)]
NotNegative = Annotated[float, at_least(0)]
Steps = Annotated[
    float,
    Bound(
        lambda value: value > 0 and (value < 1 or value == int(value)),
        "must be a whole number above 0, or a number between 0 and 1 as a fraction of the run",
    ),
]
WholeRun = Annotated[
    int, Bound(lambda value: value == -1 or value > 0, "must be above 0, or -1 to use num_train_epochs")
]
Strategy = Literal["no", "steps", "epoch"]


@dataclass(frozen=True)
class TrainerSettings(Section):
    """The fields of :class:`scramble.training.config.PreferenceConfig` whose values are restricted."""

    backend: Literal["auto", "trie", "trl"]
    num_train_epochs: Positive
    max_steps: WholeRun
    global_batch_size: PositiveInt | None
    per_device_train_batch_size: PositiveInt | None
    gradient_accumulation_steps: PositiveInt | None
    learning_rate: Positive
    lr_scheduler_type: Scheduler
    warmup_ratio: Share
    warmup_steps: NotNegative
    optim: Text
    weight_decay: NotNegative
    max_grad_norm: NotNegative
    loss_type: Annotated[list[Loss], NOT_EMPTY]
    loss_weights: list[float] | None
    beta: Positive
    label_smoothing: Fraction
    reward_shift: Literal["earlier", "inclusive", "none"]
    sft_mean: Literal["answer", "batch"]
    bf16: bool
    gradient_checkpointing: bool
    max_length: PositiveInt | None
    max_rejected_fraction: Share
    group_by_image: bool
    precompute_ref_log_probs: bool
    tables: Annotated[list[Literal["pairs", "captions", "questions", "rationales"]], NOT_EMPTY]
    loss_on_history: bool
    caption_prompt: Text
    train_vision: bool | Literal["lora"]
    tower_tokens: PositiveInt | None
    feature_cache_dir: Text | None
    image_cache_mb: Whole
    dataloader_num_workers: Whole | None
    dataloader_prefetch_factor: PositiveInt | None
    logging_steps: Steps
    report_to: Text | list[Text]
    eval_strategy: Strategy
    eval_steps: Steps | None
    save_strategy: Strategy | Literal["best"]
    save_steps: Steps
    save_total_limit: PositiveInt | None
    load_best_model_at_end: bool
    metric_for_best_model: Text | None
    seed: Annotated[int, between(0, 2**32 - 1)]
    # No file in configs/ contains these keys.
    per_device_eval_batch_size: PositiveInt | None = None
    row_tokens: PositiveInt | None = None
    reference_batch_tokens: PositiveInt = 4096
    f_divergence_type: Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"] = "reverse_kl"
    ld_alpha: Share | None = None
    push_to_hub: bool = False
    hub_model_id: Text | None = None
    hub_strategy: Literal["end", "every_save", "checkpoint", "all_checkpoints"] = "end"

    def faults(self, at: str) -> Iterator[str]:
        """Check that the settings do not contradict each other."""
        if self.backend == "trl" and (fault := trl_faults(vars(self))):
            yield fault
        if self.feature_cache_dir is not None and self.train_vision:
            yield (
                f"{at}.feature_cache_dir needs a frozen vision tower: set {at}.train_vision=false or "
                f"{at}.feature_cache_dir=null"
            )
        if self.dataloader_prefetch_factor is not None and self.dataloader_num_workers == 0:
            yield (
                f"{at}.dataloader_prefetch_factor={self.dataloader_prefetch_factor} needs workers: set it to null, or "
                f"set {at}.dataloader_num_workers above 0"
            )
        if not set(self.loss_type) <= set(WITHOUT_REJECTED) and set(self.tables) != {"pairs"}:
            yield (
                f"{at}.tables={as_override(self.tables)} must be [pairs], because "
                f"{at}.loss_type={as_override(self.loss_type)} needs rejected answers, which other tables lack"
            )
        if self.ld_alpha is not None and self.precompute_ref_log_probs:
            yield (
                f"{at}.ld_alpha needs {at}.precompute_ref_log_probs=false, because the cache contains sums over whole "
                "answers"
            )
        if self.hub_strategy not in ("end", "every_save"):
            yield f"{at}.hub_strategy={self.hub_strategy} must be 'end', because only the result is uploaded"
        if self.push_to_hub and self.hub_model_id is None:
            yield f"{at}.push_to_hub=true needs {at}.hub_model_id=owner/name"
        yield from self._loss_faults(at)
        yield from self._saving_faults(at)
        if self.optim != "adamw_torch_fused":
            yield from _optimizer_faults(self.optim, f"{at}.optim")
        for name in [self.report_to] if isinstance(self.report_to, str) else self.report_to:
            package = REPORTERS.get(name)
            if package is None and name not in ("none", "all"):
                yield f"{at}.report_to={name}: there is no such choice; {hint(name, [*REPORTERS, 'none', 'all'])}"
            elif package is not None and (fault := package_fault(f"{at}.report_to={name}", package)):
                yield fault

    def _loss_faults(self, at: str) -> Iterator[str]:
        losses, weights, smoothing = self.loss_type, self.loss_weights, self.label_smoothing
        if not isinstance(losses, list | tuple):
            return  # reported already
        if weights is not None and len(weights) != len(losses):
            yield (
                f"{at}.loss_weights={as_override(weights)} must contain one weight per loss of "
                f"{at}.loss_type={as_override(losses)}; {at}.loss_weights=null gives every loss the weight 1"
            )
        if weights is not None and not any(weights):
            yield f"{at}.loss_weights={as_override(weights)} must contain a weight other than 0"
        if len(set(losses)) != len(losses):
            yield f"{at}.loss_type={as_override(losses)} must not name a loss twice"
        if smoothing and not set(losses) & set(SMOOTHED):
            yield (
                f"{at}.label_smoothing={smoothing} must be 0, because none of the losses {', '.join(losses)} uses "
                "label smoothing"
            )
        if "robust" in losses and smoothing >= 0.5:
            yield f"{at}.label_smoothing={smoothing} must be below 0.5 for the loss 'robust'"
        if "exo_pair" in losses and not smoothing:
            yield f"{at}.label_smoothing=0 must be above 0 for the loss 'exo_pair', whose paper recommends 1e-3"

    def _saving_faults(self, at: str) -> Iterator[str]:
        best, choosing = self.load_best_model_at_end, self.load_best_model_at_end or self.save_strategy == "best"
        if choosing and self.eval_strategy == "no":
            yield f"{at}.eval_strategy=no must be 'steps' or 'epoch', because evaluations determine the best checkpoint"
        if choosing and self.save_strategy == "no":
            yield f"{at}.save_strategy=no must be '{self.eval_strategy}', because the best checkpoint must be saved"
        if self.save_strategy == "best" and self.metric_for_best_model is None:
            yield f"{at}.save_strategy=best needs {at}.metric_for_best_model, for example eval_loss"
        reads_metric = choosing or self.lr_scheduler_type == "reduce_lr_on_plateau"
        if self.metric_for_best_model is not None and not reads_metric:
            yield f"{at}.metric_for_best_model={self.metric_for_best_model} needs {at}.load_best_model_at_end=true"
        if best and self.eval_strategy != self.save_strategy and self.save_strategy != "best":
            yield (
                f"{at}.load_best_model_at_end=true needs {at}.save_strategy={self.eval_strategy} (the value of "
                f"{at}.eval_strategy), not {self.save_strategy}"
            )
        elif (
            best
            and self.save_strategy == "steps"
            and self.eval_steps
            and not _is_multiple(self.save_steps, self.eval_steps)
        ):
            yield (
                f"{at}.load_best_model_at_end=true needs {at}.save_steps={self.save_steps:g} to be a multiple of "
                f"{at}.eval_steps={self.eval_steps}"
            )


def _is_multiple(steps: float, of: float) -> bool:
    """Return whether ``steps`` is a multiple of ``of``. Both are numbers of steps or fractions of the run."""
    return abs(steps / of - round(steps / of)) < 1e-6


def _optimizer_faults(optim: str, at: str) -> Iterator[str]:
    from transformers.training_args import OptimizerNames

    names = [name.value for name in OptimizerNames]
    if optim not in names:
        yield f"{at}={optim}: there is no such optimizer; {hint(optim, names)}"
    elif fault := optimizer_fault(optim):
        yield f"{at}={fault}"


def batch_fault(values: Mapping[str, Any], num_processes: int) -> str | None:
    """Return a message if the processes cannot share the global batch equally, otherwise None.

    Args:
        values: fields of ``PreferenceConfig`` by name.
        num_processes: number of processes.
    """
    batch = values["global_batch_size"]
    names = ("per_device_train_batch_size", "gradient_accumulation_steps")
    factors = {"launcher.num_processes": num_processes} if num_processes > 1 else {}
    factors |= {f"trainer.{name}": values[name] for name in names if values[name] is not None}
    product = math.prod(factors.values())
    is_given = all(values[name] is not None for name in names)
    if batch is None or (batch == product if is_given else batch % product == 0):
        return None
    relation = "equal" if is_given else "be a multiple of"
    listed = " x ".join(f"{key}={value}" for key, value in factors.items())
    return f"trainer.global_batch_size={batch} must {relation} {listed}, or null to be computed automatically"
