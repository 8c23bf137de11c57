"""Decides which settings a resumed run may change, for the stage and for the checkpoint of a run.

The stage (``stage.json``) records the settings as they were configured. They are compared before a model is loaded,
even if the run is already finished. The checkpoint (``manifest.json``) records the values that training used, and
digests of model and data. Both omit the fields that a resumed run may change (:func:`free_fields`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from scramble.storage.hashing import differing_keys
from scramble.training.fields import REFUSED_FIELDS, TRL_OPTIONS, default_of, plain_value, used_backend

if TYPE_CHECKING:
    from scramble.training.config import PreferenceConfig

# Fields of the section ``trainer`` that do not affect the trained weights. They only determine how a run is executed,
# and what is written at which time. A resumed run may change them, with the exceptions in CHOICE_OF_RESULT.
OPERATION = frozenset(
    {
        "output_dir",
        "run_name",
        "project",
        "report_to",
        "disable_tqdm",
        "debug",
        "log_level",
        "log_level_replica",
        "log_on_each_node",
        "logging_strategy",
        "logging_steps",
        "logging_first_step",
        "save_strategy",
        "save_steps",
        "save_total_limit",
        "eval_strategy",
        "eval_steps",
        "eval_delay",
        "eval_on_start",
        "per_device_eval_batch_size",
        "log_entropy",
        "watch",
        "peak_tflops",
        "dataloader_num_workers",
        "dataloader_prefetch_factor",
        "dataloader_pin_memory",
        "dataloader_multiprocessing_context",
        "image_cache_mb",
        "feature_cache_dir",
        "reference_cache_dir",
        "max_rejected_fraction",
        "torch_empty_cache_steps",
        "trackio_space_id",
        "trackio_bucket_id",
        "trackio_static_space_id",
        "push_to_hub",
        "hub_model_id",
        "hub_token",
        "hub_private_repo",
        "hub_revision",
        "hub_strategy",
        "ddp_backend",
        "ddp_timeout",
        "ddp_bucket_cap_mb",
        "ddp_find_unused_parameters",
        "ddp_broadcast_buffers",
        "ddp_static_graph",
    }
)

# Fields in OPERATION that determine which checkpoint is the result if ``load_best_model_at_end`` is set. ``watch`` is
# such a field only if it measures ``metric_for_best_model``.
CHOICE_OF_RESULT = frozenset(
    {"eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "save_strategy", "save_steps"}
)

# A field that affects the log-probabilities only through the device, which the checkpoint compares (``precision``).
# Without a GPU, its value makes no difference.
DEVICE = frozenset({"use_cpu"})

# How messages name the other values that a checkpoint records.
CHECKPOINT_PARTS = {
    "base": "weights of model.path",
    "adapter": "weights of model.adapter",
    "precision": "model.dtype, model.attn_implementation and the device, which trainer.use_cpu can change",
    "data": "texts of the training data",
}


def free_fields(trainer: Mapping[str, Any]) -> frozenset[str]:
    """Return the fields that a resumed run may change. Runs that differ only in these fields count as the same run.

    Args:
        trainer: the fields of a ``PreferenceConfig``, or the section ``trainer``, which also contains ``watch``.
    """
    free = OPERATION | DEVICE
    if not trainer.get("load_best_model_at_end"):
        return free
    metric = (trainer.get("metric_for_best_model") or "").removeprefix("eval_")
    benchmarks = (trainer.get("watch") or {}).get("benchmarks", ())
    is_watched = any(metric.startswith(f"{name}/") for name in benchmarks)
    return free - CHOICE_OF_RESULT - ({"watch"} if is_watched else set())


# --------------------------------------------------------------------------------------------------------------- stage


def stage_settings(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the section ``trainer`` that a resumed run must keep, for ``stage.json``."""
    free = free_fields(trainer)
    return {name: value for name, value in trainer.items() if name not in free}


def changes_since_stage(recorded: Mapping[str, Any], config: Mapping[str, Any], model: Mapping[str, Any]) -> list[str]:
    """Return the settings of an arm that differ from its ``stage.json``, as ``key (old -> new)``.

    If a setting is missing from one configuration, it is assumed to have its default value. Different values of
    ``backend`` count as equal if they select the same backend for ``model`` (a section of the configuration).
    """
    defaults = _option_defaults()
    old, new = (dict(side["trainer"]) for side in (recorded, config))
    if "watch" not in old:  # earlier versions did not record it
        new.pop("watch", None)
    backends = {side.get("backend", "auto") for side in (old, new)}
    if len(backends) > 1 and len({used_backend(name, _has_trie(model)) for name in backends}) == 1:
        old["backend"] = new["backend"] = backends.pop()
    if not _sets_micro_batch(defaults["trainer"] | new):
        for side in (old, new):
            side.pop("gradient_accumulation_steps", None)
    return differing_keys({**recorded, "trainer": old}, {**config, "trainer": new}, defaults=defaults)


