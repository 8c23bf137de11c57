"""The options of a run: which go together, and what becomes of them in transformers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from scramble.training.data import TABLES
from scramble.training.dataloader import default_num_workers
from scramble.training.losses import needs_pairs, reads

REFERENCES = ("cache", "step")


def check_options(
    weights: Mapping[str, float],
    use: Sequence[str],
    reference: str,
    has_adapter: bool,
    lora: Mapping[str, Any] | None,
    train_vision: bool,
    image_features: str | Path | None,
    label_smoothing: float,
) -> None:
    """Raise ValueError for options of ``train`` that are unknown or do not go together."""
    if not use or set(use) - set(TABLES):
        raise ValueError(f"use={list(use)}: name at least one of {TABLES}")
    if needs_pairs(weights) and set(use) != {"pairs"}:
        raise ValueError(f"use={list(use)}: captions and questions have no rejected answer; only objective 'sft' can")
    if label_smoothing and not reads(weights, "label_smoothing"):
        raise ValueError(f"label_smoothing={label_smoothing}: none of {', '.join(weights)} reads it")
    if reference not in REFERENCES:
        raise ValueError(f"reference={reference!r} is unknown: choose one of {REFERENCES}")
    if reference == "step" and needs_pairs(weights) and (has_adapter or not lora):
        raise ValueError(
            "reference='step' computes the reference with the adapters off, which is the starting model only for a "
            "fresh adapter: use reference='cache'"
        )
    if lora and has_adapter:
        raise ValueError("lora: the model already has an adapter; go on from it with lora=null, or merge it first")
    if image_features is not None and train_vision:
        raise ValueError("image_features: a tower that is trained has no features to keep")
    if (lora or has_adapter) and train_vision:
        raise ValueError("train_vision: with LoRA the tower is frozen")
    unknown = sorted(set(lora or {}) - {"r", "alpha", "dropout", "targets"})
    if unknown:
        raise ValueError(f"lora has no option {unknown[0]!r}: it has r, alpha, dropout and targets")


def check_shared_out(accelerator: Any, *, watched: bool) -> None:
    """Raise ValueError if weights were to be shared out (FSDP, ZeRO-3) and are not, or if something cannot work so."""
    kind = accelerator.distributed_type.value
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true" and kind != "FSDP":
        raise ValueError(f"FSDP was asked for and accelerate runs {kind}: it needs two GPUs or more; use strategy ddp")
    plugin = accelerator.state.deepspeed_plugin
    if watched and (kind == "FSDP" or (plugin is not None and plugin.zero_stage == 3)):
        raise ValueError(
            "watch: benchmarks are scored by one process, which under FSDP and ZeRO-3 has a share of the weights: set "
            "trainer.watch=null (the validation pairs are still scored), or use ddp or zero2"
        )


def training_arguments(
    out: Path,
    *,
    device: str | None,
    autocast: bool,
    learning_rate: float,
    schedule: str,
    warmup: float,
    weight_decay: float,
    adam_betas: tuple[float, float],
    max_grad_norm: float,
    log_every: int,
    save_every: int,
    seed: int,
    dataloader_num_workers: int | None,
    dataloader_prefetch_factor: int | None,
) -> TrainingArguments:
    """transformers' arguments; the number of steps is set once the data is known. Starts the process group."""
    cpu = device == "cpu" or (device is None and not torch.cuda.is_available())
    distributed = int(os.environ.get("WORLD_SIZE", "1")) > 1
    args = TrainingArguments(
        output_dir=str(out / "checkpoints"),
        max_steps=1,
        learning_rate=learning_rate,
        lr_scheduler_type=schedule,
        warmup_steps=warmup,
        weight_decay=weight_decay,
        adam_beta1=adam_betas[0],
        adam_beta2=adam_betas[1],
        max_grad_norm=max_grad_norm,
        logging_steps=log_every,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=save_every,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        seed=seed,
        bf16=autocast,
        use_cpu=cpu,
        ddp_backend="gloo" if cpu and distributed else None,
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
    )
    workers = dataloader_num_workers
    args.dataloader_num_workers = default_num_workers(args.device) if workers is None else workers
    args.dataloader_prefetch_factor = dataloader_prefetch_factor
    # One process trains on one GPU: with several in sight, transformers would reach for torch's DataParallel.
    args._n_gpu = min(args.n_gpu, 1)
    return args
