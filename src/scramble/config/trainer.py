"""Defines the sections ``trainer``, ``peft`` and ``model.quantization`` with fields of TRL, PEFT and transformers.

The fields that ``configs/`` sets are defined here and in :mod:`scramble.training.settings`, so that values can be
checked without importing torch. All other fields of :class:`scramble.training.config.PreferenceConfig` (which derives
from ``trl.DPOConfig``), ``peft.LoraConfig`` and ``transformers.BitsAndBytesConfig`` are looked up in those classes,
which are imported only if such a field is set.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from scramble.config.library_fields import PEFT, QUANTIZATION, TRAINER, field_names
from scramble.field_checks import (
    NOT_EMPTY,
    Bound,
    PositiveInt,
    Section,
    Text,
    as_override,
    hint,
)
from scramble.training.fields import (
    PEFT_REFUSED,
    PEFT_RENAMED,
    PEFT_SECTION,
    REFUSED_FIELDS,
    RENAMED,
    TRL_OPTIONS,
    default_of,
)
from scramble.training.settings import Fraction, TrainerSettings


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
class Trainer(TrainerSettings):
    """The section ``trainer``: settings of the trainer, and the benchmarks that are scored during training."""

    watch: WatchSection | None = None

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
        """Return a mapping from names of fields in other versions of TRL, transformers and this project to the keys to
        use instead.
        """
        return {**RENAMED, "peft": PEFT_SECTION}

    def faults(self, at: str) -> Iterator[str]:
        """Check that the settings do not contradict each other."""
        yield from super().faults(at)
        if self.watch is not None and self.eval_strategy == "no":
            yield f"{at}.watch needs evaluations: set {at}.eval_strategy=steps"


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
        """Check that ``target_modules``, if it is a string, is a valid regular expression, because PEFT matches it
        against the names of modules.
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
            yield (
                f"{at}: exactly one of load_in_4bit and load_in_8bit must be true: set one of the two to true, or set "
                f"{at}=null"
            )


# ------------------------------------------------------------------------------------------- fields of other libraries


def not_all_in(known: Collection[str], names: Collection[str]) -> bool:
    """Return whether at least one of the names is not a known field. The types of all fields are then not checked until
    the name has been corrected, because this check needs a slow import of the library.
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
    """Return a mapping from the fields of a library's class to annotations for :func:`scramble.field_checks.check`.

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
