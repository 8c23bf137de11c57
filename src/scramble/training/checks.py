"""Checks the settings of a training run, for :class:`scramble.training.config.PreferenceConfig`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from transformers import get_scheduler

from scramble.field_checks import ConfigError, as_override, check, hints
from scramble.training.fields import REFUSED_FIELDS, TRL_OPTIONS, default_of, plain_value, vision_fault
from scramble.training.settings import TrainerSettings

if TYPE_CHECKING:
    from scramble.training.config import PreferenceConfig


def check_settings(args: PreferenceConfig) -> None:
    """Raise ValueError for unsupported or contradictory values, numbers outside their range, and missing packages."""
    _check_refused(args)
    values = {name: _config_value(getattr(args, name)) for name in hints(TrainerSettings)}
    values["report_to"] = values["report_to"] or "none"
    if faults := check(values, TrainerSettings, "trainer"):
        raise ConfigError(faults)
    if fault := vision_fault(args.train_vision, new_adapter=args.peft is not None):
        raise ValueError(fault)
    _check_scheduler(args)


def _config_value(value: Any) -> Any:
    """Return a value as a configuration file contains it: enumerations, paths and NumPy's numbers are converted."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.item() if hasattr(value, "item") else plain_value(value)


def _check_refused(args: PreferenceConfig) -> None:
    """Raise ValueError if the backend does not support the value of a field."""
    for name, reason in REFUSED_FIELDS.items():
        if (value := getattr(args, name)) != default_of(type(args), name):
            if name not in TRL_OPTIONS:
                raise ValueError(f"trainer.{name}={as_override(value)}: {reason}")
            if args.backend in ("auto", "trie"):
                value = as_override(value)
                raise ValueError(f"trainer.{name}={value}: {reason}; trainer.backend=trl supports this field")


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
