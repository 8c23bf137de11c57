"""The sections of the configuration that all scripts share: names, types and ranges. See
:mod:`scramble.config.roots`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from scramble.config.binding import (
    NOT_EMPTY,
    Bound,
    Count,
    Section,
    Share,
    Text,
    Variants,
    Whole,
    above,
    at_least,
    between,
    hint,
    show,
)
from scramble.project import CONFIGS

# A test compares the names below with those of the code that reads them (tests/test_config.py): importing that code
# here would load torch before a mistyped key can be reported.
Loss = Literal[
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
SMOOTHED = ("exo_pair", "robust", "aot", "aot_unpaired")  # the losses that read label_smoothing
Schedule = Literal[
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"
]
FamilyName = Literal["internvl", "molmo", "molmo2", "llava", "smolvlm", "qwen_vl"]
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
Handover = Literal["vlmevalkit", "lmms-eval", "evalai", "mmbench"]

Seed = Annotated[int, between(0, 2**32 - 1)]
Seeds = Annotated[list[Seed], NOT_EMPTY]  # a field of reproduce.yaml is called list
Texts = list[Text]
Positive = Annotated[float, above(0)]
Fraction = Annotated[float, between(0, 1, with_most=False)]
NotNegative = Annotated[float, at_least(0)]
Temperature = NotNegative
TopP = Annotated[float, Bound(lambda value: 0 < value <= 1, "must be above 0 and at most 1")]
Device = Annotated[
    str,
    Bound(lambda value: bool(re.fullmatch(r"cpu|cuda(:\d+)?|mps|auto", value)), "must be cpu, cuda, cuda:N, auto"),
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


ORDERED = Bound(_ordered, "must be the least and the greatest value")


# -------------------------------------------------------------------------------------------------- the shared sections


@dataclass(frozen=True)
class Run(Section):
    """Where a run writes."""

    dir: Text
    data: Text
    arm: Text


@dataclass(frozen=True)
class RunToTry(Section):
    """Where a run is, of which an arm is tried out."""

    dir: Text
    data: Text
    arm: Text | None


@dataclass(frozen=True)
class Wandb(Section):
    """Weights & Biases."""

    mode: Literal["disabled", "offline", "online"] = "disabled"
    project: Text = "scramble"
    entity: Text | None = None
    name: Text | None = None


@dataclass(frozen=True)
class Lora(Section):
    """A fresh LoRA adapter on the language model."""

    r: Count
    alpha: Positive
    dropout: Fraction = 0.0
    targets: Text | None = None

    def faults(self, at: str) -> Iterator[str]:
        """The expression must compile: PEFT matches it with module names."""
        try:
            re.compile(self.targets or "")
        except re.error as error:
            yield f"{at}.targets={self.targets} must be a regular expression over module names ({error})"


@dataclass(frozen=True)
class Watch(Section):
    """Benchmarks of the validation split scored while training."""

    benchmarks: Annotated[list[Text], NOT_EMPTY]
    every: Count
    limit: Count | None = None

    def faults(self, at: str) -> Iterator[str]:
        """The benchmarks must exist."""
        from scramble.evaluation.benchmarks import BENCHMARKS

        for name in self.benchmarks:
            if name not in BENCHMARKS:
                yield f"{at}.benchmarks: no benchmark is called {name}; {hint(name, BENCHMARKS)}"


@dataclass(frozen=True)
class Trainer(Section):
    """Everything about training but the loss; see :func:`scramble.training.train`."""

    epochs: Positive
    steps: Count | None
    batch_size: Count
    micro_batch_size: Count | None
    learning_rate: Positive
    schedule: Schedule
    warmup: NotNegative
    weight_decay: NotNegative
    max_grad_norm: Positive
    lora: Lora | None
    autocast: bool
    gradient_checkpointing: bool
    max_length: Count | None
    order: Literal["images", "pairs"]
    reference: Literal["cache", "step"]
    image_features: Text | None
    image_memory: Whole
    dataloader_num_workers: Whole | None
    dataloader_prefetch_factor: Count | None
    log_every: Count
    save_every: Count
    keep: Count
    best: Text | None
    peak_tflops: Positive | None
    watch: Watch | None
    use: Annotated[list[Literal["pairs", "captions", "questions", "rationales"]], NOT_EMPTY] = field(
        default_factory=lambda: ["pairs"]
    )
    caption_prompt: Text = "Describe the image."
    train_vision: bool = False
    device: Device | None = None
    row_tokens: Count | None = None
    adam_betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    reference_batch_tokens: Count = 4096
    evaluate_every: Count = 200
    data_seed: Seed | None = None
    max_refused: Share = 0.05

    def faults(self, at: str) -> Iterator[str]:
        """Settings of the trainer that do not go together."""
        micro = self.micro_batch_size
        if micro is not None and self.batch_size % micro:
            yield f"{at}.batch_size={self.batch_size} must be a multiple of {at}.micro_batch_size={micro}"
        if self.lora is not None and self.train_vision:
            yield f"{at}.train_vision=true needs {at}.lora=null: with LoRA the vision tower is frozen"
        if self.image_features is not None and self.train_vision:
            yield f"{at}.image_features={self.image_features} needs a frozen vision tower: set {at}.train_vision=false"
        if self.dataloader_prefetch_factor is not None and self.dataloader_num_workers == 0:
            yield (
                f"{at}.dataloader_prefetch_factor={self.dataloader_prefetch_factor} needs workers: set it to null, or "
                f"{at}.dataloader_num_workers above 0"
            )
        if self.best is not None and not self.best.startswith("val/"):
            yield f"{at}.best={self.best} must be a number of the held-out pairs (val/loss, val/rewards/accuracies)"
        if self.evaluate_every != 200 and self.watch is not None:
            yield f"{at}.evaluate_every={self.evaluate_every}: {at}.watch.every says it already"


@dataclass(frozen=True)
class Objective(Section):
    """The losses and their options."""

    name: Text
    weights: Annotated[dict[Loss, float], NOT_EMPTY]
    beta: Positive
    delta: Literal["earlier", "inclusive", "none"] = "earlier"
    sft_mean: Literal["answer", "batch"] = "answer"
    label_smoothing: Fraction = 0.0
    tau: Positive = 0.05

    def faults(self, at: str) -> Iterator[str]:
        """Weights and label smoothing must fit the losses."""
        if not any(self.weights.values()):
            yield f"{at}.weights={show(self.weights)} must hold a loss with a weight other than 0"
        smoothing = self.label_smoothing
        if smoothing and not set(self.weights) & set(SMOOTHED):
            yield f"{at}.label_smoothing={smoothing} must be 0: none of {', '.join(self.weights)} reads it"
        if "robust" in self.weights and smoothing >= 0.5:
            yield f"{at}.label_smoothing={smoothing} must be below 0.5 for the loss robust"
        if "exo_pair" in self.weights and not smoothing:
            yield f"{at}.label_smoothing=0 must be above 0 for the loss exo_pair; its paper recommends 1e-3"


@dataclass(frozen=True)
class Model(Section):
    """A model and how it is loaded; see :func:`scramble.models.load`."""

    name: Text
    family: FamilyName | None
    path: Text
    revision: Text | None
    adapter: Text | None
    dtype: Dtype
    attn_implementation: Attention
    device: Device | None
    quantize: Literal["nf4"] | None
    max_tiles: Count | None
    square_padding: bool
    resize: Count | None
    new: dict[str, Any] | None

    def faults(self, at: str) -> Iterator[str]:
        """An image is padded to a square or stretched to one."""
        if self.square_padding and self.resize is not None:
            yield (
                f"{at}.square_padding=true and {at}.resize={self.resize} exclude each other: set "
                f"{at}.square_padding=false or {at}.resize=null"
            )


@dataclass(frozen=True)
class Recommended(Section):
    """Hyper-parameters that belong to a model's size; the defaults of the trainer's and objective's own."""

    learning_rate: Positive
    beta: Positive


