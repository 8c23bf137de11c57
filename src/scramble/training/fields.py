"""Describes the fields of :class:`scramble.training.config.PreferenceConfig`, without importing torch."""

from __future__ import annotations

import dataclasses
import difflib
import enum
import importlib.util
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

# Fields that define the training loss; each file in configs/objective sets these fields together.
LOSS_FIELDS = (
    "loss_type",
    "loss_weights",
    "beta",
    "label_smoothing",
    "reward_shift",
    "sft_mean",
    "discopop_tau",
    "f_divergence_type",
    "f_alpha_divergence_coef",
    "ld_alpha",
    "use_weighting",
)

# The losses of TRL's DPOTrainer, which trainer.backend=trl supports.
TrlLoss = Literal[
    "sigmoid",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sigmoid_norm",
    "sft",
]
TRL_LOSSES = get_args(TrlLoss)


def default_of(cls: type, name: str) -> Any:
    """Return the default of a field of a dataclass."""
    field: Any = next(field for field in dataclasses.fields(cls) if field.name == name)
    return field.default if field.default is not dataclasses.MISSING else field.default_factory()


def plain_value(value: Any) -> Any:
    """Return a value with all enumeration members replaced by their values."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {key: plain_value(item) for key, item in value.items()}
    return [plain_value(item) for item in value] if isinstance(value, list | tuple) else value


def unknown_field(cls: type, names: Iterable[str], renamed: Mapping[str, str]) -> str | None:
    """Return a message for the first name that is not a field of a dataclass, or None if all names are fields.

    The message suggests the new name in ``renamed``, or the most similar field.
    """
    fields = [field.name for field in dataclasses.fields(cls) if field.init]
    name = next((name for name in names if name not in fields), None)
    if name is None:
        return None
    close = difflib.get_close_matches(name, fields, n=1)
    advice = f"; use {renamed[name]}" if name in renamed else f"; did you mean {close[0]}?" if close else ""
    return f"{cls.__name__} has no field {name}{advice}"


# Fields of PEFT that are refused, with the reason. Their default values are accepted.
PEFT_REFUSED = {
    "peft_type": "only LoRA adapters are trained",
    "auto_mapping": "the class of the base model is known, so the adapter needs no mapping",
    "inference_mode": "this field would freeze the adapter",
    "base_model_name_or_path": "model.path names the base model",
    "revision": "model.revision names the base model's revision",
    "bias": "biases of the base model and its vision tower would be trained; use peft=null to train all weights",
    "lora_bias": "an adapter with biases cannot be merged into its base model",
    "trainable_token_indices": "the output head may be tied to the embedding; use peft.modules_to_save=[lm_head]",
    "layers_to_transform": "name the layers in a regular expression: peft.target_modules='.*layers\\.(0|1)\\..*q_proj'",
    "layers_pattern": "name the layers in a regular expression: peft.target_modules='.*layers\\.(0|1)\\..*q_proj'",
    "layer_replication": "the trie engine runs the layers of the base model",
    "runtime_config": "use trainer.activation_offloading to save memory",
    "loftq_config": "LoftQ changes the base model's weights, so the adapter would not match the released model",
    "eva_config": "PEFT's data-driven initialisation is not supported",
    "corda_config": "PEFT's data-driven initialisation is not supported",
    "lora_ga_config": "PEFT's data-driven initialisation is not supported",
    "kasa_config": "KaSA changes the base model's weights, so the adapter would not match the released model",
    "alora_invocation_tokens": "tries contain no invocation tokens, so nothing would be trained",
    "use_qalora": "QA-LoRA needs GPTQ weights, which are not supported",
    "megatron_config": "Megatron is not supported",
    "arrow_config": "routing between adapters is not supported",
}

# Fields of transformers and TRL that the trie trainer does not support, with the reason and the alternative. Their
# default values are accepted.
_TRIE = "a trie shares tokens between sequences and pads only short rows"
_MODEL = "the section model configures loading (model.path, model.dtype, ...)"
_GATHER = "validation compares log-probabilities of pairs and does not gather predictions"
_REFERENCE = "the reference is the starting model, and its log-probabilities are cached"
_BATCHES = "the sampler distributes batches in the same order for every number of processes"
REFUSED_FIELDS = {
    "output_dir": "results are written to the run folder (run.dir and run.arm; in Python, the argument out)",
    "average_tokens_across_devices": "the loss is a mean over pairs, not over tokens",
    "label_smoothing_factor": "this field applies only to cross-entropy; use trainer.label_smoothing",
    "fp16": "the activations of many models overflow in float16; use trainer.bf16=true",
    "bf16_full_eval": "validation runs in the same precision as training; use trainer.bf16 or model.dtype",
    "fp16_full_eval": "validation runs in the same precision as training; use trainer.bf16 or model.dtype",
    "activation_checkpointing": "use trainer.gradient_checkpointing",
    "activation_checkpointing_kwargs": "checkpointing is always non-reentrant and covers all layers except the last",
    "gradient_checkpointing_kwargs": "checkpointing is always non-reentrant and covers all layers except the last",
    "use_liger_kernel": "Liger is not supported; the output head already runs only on scored tokens",
    "liger_kernel_config": "Liger is not supported; the output head already runs only on scored tokens",
    "use_cache": "training does not cache keys and values; scoring and generation already share prefixes",
    "auto_find_batch_size": "batches must not depend on the machine; lower trainer.per_device_train_batch_size",
    "logging_nan_inf_filter": "a NaN or infinite loss stops the run with a message that names the step's pairs",
    "include_num_input_tokens_seen": "num_tokens is always logged",
    "prediction_loss_only": _GATHER,
    "eval_do_concat_batches": _GATHER,
    "eval_use_gather_object": _GATHER,
    "eval_accumulation_steps": _GATHER,
    "include_for_metrics": _GATHER,
    "batch_eval_metrics": _GATHER,
    "save_only_model": "checkpoints must be resumable; the trained weights are also written to the run folder",
    "save_on_each_node": "checkpoints are written once, into the run folder",
    "enable_jit_checkpoint": "a run always saves on SIGTERM and SIGINT",
    "hub_always_push": "the result is uploaded once, at the end of the run (trainer.push_to_hub)",
    "ignore_data_skip": "a resumed run uses exactly the same batches as an uninterrupted run",
    "restore_callback_states_from_checkpoint": "a resumed run restores its callbacks from the run folder",
    "accelerator_config": _BATCHES,
    "parallelism_config": "use launcher=accelerate with launcher.strategy=ddp, fsdp2, zero2 or zero3",
    "dataloader_drop_last": _BATCHES,
    "dataloader_persistent_workers": "the same loader and workers are used for the whole run",
    "dataloader_in_order": _BATCHES,
    "remove_unused_columns": "batches contain tries, not columns",
    "label_names": "batches contain tries, not labels",
    "train_sampling_strategy": "use trainer.group_by_image",
    "length_column_name": "use trainer.group_by_image",
    "skip_memory_metrics": "memory is always logged (memory/resident_gib, memory/gpu_gib)",
    "do_train": "scripts/train.py trains, and scripts/evaluate.py evaluates",
    "do_eval": "scripts/train.py trains, and scripts/evaluate.py evaluates",
    "do_predict": "scripts/train.py trains, and scripts/evaluate.py evaluates",
    "resume_from_checkpoint": "the same command automatically resumes from the newest checkpoint",
    "local_rank": "the launcher sets this field",
    "model_init_kwargs": _MODEL,
    "trust_remote_code": "code from a model's repository is never run; the families in docs/models.md are built in",
    "disable_dropout": "dropout of the base model is always disabled, so that log-probabilities match the reference",
    "dataset_num_proc": "use trainer.dataloader_num_workers",
    "truncation_mode": "answers are never truncated; rows longer than trainer.max_length are rejected and listed",
    "padding_free": _TRIE,
    "pad_to_multiple_of": _TRIE,
    "precompute_ref_batch_size": "use trainer.reference_batch_tokens",
    "sync_ref_model": _REFERENCE,
    "ref_model_mixup_alpha": _REFERENCE,
    "ref_model_sync_steps": _REFERENCE,
    "pad_token": _TRIE,
}

# Refused fields that TRL's trainers support. These fields are accepted with ``backend=trl``.
TRL_OPTIONS = frozenset(
    {
        "gradient_checkpointing_kwargs",
        "pad_to_multiple_of",
        "precompute_ref_batch_size",
        "ref_model_mixup_alpha",
        "ref_model_sync_steps",
        "sync_ref_model",
    }
)


def used_backend(requested: str, has_trie: bool) -> str:
    """Return the backend that ``requested`` selects, given whether the model's family supports token tries."""
    if requested != "auto":
        return requested
    return "trie" if has_trie else "trl"


