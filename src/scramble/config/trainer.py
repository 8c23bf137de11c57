"""Defines the sections ``trainer``, ``peft`` and ``model.quantization`` with fields of TRL, PEFT and transformers.

The fields that ``configs/`` sets are defined here, so that values can be checked without importing torch. All other
fields of :class:`scramble.training.config.PreferenceConfig` (which derives from ``trl.DPOConfig``), ``peft.LoraConfig``
and ``transformers.BitsAndBytesConfig`` are looked up in those classes, which are imported only if such a field is set.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib.util
import inspect
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from scramble.config.field_checks import (
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
from scramble.config.library_fields import PEFT, QUANTIZATION, TRAINER, field_names
from scramble.training.fields import (
    PEFT_REFUSED,
    PEFT_RENAMED,
    PEFT_SECTION,
    REFUSED_FIELDS,
    RENAMED,
    TRL_OPTIONS,
    TrlLoss,
    default_of,
    optimizer_fault,
    trl_faults,
)

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
        "must be a whole number above 0, or a fraction of the run below 1",
    ),
]
WholeRun = Annotated[
    int, Bound(lambda value: value == -1 or value > 0, "must be above 0, or -1 to use num_train_epochs")
]
Strategy = Literal["no", "steps", "epoch"]


@dataclass(frozen=True)
class WatchSection(Section):
    """Benchmarks on the validation split that are scored at every evaluation."""

    benchmarks: Annotated[list[Text], NOT_EMPTY]
    limit: PositiveInt | None = None

    def faults(self, at: str) -> Iterator[str]:
        """Check that the benchmarks exist."""
        from scramble.evaluation.benchmarks import BENCHMARKS

        for name in self.benchmarks:
            if name not in BENCHMARKS:
                yield f"{at}.benchmarks={name}: there is no such benchmark; {hint(name, BENCHMARKS)}"


@dataclass(frozen=True)
class Trainer(Section):
    """Settings of :class:`scramble.training.config.PreferenceConfig`."""

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
    max_grad_norm: Positive
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
    watch: WatchSection | None
    seed: Annotated[int, between(0, 2**32 - 1)]

    @classmethod
    def further(cls, names: Collection[str]) -> Mapping[str, Any]:
        """Return the remaining fields of ``PreferenceConfig``. A refused field must keep its default."""
        known = [name for name in field_names(TRAINER) if name != "peft"]  # a separate section
        if not_all_in(known, names):
            return dict.fromkeys(known, Any)
        from scramble.training.config import PreferenceConfig

        # With backend=trl, PreferenceConfig accepts TRL's own options, and checks them itself.
        fields = _foreign_fields(
            PreferenceConfig, {name: why for name, why in REFUSED_FIELDS.items() if name not in TRL_OPTIONS}
        )
        del fields["peft"]
        return fields

    @classmethod
    def renamed(cls) -> Mapping[str, str]:
        """Return a mapping from names in other versions to the keys to use instead."""
        return {**RENAMED, "peft": PEFT_SECTION}

    def faults(self, at: str) -> Iterator[str]:
        """Check that the settings do not contradict each other."""
        if self.backend == "trl" and (fault := trl_faults(vars(self))):
            yield fault
        micro, batch, steps = self.per_device_train_batch_size, self.global_batch_size, self.gradient_accumulation_steps
        if micro is not None and batch is not None and batch % (micro * (steps or 1)):
            times = f" x {at}.gradient_accumulation_steps={steps}" if steps else ""
            yield (
                f"{at}.global_batch_size={batch} must be a multiple of "
                f"{at}.per_device_train_batch_size={micro}{times}, or null to be computed automatically"
            )
        if self.feature_cache_dir is not None and self.train_vision:
            yield f"{at}.feature_cache_dir needs a frozen vision tower: set {at}.train_vision=false"
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
        yield from self._loss_faults(at)
        yield from self._saving_faults(at)
        if self.optim != "adamw_torch_fused":
            yield from _optimizer_faults(self.optim, f"{at}.optim")
        for name in [self.report_to] if isinstance(self.report_to, str) else self.report_to:
            package = REPORTERS.get(name)
            if package is None and name not in ("none", "all"):
                yield f"{at}.report_to={name}: there is no such choice; {hint(name, [*REPORTERS, 'none', 'all'])}"
            elif package is not None and importlib.util.find_spec(package) is None:
                yield f"{at}.report_to={name} needs a package that is not installed: run `pip install {package}`"

    def _loss_faults(self, at: str) -> Iterator[str]:
        losses, weights, smoothing = self.loss_type, self.loss_weights, self.label_smoothing
        if not isinstance(losses, list | tuple):
            return  # reported already
        if weights is not None and len(weights) != len(losses):
            yield (
                f"{at}.loss_weights={as_override(weights)} must contain one weight per loss of "
                f"{at}.loss_type={as_override(losses)}; {at}.loss_weights=null gives every loss weight 1"
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
        if self.metric_for_best_model is not None and not best and self.save_strategy != "best":
            yield f"{at}.metric_for_best_model={self.metric_for_best_model} needs {at}.load_best_model_at_end=true"
        if best and self.eval_strategy != self.save_strategy and self.save_strategy != "best":
            yield (
                f"{at}.load_best_model_at_end=true needs {at}.save_strategy={self.eval_strategy} (as "
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
        if self.watch is not None and self.eval_strategy == "no":
            yield f"{at}.watch needs evaluations: set {at}.eval_strategy=steps"


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


@dataclass(frozen=True)
class Peft(Section):
    """A new LoRA adapter on the language model, with the fields of ``peft.LoraConfig``."""

    r: PositiveInt
    lora_alpha: PositiveInt
    lora_dropout: Fraction = 0.0
    target_modules: Text | list[Text] | None = None  # a text is a regular expression, or one of PEFT's own words
    modules_to_save: list[Text] | None = None
    target_parameters: list[Text] | None = None
    # Other initialisations (pissa, olora, loftq, ...) change the base model's weights, so that the adapter would not
    # match the released model.
    init_lora_weights: bool | Literal["gaussian", "orthogonal"] = True

    @classmethod
    def further(cls, names: Collection[str]) -> Mapping[str, Any]:
        """Return the remaining fields of ``LoraConfig``."""
        if not_all_in(known := field_names(PEFT), names):
            return dict.fromkeys(known, Any)
        from peft import LoraConfig

        return _foreign_fields(LoraConfig, PEFT_REFUSED)

    @classmethod
    def renamed(cls) -> Mapping[str, str]:
        """Return a mapping from common short names to PEFT's names."""
        return PEFT_RENAMED

    def faults(self, at: str) -> Iterator[str]:
        """Check that ``target_modules``, if it is a string, is a valid regular expression, because PEFT matches it with
        the names of modules.
        """
        try:
            re.compile(self.target_modules if isinstance(self.target_modules, str) else "")
        except re.error as error:
            yield f"{at}.target_modules={self.target_modules} must be a valid regular expression ({error})"