# ------------------------------------------------------------------------------------------------------------- launcher


@dataclass(frozen=True)
class Inline(Section):
    """This process."""


@dataclass(frozen=True)
class Local(Section):
    """Jobs on this machine."""

    jobs: Count
    devices: list[Whole | Text] | None
    num_processes: Count
    strategy: Text

    def faults(self, at: str) -> Iterator[str]:
        """The strategy's file must exist, and each job needs as many devices as it has processes."""
        yield from _strategy(self.strategy, at)
        if self.devices is not None and len(self.devices) < self.num_processes:
            yield f"{at}.devices={show(self.devices)} must hold at least {at}.num_processes={self.num_processes}"


@dataclass(frozen=True)
class Slurm(Section):
    """Jobs on a SLURM cluster."""

    num_processes: Count
    num_machines: Count
    strategy: Text
    port: Annotated[int, between(1, 65535)]
    minutes: Count
    gpus_per_node: Whole | None
    cpus_per_machine: Count
    gb_per_machine: Positive
    partition: Text | None
    account: Text | None
    qos: Text | None
    constraint: Text | None
    max_parallel: Count | None
    setup: list[str] | None
    options: dict[str, Any] | None
    warn_seconds: Whole
    max_requeues: Whole
    wait: bool
    cluster: Literal["slurm", "local", "debug"]

    def faults(self, at: str) -> Iterator[str]:
        """The strategy's file must exist, and every machine runs as many processes."""
        yield from _strategy(self.strategy, at)
        if self.num_processes % self.num_machines:
            yield f"{at}.num_processes={self.num_processes} must be a multiple of {at}.num_machines={self.num_machines}"


def _strategy(strategy: str, at: str) -> Iterator[str]:
    known = sorted(path.stem for path in (CONFIGS / "accelerate").glob("*.yaml"))
    is_path = strategy.endswith((".yaml", ".yml"))
    if not (Path(strategy).is_file() if is_path else strategy in known):
        yield f"{at}.strategy={strategy} must be one of {', '.join(known)}, or the path of a .yaml file"


Launcher = Annotated[Any, Variants("kind", {"inline": Inline, "local": Local, "slurm": Slurm})]