def trl_faults(values: Mapping[str, Any]) -> str | None:
    """Return a message that lists the keys to change because TRL does not support their values, or None.

    Args:
        values: fields of ``PreferenceConfig`` by name.
    """
    losses, changes = values["loss_type"], []
    unknown = [name for name in losses if name not in TRL_LOSSES]
    if unknown:
        return (
            f"trainer.backend=trl does not support trainer.loss_type={unknown[0]}, which is not a loss of TRL: use "
            "another loss, or trainer.backend=trie with a model that supports token tries"
        )
    if values.get("feature_cache_dir") is not None:
        changes.append("trainer.feature_cache_dir=null")
    if values.get("row_tokens") is not None:
        changes.append("trainer.row_tokens=null")
    if "bco_pair" in losses and values["reward_shift"] != "none":
        changes.append("trainer.reward_shift=none")
    if "sft" in losses and values["sft_mean"] != "batch":
        changes.append("trainer.sft_mean=batch")
    if not changes:
        return None
    return f"trainer.backend=trl does not support the values of some settings: set {' '.join(changes)}"


def vision_fault(train_vision: bool | str, *, new_adapter: bool, has_adapter: bool = False) -> str | None:
    """Return a message if ``train_vision`` contradicts the model's or the run's use of an adapter, otherwise None.

    Args:
        train_vision: field of ``PreferenceConfig``.
        new_adapter: whether the run adds an adapter (``peft``).
        has_adapter: whether the model already has an adapter.
    """
    if train_vision is True and new_adapter:
        return (
            "trainer.train_vision=true needs peft=null, because LoRA freezes the vision tower: set peft=null or "
            "trainer.train_vision=lora"
        )
    if train_vision is True and has_adapter:
        return (
            "trainer.train_vision=true needs a model without an adapter, because LoRA freezes the vision tower: merge "
            "the adapter or set trainer.train_vision=false"
        )
    if train_vision == "lora" and not new_adapter:
        return "trainer.train_vision=lora needs a new adapter: set peft.r, or set trainer.train_vision to true or false"
    return None


