"""Defines the configuration of a training run: TRL's ``DPOConfig`` plus fields for tries, mixed objectives and LoRA."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from dataclasses import dataclass, field
from functools import cache, wraps
from typing import Any, TypeVar

import torch
from trl import DPOConfig

from scramble.models.loading import no_checkpointing_warnings
from scramble.training.checks import check_settings
from scramble.training.dataloader import default_num_workers
from scramble.training.fields import (
    REFUSED_FIELDS,
    RENAMED,
    TRL_OPTIONS,
    default_of,
    operation_fields,
    plain_value,
    unknown_field,
)
from scramble.training.losses import depend_on_micro_batch, resolve_loss_weights
from scramble.trie.engine import TOWER_TOKENS

T = TypeVar("T")


def _with_suggestions(cls: type[T]) -> type[T]:
    """Make the constructor of a dataclass suggest a field if it is called with a field that does not exist."""
    original = cls.__init__

    @wraps(original)
    def init(self: T, *args: Any, **values: Any) -> None:
        if fault := unknown_field(cls, values, RENAMED):
            raise TypeError(fault)
        original(self, *args, **values)

    cls.__init__ = init  # type: ignore[method-assign, assignment]
    return cls


@_with_suggestions
@dataclass
class PreferenceConfig(DPOConfig):
    """Settings of :func:`scramble.training.train`.

    Every field of :class:`trl.DPOConfig` and :class:`transformers.TrainingArguments` either keeps its name and meaning
    or is refused with a reason (:data:`scramble.training.fields.REFUSED_FIELDS`). The first block below changes
    defaults, and the second block adds fields. Rows longer than ``max_length`` are rejected and never truncated.

    Raises:
        TypeError: a field does not exist. The message suggests another field.
        ValueError: a value is out of range, fields contradict each other, or a refused field is set. The message names
            the field.
    """

    # ---- defaults that differ from TRL's
    num_train_epochs: float = 1.0
    per_device_train_batch_size: int = None  # type: ignore[assignment]  # None: from the global batch size
    per_device_eval_batch_size: int = None  # type: ignore[assignment]  # None: as in training
    gradient_accumulation_steps: int = None  # type: ignore[assignment]  # None: computed from the global batch size
    learning_rate: float = 1e-5
    lr_scheduler_type: Any = "cosine"
    bf16: bool = False
    gradient_checkpointing: bool = False
    logging_first_step: bool = True
    logging_nan_inf_filter: bool = False
    eval_strategy: Any = "steps"
    eval_steps: float | None = 200
    eval_on_start: bool = True
    save_steps: float = 200
    save_total_limit: int | None = 2
    hub_strategy: Any = "end"
    seed: int = 0
    dataloader_num_workers: int = None  # type: ignore[assignment]  # None: chosen for the machine
    remove_unused_columns: bool = False
    ddp_find_unused_parameters: bool | None = False
    ddp_broadcast_buffers: bool | None = False
    max_length: int | None = None
    precompute_ref_log_probs: bool = True

    # ---- fields of this project
    backend: str = field(
        default="auto",
        metadata={
            "help": "trie (this project's trainer), trl (TRL's DPOTrainer or SFTTrainer), or auto. auto selects the "
            "trie if the model's family supports token tries, otherwise TRL."
        },
    )
    global_batch_size: int | None = field(
        default=32,
        metadata={
            "help": "Pairs per optimizer step over all processes. It determines gradient accumulation, so that the "
            "number of GPUs does not change the run. None: computed from per_device_train_batch_size and "
            "gradient_accumulation_steps."
        },
    )
    warmup_ratio: float = field(
        default=0.03, metadata={"help": "Fraction of the run used for warm-up if warmup_steps is 0."}
    )
    reward_shift: str = field(
        default="earlier",
        metadata={
            "help": "Reward shift of bco_pair: earlier (mean of all earlier rewards, as in the MPO paper), inclusive "
            "(includes this step's rewards, as in the authors' code) or none (as in TRL)."
        },
    )
    sft_mean: str = field(
        default="answer",
        metadata={
            "help": "Tokens over which the sft loss is averaged: answer (the tokens of each answer, as in the MPO "
            "paper) or batch (the tokens of all answers in a micro-batch, as in TRL)."
        },
    )
    tables: list[str] = field(
        default_factory=lambda: ["pairs"],
        metadata={"help": "Tables to train on. The tables captions, questions and rationales need the sft loss alone."},
    )
    loss_on_history: bool = field(
        default=False,
        metadata={
            "help": "In conversations, also compute the loss on the assistant's earlier answers. The answers of a pair "
            "share these earlier answers, so the earlier answers change the sft loss but not the margins."
        },
    )
    caption_prompt: str = field(
        default="Describe the image.", metadata={"help": "Prompt for the captions of the table captions."}
    )
    peft: dict[str, Any] | None = field(
        default=None,
        metadata={"help": "Fields of peft.LoraConfig for a new adapter on the language model, or None."},
    )
    train_vision: bool | str = field(
        default=False,
        metadata={
            "help": "Also train vision tower and projector. True trains their weights (only without LoRA). lora adds "
            "the new adapter to their linear layers, too."
        },
    )
    tower_tokens: int | None = field(
        default=TOWER_TOKENS,
        metadata={
            "help": "Image patches that a frozen vision tower encodes at a time, which limits its memory. None: all "
            "patches of a batch."
        },
    )
    group_by_image: bool = field(
        default=True, metadata={"help": "Keep the pairs of an image together; False shuffles single pairs, as in TRL."}
    )
    row_tokens: int | None = field(default=None, metadata={"help": "Tokens per row of a batch; None: longest trie."})
    feature_cache_dir: str | None = field(
        default=None, metadata={"help": "Folder that caches a frozen tower's features across epochs and runs."}
    )
    image_cache_mb: int = field(
        default=512, metadata={"help": "Memory in megabytes per process for a cache of processed images."}
    )
    reference_cache_dir: str | None = field(
        default=None,
        metadata={"help": "Folder of reference caches, shared by runs; None: reference/ in the output folder."},
    )
    reference_batch_tokens: int = field(
        default=4096, metadata={"help": "Tokens per batch while the reference log-probabilities are computed."}
    )
    max_rejected_fraction: float = field(
        default=0.05, metadata={"help": "Maximum fraction of unusable rows; a single unusable row never stops a run."}
    )
    log_entropy: bool = field(
        default=False, metadata={"help": "Log the entropy of the next token at scored positions (nats)."}
    )
    peak_tflops: float | None = field(
        default=None, metadata={"help": "Peak TFLOP/s of the device, for mfu; None: looked up for common GPUs."}
    )

    def __post_init__(self) -> None:
        if isinstance(self.loss_type, str):
            self.loss_type = [self.loss_type]
        self.losses = resolve_loss_weights(self.loss_type, self.loss_weights)  # weight by name of the loss
        check_settings(self)
        self._binds_micro_batch = self.per_device_train_batch_size is not None or depend_on_micro_batch(
            self.losses, self.sft_mean
        )
        self._share_batch(int(os.environ.get("WORLD_SIZE", "1")))
        if not self.warmup_steps:
            # transformers 5 interprets a value of warmup_steps below 1 as a fraction of the run.
            self.warmup_steps = self.warmup_ratio
        # Without use_cpu and gloo, accelerate does not create a process group for several CPU processes.
        self.use_cpu = self.use_cpu or not torch.cuda.is_available()
        if self.use_cpu and int(os.environ.get("WORLD_SIZE", "1")) > 1 and self.ddp_backend is None:
            self.ddp_backend = "gloo"
        if self.disable_tqdm is None:
            self.disable_tqdm = not sys.stderr.isatty()
        workers, self.dataloader_num_workers = self.dataloader_num_workers, self.dataloader_num_workers or 0
        with no_checkpointing_warnings():
            super().__post_init__()
        if self.activation_offloading and self.device.type == "cpu":
            raise ValueError("trainer.activation_offloading=true needs a GPU, but there is none: set it to false")
        self.dataloader_num_workers = default_num_workers(self.device) if workers is None else workers
        # One process trains on one GPU. With several visible GPUs, transformers would otherwise use torch's
        # DataParallel.
        self._n_gpu = min(self.n_gpu, 1)

    def _share_batch(self, world: int) -> None:
        """Compute the missing values among global batch size, micro-batch size and accumulation steps."""
        micro, steps = self.per_device_train_batch_size, self.gradient_accumulation_steps
        if self.global_batch_size is None:
            micro, steps = micro or 8, steps or 1
            self.global_batch_size = micro * steps * world
        batch = self.global_batch_size
        micro = micro or max(1, batch // (world * (steps or 1)))
        if batch % (micro * world):
            raise ValueError(
                f"trainer.global_batch_size={batch} is not a multiple of trainer.per_device_train_batch_size={micro} x "
                f"{world} processes: change one of the two keys"
            )
        if steps is not None and steps != batch // (micro * world):
            raise ValueError(
                f"trainer.gradient_accumulation_steps={steps} x trainer.per_device_train_batch_size={micro} x {world} "
                f"processes do not equal trainer.global_batch_size={batch}: set one of the three keys to null"
            )
        self.per_device_train_batch_size, self.gradient_accumulation_steps = micro, batch // (micro * world)
        if self.per_device_eval_batch_size is None:
            self.per_device_eval_batch_size = micro

    def settings(self) -> dict[str, Any]:
        """Return the fields that affect the trained weights and differ from their defaults, as JSON values.

        A run resumes only from a checkpoint with the same settings. Defaults are omitted, so that a run can resume its
        checkpoints even if a new version of transformers has added fields.
        """
        return {name: value for name, value in _resume_settings(self).items() if value != defaults().get(name)}


@cache
def defaults() -> dict[str, Any]:
    """Return the defaults of the settings that a checkpoint and a run must share, as JSON values."""
    return _resume_settings(None) | {"backend": "trie"}


def _resume_settings(args: PreferenceConfig | None) -> dict[str, Any]:
    """Return the fields that affect the trained weights, or their defaults if ``args`` is None, as JSON values."""
    free = operation_fields(args is None or args.load_best_model_at_end)
    # Refused fields have only one value. transformers and TRL replace the defaults of some of them.
    free |= set(REFUSED_FIELDS) - set(TRL_OPTIONS)
    free |= {"backend"}  # ``train`` records the backend that was used instead
    # These fields follow from the number of processes, which may differ when a run resumes.
    free |= {"gradient_accumulation_steps"}
    if args is None or not args._binds_micro_batch:
        free |= {"per_device_train_batch_size"}
    names = [f.name for f in dataclasses.fields(PreferenceConfig) if f.init and f.name not in free]
    values = {name: default_of(PreferenceConfig, name) if args is None else getattr(args, name) for name in names}
    plain: dict[str, Any] = json.loads(json.dumps(plain_value(values), default=str))
    return plain
