"""Defines the typed configuration: one dataclass per script defines the names, types and ranges of all settings.

The YAML files in ``configs/`` contain the values and describe the settings. The classes of the sections are in
``sections.py``, ``source_sections.py``, ``data_sections.py``, ``pair_step_sections.py``, ``evaluation_sections.py``,
``study_section.py`` and ``trainer.py``.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from scramble.config.data_sections import EngineSection, Method
from scramble.config.evaluation_sections import Benchmarks, JudgeSection, benchmark_faults, protocol_faults
from scramble.config.existing_runs import arm_faults, baseline_faults, held_out_faults, methods, no_run
from scramble.config.keys import key_hint, known_keys
from scramble.config.requirements import data_faults, key_faults, wandb_faults
from scramble.config.sections import (
    Dtype,
    Launcher,
    ModelSection,
    Objective,
    PredictionFormat,
    Recommended,
    Run,
    RunToTry,
    Seed,
    Seeds,
    ShardText,
    Temperature,
    Texts,
)
from scramble.config.source_sections import DataSection, PairFormat
from scramble.config.study_section import Search
from scramble.config.trainer import Peft, Trainer
from scramble.field_checks import (
    NOT_EMPTY,
    Bound,
    PositiveInt,
    Section,
    Text,
    Whole,
    as_override,
    check,
    hints,
    one_or_list,
)
from scramble.storage.arm_names import method_of
from scramble.training.fields import FLASH_ATTENTION_FAULT, vision_fault
from scramble.training.settings import WITHOUT_REJECTED, Positive, batch_fault


@dataclass(frozen=True)
class Root(Section):
    """Keys that most scripts share (``base.yaml``)."""

    name: Text | int
    seed: Seed
    data_seed: Seed
    run: Run
    data: DataSection
    pairs: Method
    model: ModelSection
    recommended: Recommended
    objective: Objective
    trainer: Trainer
    peft: Peft | None
    launcher: Launcher
    dry_run: bool

    def starts_elsewhere(self) -> bool:
        """Return whether the work runs on other machines, where the script checks the environment again."""
        return dict(self.launcher).get("kind") == "slurm"

    def data_faults(self) -> Iterator[str]:
        """Yield an error message for each reason why the data set cannot be generated."""
        data, method = dict(self.data), dict(self.pairs)["method"]
        # Data in the format ``scramble`` also contains captions.
        if data["kind"] == "pairs" and method != "given" and data["format"] != "scramble":
            yield f"pairs.method={method} needs captions, but this data contains only pairs: set pairs=given"
        if not self.starts_elsewhere():
            yield from data_faults(Path(dict(self.run)["data"]), dict(self.pairs))  # type: ignore[call-overload]


@dataclass(frozen=True)
class Generate(Root):
    """``generate.yaml``."""

    shard: ShardText | None

    def faults(self, at: str) -> Iterator[str]:
        """Check that the data set can be generated."""
        yield from self.data_faults()


@dataclass(frozen=True)
class Train(Root):
    """``train.yaml``."""

    show_batch: Literal[0, 1] | bool

    def faults(self, at: str) -> Iterator[str]:
        """Check that settings of several sections do not contradict each other."""
        trainer, model, peft = dict(self.trainer), dict(self.model), self.peft  # type: ignore[call-overload]
        # If model.family is null, the family is known only when the model is loaded.
        uses_tries = trainer["backend"] == "trie" or (trainer["backend"] == "auto" and model["family"] is not None)
        in_step = not set(trainer["loss_type"]) <= set(WITHOUT_REJECTED) and not trainer["precompute_ref_log_probs"]
        if in_step and (model["adapter"] or (peft is None and uses_tries)):  # TRL can load the reference model itself
            yield (
                "trainer.precompute_ref_log_probs=false works only with a new adapter (peft.r), because disabling any "
                "other adapter does not restore the starting model: set trainer.precompute_ref_log_probs=true"
            )
        if peft is not None and model["adapter"]:
            yield (
                f"peft must be null to continue training model.adapter={model['adapter']}: set peft=null, or merge the "
                "adapter first with scripts/export.py"
            )
        adapters = {"new_adapter": peft is not None, "has_adapter": bool(model["adapter"])}
        if fault := vision_fault(trainer["train_vision"], **adapters):
            yield fault
        if uses_tries and model["attn_implementation"] == "flash_attention_2":
            yield FLASH_ATTENTION_FAULT
        num_processes = dict(self.launcher).get("num_processes") or int(os.environ.get("WORLD_SIZE", "1"))
        if fault := batch_fault(trainer, num_processes):
            yield fault
        if not self.starts_elsewhere():
            yield from wandb_faults(trainer["report_to"])
            yield from _trainer_faults(trainer, peft)
        yield from self.data_faults()


def _trainer_faults(trainer: Mapping[str, Any], peft: Any) -> Iterator[str]:
    """Yield the error messages of :class:`PreferenceConfig`.

    Importing this class takes seconds. The check is therefore skipped unless the configuration sets a field that
    configs/ does not list, or a schedule other than ``cosine``. Transformers checks the options of these schedules.
    """
    if not set(trainer) - set(hints(Trainer)) and trainer["lr_scheduler_type"] == "cosine":
        return
    if check(trainer, Trainer, "trainer") or (peft is not None and check(peft, Peft, "peft")):
        return  # reported already
    from scramble.training.config import PreferenceConfig

    fields = {name: value for name, value in trainer.items() if name != "watch"}
    try:
        PreferenceConfig(**fields, peft=None if peft is None else dict(peft))
    except Exception as error:  # including errors that transformers raises about these settings
        yield " ".join(str(error).split())


@dataclass(frozen=True)
class Evaluate(Root):
    """``evaluate.yaml``."""

    benchmark: Benchmarks
    protocol: dict[str, Any]
    arms: Text | list[Text]
    adapter: Text | list[Text] | None
    limit: PositiveInt | None
    batch_tokens: PositiveInt | None
    token_logprobs: bool
    folder: Text
    shard: ShardText | None
    baselines: list[Text]
    export_predictions: list[PredictionFormat]
    engine: EngineSection | None
    judge: JudgeSection

    def faults(self, at: str) -> Iterator[str]:
        """Check that the named benchmarks, protocol, arms and baselines exist."""
        yield from benchmark_faults(self.benchmark, "benchmark")
        yield from protocol_faults(self.protocol)
        if not self.starts_elsewhere():
            yield from key_faults({"engine": self.engine, "judge": self.judge}, "")
        run = Path(self.run["dir"])  # type: ignore[index]
        if self.engine is not None:
            if isinstance(self.arms, list) and len(self.arms) != 1:
                yield f"arms={as_override(self.arms)} must name the one arm that the engine serves"
        else:
            yield from arm_faults(run, self.arms)
        arms = [self.arms] if isinstance(self.arms, str) else self.arms
        adapters = [self.adapter] if isinstance(self.adapter, str) else self.adapter or []
        others = [Path(path).parent.name if Path(path).name == "adapter" else Path(path).name for path in adapters]
        roots = [(options or {}).get("root") for options in self.benchmark.values()]
        data = Path(self.run["data"])  # type: ignore[index]
        if any(root and Path(root).is_relative_to(data) for root in roots):
            yield from held_out_faults(run, data)
        yield from baseline_faults(self.baselines, {*methods([run]), *map(method_of, (*arms, *others))} - {"all"})


@dataclass(frozen=True)
class Report(Root):
    """``report.yaml``."""

    baselines: list[Text]

    def faults(self, at: str) -> Iterator[str]:
        """Check that the run exists, and that the baselines are methods of the run."""
        run = Path(self.run["dir"])  # type: ignore[index]
        if not run.is_dir():
            yield no_run(run)
        yield from baseline_faults(self.baselines, methods([run]))


@dataclass(frozen=True)
class Browse(Root):
    """``browse.yaml``."""

    benchmark: Benchmarks
    runs: Annotated[list[Text], NOT_EMPTY]
    publish: Text | None
    baselines: list[Text]
    items: Whole | None
    pairs_per_split: Whole | None
    pixels: PositiveInt

    def faults(self, at: str) -> Iterator[str]:
        """Check that the runs exist, and that the baselines are methods of these runs."""
        runs = [Path(run) for run in self.runs]
        yield from (no_run(run) for run in runs if not run.is_dir())
        yield from benchmark_faults(self.benchmark, "benchmark")
        yield from baseline_faults(self.baselines, methods(runs))


@dataclass(frozen=True)
class WatchRoot(Root):
    """``watch.yaml``."""

    once: bool
    seconds: Positive

    def faults(self, at: str) -> Iterator[str]:
        """Check that the run exists."""
        run = Path(self.run["dir"])  # type: ignore[index]
        if not run.is_dir():
            yield no_run(run)


Repository = Annotated[str, Bound(lambda value: bool(re.fullmatch(r"[\w.-]+/[\w.-]+", value)), "must be owner/name")]


@dataclass(frozen=True)
class ShareRoot(Root):
    """``share.yaml``."""

    what: Literal["adapter", "model", "data"]
    out: Text | None
    card_name: Text | int
    license: Text
    data_license: Text | None
    base_license: Text | None
    dtype: Dtype
    notes: str
    push_to_hub: Repository | None
    private: bool


@dataclass(frozen=True)
class Export(Root):
    """``export.yaml``."""

    adapter: Text | None
    out: Text
    dtype: Dtype


@dataclass(frozen=True)
class Chat(Root):
    """``chat.yaml``."""

    run: RunToTry  # type: ignore[assignment]
    image: Text | list[Text | None] | None
    text: str | int | float | bool | None
    adapter: Text | None
    max_new_tokens: PositiveInt
    temperature: Temperature


@dataclass(frozen=True)
class ExternalHarness(Root):
    """``external_harness.yaml``."""

    harness: Literal["lmms-eval", "vlmevalkit"]
    tasks: Annotated[list[Text], NOT_EMPTY] | Text
    arms: Text | list[Text]
    adapter: Text | list[Text] | None
    harness_model: Text | None
    harness_args: dict[str, Any]
    harness_flags: list[Any]
    harness_python: Text
    batch_size: PositiveInt

    def faults(self, at: str) -> Iterator[str]:
        """Check that the arms exist."""
        yield from arm_faults(Path(self.run["dir"]), self.arms)  # type: ignore[index]


@dataclass(frozen=True)
class Study(Train):
    """``study.yaml``."""

    study: Search

    def faults(self, at: str) -> Iterator[str]:
        """Check that each value of the search space is valid for its key."""
        yield from super().faults(at)
        if importlib.util.find_spec("optuna") is None:
            yield "scripts/study.py needs Optuna: run `pip install 'scramble[study]'`"
        space: Mapping[str, Any] = self.study["space"] or {}  # type: ignore[index]
        keys = known_keys({name: getattr(self, name) for name in hints(type(self))}, type(self))
        classes: dict[str, type[Section]] = {"trainer": Trainer, "peft": Peft}
        for section, cls in classes.items():
            names = [key.removeprefix(f"{section}.") for key in space if key.startswith(f"{section}.")]
            if unknown := [name for name in names if name not in hints(cls)]:
                keys |= {f"{section}.{name}": kind for name, kind in cls.further(unknown).items()}
        for key, choice in space.items():
            if key not in keys:
                yield f"study.space: the configuration has no key {key}; {key_hint(key, keys)}"
                continue
            values = choice if isinstance(choice, list) else [choice["low"], choice["high"]]
            if isinstance(choice, Mapping) and keys[key] is not None and choice.get("int"):
                values = [int(value) for value in values]
            kind = keys[key] or Any
            yield from (message for value in values for message in check(one_or_list(value, kind), kind, key))


@dataclass(frozen=True)
class TableRoot(Section):
    """A paper's table; see ``configs/table``."""

    name: Text
    runs: dict[str, Any]
    columns: list[Any]
    notes: list[str] = field(default_factory=list)
    against: Text = "base"
    published_only: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Reproduce(Section):
    """``reproduce.yaml``."""

    table: TableRoot
    size: Literal["full", "tiny"]
    list: bool
    dir: Text
    seeds: Seeds
    more: Texts
    judge: Texts
    only: Texts | None
    paths: dict[str, Text]


@dataclass(frozen=True)
class Audit(Section):
    """``audit.yaml``."""

    path: Text
    split: Text
    name: Text | None
    revision: Text | None
    held_out: Text | None
    format: PairFormat | None
    columns: dict[Text, Text]
    images: Text | None
    out: Text | None
    seed: Seed


ROOTS: dict[str, type[Section]] = {
    "generate": Generate,
    "train": Train,
    "evaluate": Evaluate,
    "report": Report,
    "browse": Browse,
    "watch": WatchRoot,
    "share": ShareRoot,
    "export": Export,
    "chat": Chat,
    "external_harness": ExternalHarness,
    "study": Study,
    "reproduce": Reproduce,
    "audit": Audit,
}