def _sets_micro_batch(trainer: Mapping[str, Any]) -> bool:
    """Return whether ``gradient_accumulation_steps`` affects the global batch size, or the value of a loss that depends
    on which pairs share a micro-batch.
    """
    from scramble.training.losses import depend_on_micro_batch

    losses = [trainer["loss_type"]] if isinstance(trainer["loss_type"], str) else trainer["loss_type"]
    return trainer["global_batch_size"] is None or depend_on_micro_batch(losses, trainer)


def _has_trie(model: Mapping[str, Any]) -> bool:
    """Return whether the family of a model supports token tries. Raises ModelError if its ``config.json`` cannot be
    read.
    """
    from scramble.models.families.registry import family_named, family_of
    from scramble.models.hub import read_config

    if model.get("new") is not None:
        return family_named(model["family"]).has_trie
    return family_of(read_config(model["path"], model.get("revision"))["model_type"]).has_trie


@cache
def _option_defaults() -> dict[str, Any]:
    """Return the defaults of all options of the trainer and of the adapter, as JSON values."""
    from peft import LoraConfig

    from scramble.training.config import PreferenceConfig

    options = {"trainer": PreferenceConfig, "peft": LoraConfig}
    values = {key: {f.name: default_of(cls, f.name) for f in dataclasses.fields(cls)} for key, cls in options.items()}
    return _as_json(values)


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values as they are read back from a JSON file."""
    plain: dict[str, Any] = json.loads(json.dumps(plain_value(values), default=str))
    return plain


# ---------------------------------------------------------------------------------------------------------- checkpoint


def checkpoint_settings(args: PreferenceConfig, backend: str) -> dict[str, Any]:
    """Return the settings that a resumed run must keep and that differ from their defaults, as JSON values.

    Defaults are omitted, so that a run can resume its checkpoints even if a new version of transformers has added
    fields.

    Args:
        args: the settings of a run.
        backend: the backend that the run uses, ``trie`` or ``trl``.
    """
    values = _compared_values(vars(args), free_fields(vars(args))) | {"backend": backend}
    if not args.binds_micro_batch:  # computed from the number of processes, which may differ when a run resumes
        del values["per_device_train_batch_size"]
    return {name: value for name, value in values.items() if value != _checkpoint_defaults().get(name)}


def changes_since_checkpoint(saved: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Return the settings of a run that differ from its checkpoint, as ``key (old -> new)``.

    A setting that is missing on one side is assumed to have its default value. Settings that are only in the checkpoint
    are ignored, because they were written by an earlier version, or computed from the number of processes.
    """
    old, new = ({**_checkpoint_defaults(), **side} for side in (saved, settings))
    old = {name: value for name, value in old.items() if name in new}
    changes = differing_keys(old, new, defaults={"peft": _option_defaults()["peft"]})
    names = [change.split()[0] for change in changes]
    return [CHECKPOINT_PARTS.get(name, name) + change[len(name) :] for name, change in zip(names, changes, strict=True)]


def _compared_values(values: Mapping[str, Any], free: frozenset[str]) -> dict[str, Any]:
    """Return the values of all fields of ``PreferenceConfig`` that are not ``free``, as JSON values.

    ``gradient_accumulation_steps`` and refused fields are omitted. Refused fields have only one valid value, but
    transformers and TRL replace the defaults of some of them.
    """
    from scramble.training.config import PreferenceConfig

    free |= (REFUSED_FIELDS.keys() - TRL_OPTIONS) | {"gradient_accumulation_steps"}
    names = [field.name for field in dataclasses.fields(PreferenceConfig) if field.init and field.name not in free]
    return _as_json({name: values[name] for name in names})


@cache
def _checkpoint_defaults() -> dict[str, Any]:
    """Return the defaults of the settings that a checkpoint and a run must share, as JSON values."""
    free = free_fields({"load_best_model_at_end": True})
    values = _compared_values(_option_defaults()["trainer"], free) | {"backend": "trie"}
    del values["per_device_train_batch_size"]
    return values
