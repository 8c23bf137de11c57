"""Checks the settings of a training run, for :class:`scramble.training.config.PreferenceConfig`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from transformers import get_scheduler

from scramble.training.fields import (
    BACKENDS,
    REFUSED_FIELDS,
    TRL_OPTIONS,
    default_of,
    optimizer_fault,
    plain_value,
    trl_faults,
    vision_fault,
)
from scramble.training.losses import F_DIVERGENCES, SFT_MEANS, needs_pairs, reads
from scramble.training.reward_shift import REWARD_SHIFTS

if TYPE_CHECKING:
    from scramble.training.config import PreferenceConfig

# Fields that must be None or at least 1.
POSITIVE_FIELDS = (
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "global_batch_size",
    "max_length",
    "row_tokens",
    "tower_tokens",
    "reference_batch_tokens",
)
TRAINING_TABLES = ("pairs", "captions", "questions", "rationales")


def check_settings(args: PreferenceConfig) -> None:
    """Raise ValueError for refused fields, contradictory fields, numbers outside their range, and missing packages."""
    _check_refused(args)
    _check_contradictions(args)
    _check_numbers(args)
    _check_scheduler(args)


def _check_refused(args: PreferenceConfig) -> None:
    """Raise ValueError if the backend does not exist or does not support the value of a field."""
    if args.backend not in BACKENDS:
        raise ValueError(f"trainer.backend={args.backend} does not exist: choose one of {', '.join(BACKENDS)}")
    for name, reason in REFUSED_FIELDS.items():
        if (value := getattr(args, name)) != default_of(type(args), name):
            if name not in TRL_OPTIONS:
                raise ValueError(f"trainer.{name}={_format_value(value)}: {reason}")
            if args.backend != "trl":
                value = _format_value(value)
                raise ValueError(f"trainer.{name}={value}: {reason}; trainer.backend=trl supports this field")
    if args.backend == "trl" and (faults := trl_faults(vars(args))):
        raise ValueError(faults)


def _check_contradictions(args: PreferenceConfig) -> None:
    """Raise ValueError for contradictory fields and for packages that are not installed."""
    tables, pairs = list(args.tables), needs_pairs(args.losses)
    if not tables or set(tables) - set(TRAINING_TABLES):
        raise ValueError(
            f"trainer.tables={tables} is empty or contains an unknown name: choose one or more of "
            f"{', '.join(TRAINING_TABLES)}"
        )
    if pairs and set(tables) != {"pairs"}:
        raise ValueError(
            f"trainer.tables={tables} must be [pairs], because trainer.loss_type={list(args.losses)} needs rejected "
            "answers"
        )
    choices = {"reward_shift": REWARD_SHIFTS, "sft_mean": SFT_MEANS, "f_divergence_type": F_DIVERGENCES}
    for name, allowed in choices.items():
        if (value := getattr(args, name)) not in allowed:
            raise ValueError(f"trainer.{name}={value} is unknown: choose one of {', '.join(allowed)}")
    if args.label_smoothing and not reads(args.losses, "label_smoothing"):
        raise ValueError(
            f"trainer.label_smoothing={args.label_smoothing} must be 0, because none of the losses "
            f"{', '.join(args.losses)} uses label smoothing"
        )
    if args.train_vision not in (False, True, "lora"):
        raise ValueError(f"trainer.train_vision={args.train_vision} is unknown: choose one of true, false, lora")
    if fault := vision_fault(args.train_vision, new_adapter=args.peft is not None):
        raise ValueError(fault)
    if args.feature_cache_dir is not None and args.train_vision:
        raise ValueError(
            "trainer.feature_cache_dir needs a frozen vision tower: set trainer.train_vision=false or "
            "trainer.feature_cache_dir=null"
        )
    if args.ld_alpha is not None and args.precompute_ref_log_probs:
        raise ValueError(
            "trainer.ld_alpha needs trainer.precompute_ref_log_probs=false, because the cache contains sums over "
            "whole answers"
        )
    if args.hub_strategy not in ("end", "every_save"):
        raise ValueError(f"trainer.hub_strategy={args.hub_strategy} must be 'end', because only the result is uploaded")
    if args.push_to_hub and not args.hub_model_id:
        raise ValueError("trainer.push_to_hub=true needs trainer.hub_model_id=owner/name")
    if fault := optimizer_fault(str(plain_value(args.optim))):
        raise ValueError(f"trainer.optim={fault}")


def _check_numbers(args: PreferenceConfig) -> None:
    """Raise ValueError for numbers outside their range."""
    for name in POSITIVE_FIELDS:
        if (number := getattr(args, name)) is not None and number < 1:
            raise ValueError(f"trainer.{name}={number} must be at least 1")
    if args.beta <= 0:
        raise ValueError(f"trainer.beta={args.beta} must be above 0")
    if not 0 <= args.max_rejected_fraction <= 1:
        raise ValueError(f"trainer.max_rejected_fraction={args.max_rejected_fraction} must be from 0 to 1")
    if args.ld_alpha is not None and not 0 <= args.ld_alpha <= 1:
        raise ValueError(f"trainer.ld_alpha={args.ld_alpha} must be from 0 to 1")
    if "robust" in args.losses and not 0 <= args.label_smoothing < 0.5:
        raise ValueError(
            f"trainer.label_smoothing={args.label_smoothing} must be at least 0 and below 0.5 for the loss 'robust'"
        )
    if "exo_pair" in args.losses and not 0 < args.label_smoothing < 1:
        raise ValueError(
            f"trainer.label_smoothing={args.label_smoothing} must be above 0 and below 1 for the loss 'exo_pair', "
            "whose paper recommends 1e-3"
        )


def _check_scheduler(args: PreferenceConfig) -> None:
    """Create the schedule as a test, and raise ValueError if an option of the schedule is missing or unknown."""
    kind = plain_value(args.lr_scheduler_type)
    kwargs = args.lr_scheduler_kwargs
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise ValueError(f"trainer.lr_scheduler_kwargs={kwargs} must be a mapping, for example {{num_cycles: 2}}")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=args.learning_rate)
    try:
        get_scheduler(
            kind, optimizer, num_warmup_steps=1, num_training_steps=10, scheduler_specific_kwargs=dict(kwargs or {})
        )
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"trainer.lr_scheduler_type={kind} does not work with trainer.lr_scheduler_kwargs={dict(kwargs or {})} "
            f"({reason}): change one of the two keys"
        ) from error


def _format_value(value: Any) -> str:
    """Format a value as it is written on the command line."""
    return str(value).lower().replace("none", "null") if value is None or isinstance(value, bool) else str(value)
