"""Defines the names, types and ranges of the sections that most scripts share. See :mod:`scramble.config.roots`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from scramble.config.trainer import Quantization
from scramble.field_checks import (
    NOT_EMPTY,
    Bound,
    PositiveInt,
    Section,
    Text,
    Variants,
    Whole,
    as_override,
    between,
)
from scramble.project import choices_of
from scramble.training.settings import NotNegative, Positive

FamilyName = Literal[
    "internvl",
    "molmo",
    "molmo2",
    "llava",
    "llava_next",
    "llava_onevision",
    "ovis2",
    "mistral3",
    "aya_vision",
    "cohere2_vision",
    "smolvlm",
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "qwen3_5",
    "gemma3",
    "gemma4",
    "glm4v",
    "glm4v_moe",
]
Dtype = Literal["auto", "bfloat16", "float16", "float32"]
Attention = Literal["sdpa", "flex_attention", "eager", "flash_attention_2"]
CaptionStyle = Literal["relation", "chain", "list", "scene", "count"]
QuestionKind = Literal["colour", "shape", "size", "place", "count", "existence", "relation", "yes-no"]
CaptionKind = Literal[
    "swap-object",
    "swap-attribute",
    "swap-relation",
    "swap-number",
    "replace-object",
    "replace-attribute",
    "replace-relation",
    "replace-number",
]
AnswerRule = Literal["exact", "vqa", "choice", "relaxed", "anls", "numeric", "latex"]
AskStyle = Literal["steps", "boxed", "think", "background", "visual", "grounded", "rationale", "direct"]
Intervention = Literal["swap", "replace", "shorten", "overthink"]
Split = Literal["train", "val", "test"]
PredictionFormat = Literal["vlmevalkit", "lmms-eval", "evalai", "mmbench", "every_eval_ever"]

Seed = Annotated[int, between(0, 2**32 - 1)]
Seeds = Annotated[list[Seed], NOT_EMPTY]  # in the class Reproduce, a field hides the type list
Texts = list[Text]
Temperature = NotNegative
TopP = Annotated[float, Bound(lambda value: 0 < value <= 1, "must be above 0 and at most 1")]
Device = Annotated[
    str,
    Bound(
        lambda value: bool(re.fullmatch(r"cpu|cuda(:\d+)?|mps|auto", value)),
        "must be one of cpu, cuda, cuda:N, mps, auto",
    ),
]
ShardText = Annotated[
    str,
    Bound(
        lambda value: bool(re.fullmatch(r"\d+/\d+", value)) and int(value.split("/")[0]) < int(value.split("/")[1]),
        "must be i/n with i from 0 to n - 1, as in shard=0/4",
    ),
]


def _ordered(values: Sequence[float]) -> bool:
    return values[0] <= values[1]


ORDERED = Bound(_ordered, "must be in ascending order")


# -------------------------------------------------------------------------------------------------- the shared sections


@dataclass(frozen=True)
class Run(Section):
    """The folders and the arm of a run."""

    dir: Text
    data: Text
    arm: Text


@dataclass(frozen=True)
class RunToTry(Section):
    """The folders of a run, and the arm to chat with."""

    dir: Text
    data: Text
    arm: Text | None


@dataclass(frozen=True)
class Objective(Section):
    """The name of the objective; its file in ``configs/objective`` sets the loss in the section ``trainer``."""

    name: Text


@dataclass(frozen=True)
class ModelSection(Section):
    """A model and its loading options; see :func:`scramble.models.load_vlm`."""

    name: Text
    family: FamilyName | None
    path: Text
    revision: Text | None
    adapter: Text | None
    dtype: Dtype
    attn_implementation: Attention
    device: Device | None
    quantization: Quantization | None
    max_tiles: PositiveInt | None
    max_pixels: PositiveInt | None
    square_padding: bool
    resize: PositiveInt | None
    new: dict[str, Any] | None

    def faults(self, at: str) -> Iterator[str]:
        """Check that images are not both padded and stretched to a square."""
        if self.square_padding and self.resize is not None:
            yield (
                f"{at}.square_padding=true and {at}.resize={self.resize} exclude each other: set "
                f"{at}.square_padding=false or {at}.resize=null"
            )


@dataclass(frozen=True)
class Recommended(Section):
    """Hyper-parameters recommended for a model's size; the trainer uses these values as defaults."""

    learning_rate: Positive
    beta: Positive


# ------------------------------------------------------------------------------------------------------------- launcher


@dataclass(frozen=True)
class Inline(Section):
    """The script does the work in its own process."""


@dataclass(frozen=True)
class Local(Section):
    """Jobs on this machine."""

    jobs: PositiveInt
    devices: list[Whole | Text] | None
    num_processes: PositiveInt
    strategy: Text

    def faults(self, at: str) -> Iterator[str]:
        """Check that the strategy's file exists, and that there is a device for each process of a job."""
        yield from _strategy(self.strategy, at)
        if self.devices is not None and len(self.devices) < self.num_processes:
            yield (
                f"{at}.devices={as_override(self.devices)} must contain one device per process "
                f"({at}.num_processes={self.num_processes})"
            )


@dataclass(frozen=True)
class Slurm(Section):
    """Jobs on a SLURM cluster."""

    num_processes: PositiveInt
    num_machines: PositiveInt
    strategy: Text
    port: Annotated[int, between(1, 65535)]
    minutes: PositiveInt
    gpus_per_node: Whole | None
    cpus_per_machine: PositiveInt
    gb_per_machine: Positive
    partition: Text | None
    account: Text | None
    qos: Text | None
    constraint: Text | None
    max_parallel: PositiveInt | None
    setup: list[str] | None
    options: dict[str, Any] | None
    warn_seconds: Whole
    max_requeues: Whole
    wait: bool
    cluster: Literal["slurm", "local", "debug"]

    def faults(self, at: str) -> Iterator[str]:
        """Check that the strategy's file exists, and that all machines run the same number of processes."""
        yield from _strategy(self.strategy, at)
        if self.num_processes % self.num_machines:
            yield f"{at}.num_processes={self.num_processes} must be a multiple of {at}.num_machines={self.num_machines}"


def _strategy(strategy: str, at: str) -> Iterator[str]:
    names = choices_of("accelerate")
    is_path = strategy.endswith((".yaml", ".yml"))
    if not (Path(strategy).is_file() if is_path else strategy in names):
        yield f"{at}.strategy={strategy} must be one of {', '.join(names)}, or an existing .yaml or .yml file"


Launcher = Annotated[Any, Variants("kind", {"inline": Inline, "local": Local, "slurm": Slurm})]
