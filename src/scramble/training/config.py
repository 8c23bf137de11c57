"""Defines the configuration of a training run: TRL's ``DPOConfig`` plus fields for tries, mixed objectives and LoRA."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, TypeVar

import torch
from trl import DPOConfig

from scramble.models.loading import no_checkpointing_warnings
from scramble.training.checks import check_settings
from scramble.training.dataloader import default_num_workers
from scramble.training.fields import RENAMED, unknown_field
from scramble.training.losses import depend_on_micro_batch, resolve_loss_weights
from scramble.training.settings import batch_fault
from scramble.trie.engine import TOWER_TOKENS

T = TypeVar("T")


def _with_suggestions(cls: type[T]) -> type[T]:
    """Make the constructor of a dataclass suggest a similar field if it is called with a name that is not a field."""
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
    or is refused with a reason (:data:`scramble.training.fields.REFUSED_FIELDS`). Some defaults differ from TRL's
    defaults. Rows longer than ``max_length`` are rejected and never truncated.

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
            "help": "Training backend: trie (this project's trainer), trl (TRL's DPOTrainer or SFTTrainer) or auto "
            "(trie if the model's family supports token tries, otherwise trl)."
        },
    )
    global_batch_size: int | None = field(
        default=32,
        metadata={
            "help": "Number of pairs per optimizer step, over all processes. It determines the number of gradient "
            "accumulation steps, so that the number of GPUs does not change the run. If None, it is computed from "
            "per_device_train_batch_size and gradient_accumulation_steps."
        },
    )
    warmup_ratio: float = field(
        default=0.03, metadata={"help": "Fraction of the run that is used for the warm-up if warmup_steps is 0."}
    )
    reward_shift: str = field(
        default="earlier",
        metadata={
            "help": "Reward shift of the loss bco_pair: earlier (the mean reward of all earlier steps, as in MPO's "
            "paper), inclusive (this mean also includes the current micro-batch, as in the authors' code) or none (as "
            "in TRL since 0.29)."
        },
    )
    sft_mean: str = field(
        default="answer",
        metadata={
            "help": "Tokens over which the sft loss is averaged: answer (the tokens of each answer, as in MPO's paper) "
            "or batch (all chosen tokens of the micro-batch, as in TRL's DPOTrainer)."
        },
    )
    tables: list[str] = field(
        default_factory=lambda: ["pairs"],
        metadata={
            "help": "Tables to train on. Only the sft loss supports the tables captions, questions and rationales."
        },
    )
    loss_on_history: bool = field(
        default=False,
        metadata={
            "help": "In conversations, also compute the loss on the assistant's earlier answers. The answers of a pair "
            "share these earlier answers, so the earlier answers change the sft loss but not the margins."
        },
    )
    caption_prompt: str = field(
        default="Describe the image.",
        metadata={"help": "Prompt for training on the table captions. The captions are the answers to this prompt."},
    )
    peft: dict[str, Any] | None = field(
        default=None,
        metadata={
            "help": "Fields of peft.LoraConfig for a new adapter on the language model. None creates no new adapter."
        },
    )
    train_vision: bool | str = field(
        default=False,
        metadata={
            "help": "Whether to train the vision tower and the projector as well. True trains their weights, which is "
            "possible only without LoRA. lora adds the new adapter to their linear layers."
        },
    )
    tower_tokens: int | None = field(
        default=TOWER_TOKENS,
        metadata={
            "help": "Maximum number of image patches that a frozen vision tower encodes at a time on a GPU, which "
            "limits the memory use. None sets no limit."
        },
    )
    group_by_image: bool = field(
        default=True,
        metadata={"help": "Keep the pairs of an image together. False shuffles the pairs individually, as TRL does."},
    )
    row_tokens: int | None = field(
        default=None,
        metadata={"help": "Number of tokens per row of a batch. If None, it is the length of the longest trie."},
    )
    feature_cache_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder of a cache for the features of a frozen vision tower, which all epochs and several runs "
            "can share. None computes the features in every step."
        },
    )
    image_cache_mb: int = field(
        default=512, metadata={"help": "Size in megabytes of each process's cache of processed images."}
    )
    reference_cache_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder of the cached reference log-probabilities, which several runs can share. If None, the "
            "folder reference in the output folder is used."
        },
    )
    reference_batch_tokens: int = field(
        default=4096,
        metadata={"help": "Maximum number of tokens per batch when the reference log-probabilities are computed."},
    )
    max_rejected_fraction: float = field(
        default=0.05,
        metadata={
            "help": "Maximum fraction of unusable rows. A single unusable row is allowed if any other row is usable."
        },
    )
    log_entropy: bool = field(
        default=False,
        metadata={"help": "Whether to log the mean entropy of the next token at scored positions, in nats."},
    )
    peak_tflops: float | None = field(
        default=None,
        metadata={
            "help": "Peak TFLOP/s of the device, for the metric mfu. If None, the peak is looked up by the name of the "
            "GPU, which is possible only for common GPUs."
        },
    )

    def __post_init__(self) -> None:
        for name in ("loss_type", "loss_weights", "tables"):
            if isinstance(value := getattr(self, name), str | int | float):
                setattr(self, name, [value])
        check_settings(self)
        self.losses = resolve_loss_weights(self.loss_type, self.loss_weights)  # weight by name of the loss
        # Whether a resumed run must keep its micro-batch size, which otherwise follows from the number of processes.
        self.binds_micro_batch = self.per_device_train_batch_size is not None or depend_on_micro_batch(
            self.losses, vars(self)
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
            raise ValueError(
                "trainer.activation_offloading=true needs a GPU, but training runs on the CPU: set it to false"
            )
        self.dataloader_num_workers = default_num_workers(self.device) if workers is None else workers
        # One process trains on one GPU. With several visible GPUs, transformers would otherwise use torch's
        # DataParallel.
        self._n_gpu = min(self.n_gpu, 1)

    def _share_batch(self, world: int) -> None:
        """Compute the missing values among global batch size, micro-batch size and accumulation steps."""
        if fault := batch_fault(vars(self), world):
            raise ValueError(fault)
        micro, steps = self.per_device_train_batch_size, self.gradient_accumulation_steps
        if self.global_batch_size is None:
            micro, steps = micro or 8, steps or 1
            self.global_batch_size = micro * steps * world
        batch = self.global_batch_size
        micro = micro or max(1, batch // (world * (steps or 1)))
        self.per_device_train_batch_size, self.gradient_accumulation_steps = micro, batch // (micro * world)
        if self.per_device_eval_batch_size is None:
            self.per_device_eval_batch_size = micro