FLASH_ATTENTION_FAULT = (
    "model.attn_implementation=flash_attention_2 does not support the attention masks of token tries: set it to sdpa, "
    "or to flex_attention on a GPU, or set trainer.backend=trl"
)

PEFT_SECTION = "the section peft (peft.r, peft.lora_alpha; peft=null trains all weights)"

# Names of fields in other versions of TRL and transformers and in earlier versions of this project, with the keys to
# use instead. PEFT_RENAMED contains other names of PEFT's fields.
RENAMED = {
    "group_by_length": "trainer.group_by_image",
    "reference_free": "an objective without a reference: objective=sft",
    "rpo_alpha": "trainer.loss_type=[sigmoid,sft] with trainer.loss_weights",
    "max_prompt_length": "trainer.max_length (longer rows are rejected, never truncated)",
    "max_completion_length": "trainer.max_length (longer rows are rejected, never truncated)",
    "overwrite_output_dir": "a new name=..., or remove the run folder",
    "evaluation_strategy": "trainer.eval_strategy",
    "no_cuda": "trainer.use_cpu",
    "torchdynamo": "trainer.torch_compile_backend",
    "use_logits_to_keep": "the default, which runs the output head only on scored tokens",
    "generate_during_eval": "trainer.watch, which scores benchmarks while training",
    "ref_model_init_kwargs": "the default reference, which is the starting model",
    "force_use_ref_model": "the default reference, which is the starting model",
    "use_peft": PEFT_SECTION,
    "lora_r": "peft.r",
    "lora_alpha": "peft.lora_alpha",
    "lora_dropout": "peft.lora_dropout",
    "lora_target_modules": "peft.target_modules",
    "peft_config": PEFT_SECTION,
    "lora": PEFT_SECTION,
    "attn_implementation": "model.attn_implementation",
    "load_in_4bit": "model.quantization={load_in_4bit: true}",
    "epochs": "trainer.num_train_epochs",
    "steps": "trainer.max_steps",
    "batch_size": "trainer.global_batch_size",
    "micro_batch_size": "trainer.per_device_train_batch_size",
    "schedule": "trainer.lr_scheduler_type",
    "warmup": "trainer.warmup_ratio or trainer.warmup_steps",
    "autocast": "trainer.bf16",
    "keep": "trainer.save_total_limit",
    "log_every": "trainer.logging_steps",
    "save_every": "trainer.save_steps",
    "evaluate_every": "trainer.eval_steps",
    "use": "trainer.tables",
    "order": "trainer.group_by_image",
    "reference": "trainer.precompute_ref_log_probs",
    "image_features": "trainer.feature_cache_dir",
    "image_memory": "trainer.image_cache_mb",
    "max_refused": "trainer.max_rejected_fraction",
    "best": "trainer.load_best_model_at_end with trainer.metric_for_best_model",
    "adam_betas": "trainer.adam_beta1 and trainer.adam_beta2",
    "device": "trainer.use_cpu",
}