@dataclass(frozen=True)
class Quantization(Section):
    """Quantisation of the weights, with the fields of ``transformers.BitsAndBytesConfig``."""

    load_in_4bit: bool = False
    load_in_8bit: bool = False
    llm_int8_skip_modules: list[Text] | None = None

    @classmethod
    def further(cls, names: Collection[str]) -> Mapping[str, Any]:
        """Return the remaining fields of ``BitsAndBytesConfig``."""
        if known := field_names(QUANTIZATION):
            return dict.fromkeys(known, Any)
        from transformers import BitsAndBytesConfig

        parameters = inspect.signature(BitsAndBytesConfig.__init__).parameters
        return {name: Any for name, one in parameters.items() if name != "self" and one.kind is not one.VAR_KEYWORD}

    def faults(self, at: str) -> Iterator[str]:
        """Check that exactly one of 4 bits and 8 bits is selected."""
        if self.load_in_4bit == self.load_in_8bit:
            yield f"{at}: set either load_in_4bit=true or load_in_8bit=true, or {at}=null"


# ------------------------------------------------------------------------------------------- fields of other libraries


def not_all_in(known: Collection[str], names: Collection[str]) -> bool:
    """Return whether a name is not a known field. The types of the other fields, which only the slow import of the
    library provides, are then checked after the key has been corrected.
    """
    return bool(known) and not set(names) <= set(known)


@cache
def _further(cls: type) -> dict[str, Any]:
    kinds = get_type_hints(cls)
    return {field.name: _field_kind(field, kinds[field.name]) for field in dataclasses.fields(cls) if field.init}


def _field_kind(field: dataclasses.Field[Any], annotation: Any) -> Any:
    choices = field.metadata.get("choices")
    if choices is None:
        return _kind(annotation)
    return Literal.__getitem__((*choices, *(() if field.default is not None else (None,))))  # built at run time


def _foreign_fields(cls: type, refused: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return a mapping from fields to annotations for :func:`scramble.config.field_checks.check`.

    The annotation of a refused field allows only the default.
    """
    annotations = dict(_further(cls))
    for name, reason in (refused or {}).items():
        if name in annotations:  # another version of the library may lack the field
            annotations[name] = Annotated[Any, _only(default_of(cls, name), reason)]
    return annotations


def _only(default: Any, reason: str) -> Bound:
    return Bound(lambda value: value == default, f"must be {as_override(default)}: {reason}")


def _kind(annotation: Any) -> Any:
    """Convert an annotation to an annotation that the checks support, or to Any, which skips the check."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        kinds = [_kind(arg) for arg in args if arg is not NoneType]
        # Enumerations are configured by their values. A str in the same union would accept any text, so drop the str.
        named = [kind for kind in kinds if get_origin(kind) is Literal]
        kinds = named or kinds
        if Any in kinds:
            return Any
        if NoneType in args:
            kinds.append(NoneType)
        return Union.__getitem__(tuple(kinds))  # a union whose members are known only at run time
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return Literal.__getitem__(tuple(item.value for item in annotation))  # built at run time
    if annotation in (bool, int, float, str) or annotation is NoneType:
        return annotation
    if annotation is dict or origin is dict:
        return dict[str, Any]
    if origin is list:
        return list[_kind(args[0])]  # type: ignore[misc]
    return Any