PEFT_RENAMED = {
    "rank": "peft.r",
    "alpha": "peft.lora_alpha",
    "dropout": "peft.lora_dropout",
    "targets": "peft.target_modules",
    "lora_r": "peft.r",
    "lora_target_modules": "peft.target_modules",
}

# The package that an optimizer of transformers needs, by a part of the optimizer's name. The first match is used.
OPTIMIZER_PACKAGES = {
    "galore": "galore_torch",
    "apollo": "apollo_torch",
    "adalomo": "lomo_optim",
    "lomo": "lomo_optim",
    "grokadamw": "grokadamw",
    "schedule_free": "schedulefree",
    "stable_adamw": "optimi",
    "torch_xla": "torch_xla",
    "torch_npu": "torch_npu",
    "apex": "apex",
    "anyprecision": "torchdistx",
    "adamw_torch_4bit": "torchao",
    "adamw_torch_8bit": "torchao",
    "8bit": "bitsandbytes",
    "paged": "bitsandbytes",
    "lion": "bitsandbytes",
    "ademamix": "bitsandbytes",
    "rmsprop_bnb": "bitsandbytes",
    "adamw_bnb": "bitsandbytes",
}
# How to install packages that pip does not find under their own name.
INSTALLATION = {
    "optimi": "run `pip install torch-optimi`",
    "apex": "install it from github.com/NVIDIA/apex (`apex` on PyPI is another project)",
    "torchdistx": "install it from github.com/pytorch/torchdistx",
}


def optimizer_fault(name: str) -> str | None:
    """Return a message if the package that an optimizer needs is not installed, otherwise None."""
    package = next((package for pattern, package in OPTIMIZER_PACKAGES.items() if pattern in name), None)
    return None if package is None else package_fault(name, package)


def package_fault(name: str, package: str) -> str | None:
    """Return a message if the package that ``name`` needs is not installed, otherwise None."""
    if importlib.util.find_spec(package) is not None:
        return None
    source = INSTALLATION.get(package, f"run `pip install {package.replace('_', '-')}`")
    return f"{name} needs the package {package}, which is not installed: {source}"
