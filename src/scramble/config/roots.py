"""Typed configuration: one dataclass per section defines the names, types and ranges of all settings.

The YAML files in ``configs/`` contain the values and describe the settings. :func:`validate` checks a composed
configuration against the dataclasses before any work starts and reports all errors in one message.
"""

from __future__ import annotations

import copy
import importlib.util
import inspect
import netrc
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from scramble.config.binding import (
    NOT_EMPTY,
    Bound,
    ConfigError,
    Count,
    Section,
    Text,
    Variants,
    Whole,
    check,
    hint,
    hints,
    join,
    near,
    show,
)

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["ROOTS", "ConfigError", "check_root", "key_hint", "known_keys", "validate"]

from scramble.config.data_sections import Data, Engine, Method
from scramble.config.sections import (
    Dtype,
    Launcher,
    Model,
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
from scramble.config.trainer import Peft, Trainer
from scramble.project import choices_of

# ---------------------------------------------------------------------------------------------- the roots


@dataclass(frozen=True)
class Root(Section):
    """Keys that most scripts share (``base.yaml``)."""

    name: Text | int
    seed: Seed
    data_seed: Seed
    run: Run
    data: Data
    pairs: Method
    model: Model
    recommended: Recommended
    objective: Objective
    trainer: Trainer
    peft: Peft | None
    launcher: Launcher
    dry_run: bool


@dataclass(frozen=True)
class Generate(Root):
    """``generate.yaml``."""

    shard: ShardText | None

    def faults(self, at: str) -> Iterator[str]:
        """Requirements of the data must be installed or set."""
        yield from _data_faults(self)


@dataclass(frozen=True)
class Train(Root):
    """``train.yaml``."""

    show_batch: Literal[0, 1] | bool

    def faults(self, at: str) -> Iterator[str]:
        """Settings of several sections must not contradict each other."""
        trainer, model, peft = dict(self.trainer), dict(self.model), self.peft  # type: ignore[call-overload]
        pairs = set(trainer["loss_type"]) != {"sft"}
        if pairs and not trainer["precompute_ref_log_probs"] and (model["adapter"] or peft is None):
            yield (
                "trainer.precompute_ref_log_probs=false works only with a new adapter (peft.r), because disabling any "
                "other adapter does not restore the starting model: set it to true"
            )
        if peft is not None and model["adapter"]:
            yield f"peft must be null to continue training model.adapter={model['adapter']}; or merge it first"
        if peft is not None and trainer["train_vision"]:
            yield "trainer.train_vision=true needs peft=null: with LoRA the vision tower is frozen"
        if trainer["gradient_checkpointing"] and model["attn_implementation"] == "flash_attention_2":
            yield "model.attn_implementation=flash_attention_2 must be sdpa: it supports no masks (chat only)"
        yield from _shared_batch(dict(self.launcher), trainer)
        if not _starts_elsewhere(self):
            yield from _wandb_key(trainer["report_to"])
            yield from _trainer_faults(trainer, peft)
        yield from _data_faults(self)


def _shared_batch(launcher: Mapping[str, Any], trainer: Mapping[str, Any]) -> Iterator[str]:
    """The global batch must be shared equally by the processes that the launcher starts."""
    processes, batch = launcher.get("num_processes") or 1, trainer["global_batch_size"]
    micro = trainer["per_device_train_batch_size"] or 1
    if batch is not None and batch % (processes * micro):
        times = f" x trainer.per_device_train_batch_size={micro}" if micro > 1 else ""
        yield f"trainer.global_batch_size={batch} must be a multiple of launcher.num_processes={processes}{times}"


def _trainer_faults(trainer: Mapping[str, Any], peft: Any) -> Iterator[str]:
    """Error messages of the trainer's own class.

    Loading it takes seconds, so this is skipped unless the configuration sets a field that configs/ does not list, or a
    schedule whose options only transformers knows.
    """
    if not set(trainer) - set(hints(Trainer)) and trainer["lr_scheduler_type"] == "cosine":
        return
    if check(trainer, Trainer, "trainer") or (peft is not None and check(peft, Peft, "peft")):
        return  # reported already
    from scramble.training.config import PreferenceConfig

    fields = {name: value for name, value in trainer.items() if name != "watch"}
    try:
        PreferenceConfig(**fields, peft=None if peft is None else dict(peft))
    except Exception as error:  # also errors of transformers, which concern these settings
        yield " ".join(str(error).split())


def _starts_elsewhere(root: Root) -> bool:
    """Whether the work runs on other machines, which check their own environment."""
    return dict(root.launcher).get("kind") == "slurm"


def _key_faults(value: Any, at: str) -> Iterator[str]:
    """Error messages for engines in a section whose API key's environment variable is not set."""
    for name, item in value.items() if isinstance(value, Mapping) else ():
        if name == "api_key_env" and item is not None and not os.environ.get(str(item)):
            yield f"{join(at, name)}={item}: the environment variable {item} is not set"
        yield from _key_faults(item, join(at, name))


def _data_faults(root: Root) -> Iterator[str]:
    """Error messages if a data set must be generated and this machine does not meet its requirements."""
    run, pairs = dict(root.run), dict(root.pairs)  # type: ignore[call-overload]
    if (Path(run["data"]) / "stage.json").is_file() or _starts_elsewhere(root):
        return
    yield from _key_faults(pairs, "pairs")
    pipeline = (pairs.get("options") or {}).get("pipeline")
    if pairs["method"] != "rules" or not pipeline or Path(pipeline).exists():
        return
    if not pipeline.isidentifier() or importlib.util.find_spec(pipeline) is None:
        yield (
            f"pairs.options.pipeline={pipeline} is not installed: run `python -m spacy download en_core_web_sm`, "
            "or name an installed spaCy pipeline or its folder"
        )


def _wandb_key(report_to: str | Sequence[str]) -> Iterator[str]:
    """An error message if Weights & Biases has no API key.

    wandb itself would ask for the key, or fail only after the data is prepared.
    """
    named = [report_to] if isinstance(report_to, str) else report_to
    if "wandb" not in named or os.environ.get("WANDB_API_KEY"):
        return
    if os.environ.get("WANDB_MODE", "online") in ("offline", "disabled", "dryrun"):
        return
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        login = file.is_file() and netrc.netrc(str(file)).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        login = None
    if not login:
        yield (
            "trainer.report_to=[wandb] needs a key: run `wandb login`, or set the environment variable WANDB_API_KEY "
            "(or WANDB_MODE=offline)"
        )


@dataclass(frozen=True)
class Judge(Section):
    """The language model that grades free answers."""

    engine: Engine | None
    gradings: Count
    temperature: Temperature
    faithfulness: bool
    grading_prompt: Text | None
    extraction_prompt: Text | None
    faithfulness_prompt: Text | None

    def faults(self, at: str) -> Iterator[str]:
        """Faithfulness needs a judge, and the prompts must be files."""
        if self.faithfulness and self.engine is None:
            yield f"{at}.faithfulness=true needs a judge: engine@{at}.engine=openai {at}.engine.model=..."
        for name in ("grading_prompt", "extraction_prompt", "faithfulness_prompt"):
            path = getattr(self, name)
            if path is not None and not Path(path).is_file():
                yield f"{at}.{name}={path} must be a file"


Benchmarks = Annotated[dict[str, dict[str, Any] | None], NOT_EMPTY]


def _benchmark_faults(benchmarks: Mapping[str, Mapping[str, Any] | None], at: str) -> Iterator[str]:
    """Check the options of benchmarks, which are the parameters of their loading functions."""
    from scramble.evaluation.benchmarks import BENCHMARKS

    for name, options in benchmarks.items():
        if name not in BENCHMARKS:
            yield f"{at}.{name}: there is no such benchmark; {hint(name, BENCHMARKS)}"
            continue
        module, function = BENCHMARKS[name]
        loader = getattr(importlib.import_module(f"scramble.evaluation.benchmarks.{module}"), function)
        parameters = inspect.signature(loader).parameters
        for key, value in (options or {}).items():
            if key not in parameters:
                yield f"{at}.{name}.{key}: there is no such key; {_full_hint(key, parameters, f'{at}.{name}')}"
            elif key in ("partial", "human_filter"):
                yield from check(value, bool, f"{at}.{name}.{key}")
            elif key == "max_new_tokens":
                yield from check(value, Count, f"{at}.{name}.{key}")
            else:
                yield from check(value, Text | None, f"{at}.{name}.{key}")
        root = parameters.get("root")
        if root is not None and root.default is inspect.Parameter.empty and (options or {}).get("root") is None:
            yield f"{at}.{name}.root has no value: set the folder of its files, {at}.{name}.root=..."


def _full_hint(name: str, valid: Iterable[str], at: str) -> str:
    close = near(name, valid, most=2)
    listed = [join(at, key) for key in close]
    return f"did you mean {' or '.join(listed)}?" if close else f"{at} has {', '.join(valid)}"


@dataclass(frozen=True)
class Evaluate(Root):
    """``evaluate.yaml``."""

    benchmark: Benchmarks
    protocol: dict[str, Any]
    arms: Text | list[Text]
    adapter: Text | list[Text] | None
    limit: Count | None
    batch_tokens: Count | None
    folder: Text
    shard: ShardText | None
    baselines: list[Text]
    export_predictions: list[PredictionFormat]
    engine: Engine | None
    judge: Judge

    def faults(self, at: str) -> Iterator[str]:
        """The names of benchmarks, protocol, arms and baselines must exist."""
        yield from _benchmark_faults(self.benchmark, "benchmark")
        yield from _protocol_faults(self.protocol)
        if not _starts_elsewhere(self):
            yield from _key_faults({"engine": self.engine, "judge": self.judge}, "")
        run = Path(self.run["dir"])  # type: ignore[index]
        if self.engine is not None:
            if isinstance(self.arms, list) and len(self.arms) != 1:
                yield f"arms={show(self.arms)} must name the one arm that the engine serves"
        else:
            yield from arm_faults(run, self.arms)
        arms = [self.arms] if isinstance(self.arms, str) else self.arms
        adapters = [self.adapter] if isinstance(self.adapter, str) else self.adapter or []
        others = [Path(path).parent.name if Path(path).name == "adapter" else Path(path).name for path in adapters]
        roots = [(options or {}).get("root") for options in self.benchmark.values()]
        data = Path(self.run["data"])  # type: ignore[index]
        if not data.is_dir() and any(root and Path(root).is_relative_to(data) for root in roots):
            yield (
                no_run(run)
                if not run.is_dir()
                else f"{data} has no data set: run scripts/generate.py with these settings"
            )
        yield from baseline_faults(self.baselines, {*methods([run]), *map(method_of, (*arms, *others))} - {"all"})


def _protocol_faults(values: Mapping[str, Any]) -> Iterator[str]:
    from scramble.evaluation.items import EvaluationError
    from scramble.evaluation.protocols import Protocol, named_protocol, protocol_names

    name = values.get("name")
    if name not in (names := [*protocol_names(), "default"]):
        yield f"protocol.name={show(name)}: there is no such protocol; {hint(str(name), names)}"
        return
    fields = {key: kind for key, kind in hints(Protocol).items() if key != "name"}
    rest = {key: value for key, value in values.items() if key != "name"}
    messages = [
        message
        for key, value in rest.items()
        for message in (
            check(value, fields[key], f"protocol.{key}")
            if key in fields
            else [f"protocol.{key}: there is no such key; {_full_hint(key, fields, 'protocol')}"]
        )
    ]
    yield from messages
    if not messages:
        try:
            named_protocol("standard" if name == "default" else str(name), **rest)
        except EvaluationError as error:
            yield str(error)


def arm_faults(run: Path, arms: str | Sequence[str]) -> Iterator[str]:
    """Error messages for arms that a run has not trained."""
    trained = [path.parent.name for path in run.glob("train/*/stage.json")]
    names = [] if arms == "all" else [arms] if isinstance(arms, str) else arms
    for arm in names:
        if arm not in ("base", "all", *trained):
            valid = ["base", *sorted(trained)]
            where = f"{run} has no such arm" if run.is_dir() else no_run(run)
            yield f"arms={arm}: {where}" + (f"; {hint(arm, valid)}" if run.is_dir() else "")


def method_of(arm: str) -> str:
    """The method of an arm: its name without the suffix ``-seedN``."""
    return re.sub(r"-seed\d+$", "", arm)


def methods(runs: Iterable[Path]) -> set[str]:
    """The methods that runs have trained or evaluated."""
    folders = [folder for run in runs for folder in (*run.glob("train/*"), *run.glob("evaluation*/*"))]
    return {method_of(folder.name) for folder in folders if folder.is_dir()}


def baseline_faults(baselines: Sequence[str], valid: Iterable[str]) -> Iterator[str]:
    """Error messages for baselines that are not methods of the run. The defaults ``base`` and ``sft`` are accepted."""
    valid = {"base", "sft", *valid}
    for name in baselines:
        if name not in valid and name.rpartition(": ")[2] not in valid:
            yield f"baselines={name}: there is no such method; {hint(name, valid)}"


def no_run(folder: Path) -> str:
    """The message for a run folder that does not exist, with the most similar names of existing runs."""
    others = [path.name for path in folder.parent.glob("*") if (path / "data").is_dir() or (path / "train").is_dir()]
    close = near(folder.name, others)
    listed = (
        f"did you mean {' or '.join(f'name={name}' for name in close)}?"
        if close
        else (
            f"there are {', '.join(sorted(others))}"
            if others
            else "scripts/train.py creates a run, and scripts/evaluate.py its results"
        )
    )
    return f"there is no run {folder}; {listed}"


@dataclass(frozen=True)
class Report(Root):
    """``report.yaml``."""

    baselines: list[Text]

    def faults(self, at: str) -> Iterator[str]:
        """The run must exist, and the baselines must be methods of it."""
        run = Path(self.run["dir"])  # type: ignore[index]
        if not run.is_dir():
            yield no_run(run)
        yield from baseline_faults(self.baselines, methods([run]))


@dataclass(frozen=True)
class Browse(Root):
    """``browse.yaml``."""

    benchmark: Benchmarks
    runs: Annotated[list[Text], NOT_EMPTY]
    out: Text | None
    baselines: list[Text]
    items: Whole
    pixels: Count

    def faults(self, at: str) -> Iterator[str]:
        """The runs must exist, and the baselines must be methods of them."""
        runs = [Path(run) for run in self.runs]
        yield from (no_run(run) for run in runs if not run.is_dir())
        yield from _benchmark_faults(self.benchmark, "benchmark")
        yield from baseline_faults(self.baselines, methods(runs))


Repository = Annotated[str, Bound(lambda value: bool(re.fullmatch(r"[\w.-]+/[\w.-]+", value)), "must be owner/name")]


@dataclass(frozen=True)
class ShareRoot(Root):
    """``share.yaml``."""

    what: Literal["adapter", "model", "data"]
    out: Text | None
    card_name: Text | int
    license: Text
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
    max_new_tokens: Count
    temperature: Temperature


@dataclass(frozen=True)
class ExternalHarness(Root):
    """``external_harness.yaml``."""

    harness: Literal["lmms-eval", "vlmevalkit"]
    tasks: Text | Annotated[list[Text], NOT_EMPTY]
    arms: Text | list[Text]
    adapter: Text | list[Text] | None
    harness_model: Text | None
    harness_args: dict[str, Any]
    batch_size: Count

    def faults(self, at: str) -> Iterator[str]:
        """The arms must exist."""
        yield from arm_faults(Path(self.run["dir"]), self.arms)  # type: ignore[index]


@dataclass(frozen=True)
class Search(Section):
    """A hyper-parameter search with Optuna."""

    trials: Count
    number: Text
    direction: Literal["minimize", "maximize"]
    space: dict[str, Any] | None
    storage: Text

    def faults(self, at: str) -> Iterator[str]:
        """Each key must have a list of choices, or a lower and an upper bound."""
        for key, choice in (self.space or {}).items():
            setting = f"{at}.space.{key}={show(choice)}"
            if isinstance(choice, list):
                if not choice:
                    yield f"{setting} must contain a choice"
                continue
            if not isinstance(choice, Mapping) or not {"low", "high"} <= set(choice) <= {"low", "high", "log", "int"}:
                yield f"{setting}: write a list, or low and high (and log, int)"
                continue
            low, high = choice["low"], choice["high"]
            messages = [c for name in ("low", "high") for c in check(choice[name], float, f"{at}.space.{key}.{name}")]
            yield from messages
            if not messages and not low <= high:
                yield f"{setting}: low must not be above high"
            if not messages and choice.get("log") and low <= 0:
                yield f"{setting}: low must be above 0 on a logarithmic scale"


@dataclass(frozen=True)
class Study(Train):
    """``study.yaml``."""

    study: Search

    def faults(self, at: str) -> Iterator[str]:
        """The values of the search must be valid for their settings."""
        yield from super().faults(at)
        if importlib.util.find_spec("optuna") is None:
            yield "scripts/study.py needs Optuna: pip install 'scramble[study]'"
        space: Mapping[str, Any] = self.study["space"] or {}  # type: ignore[index]
        keys = known_keys({name: getattr(self, name) for name in hints(type(self))}, type(self))
        if any(key not in keys for key in space):
            keys |= {f"trainer.{name}": kind for name, kind in Trainer.further().items()}
            keys |= {f"peft.{name}": kind for name, kind in Peft.further().items()}
        for key, choice in space.items():
            if key not in keys:
                yield f"study.space: the configuration has no key {key}; {key_hint(key, keys)}"
                continue
            values = choice if isinstance(choice, list) else [choice["low"], choice["high"]]
            if isinstance(choice, Mapping) and keys[key] is not None and choice.get("int"):
                values = [int(value) for value in values]
            yield from (message for value in values for message in check(value, keys[key] or Any, key))


@dataclass(frozen=True)
class Table(Section):
    """A paper's table; see ``configs/table``."""

    name: Text
    runs: dict[str, Any]
    columns: list[Any]
    notes: list[str] = field(default_factory=list)
    against: Text = "base"


@dataclass(frozen=True)
class Reproduce(Section):
    """``reproduce.yaml``."""

    table: Table
    size: Literal["full", "tiny"]
    list: bool
    dir: Text
    seeds: Seeds
    more: Texts
    only: Texts | None
    paths: dict[str, Text]


@dataclass(frozen=True)
class Audit(Section):
    """``audit.yaml``."""

    path: Text
    out: Text | None
    seed: Seed


ROOTS: dict[str, type[Section]] = {
    "generate": Generate,
    "train": Train,
    "evaluate": Evaluate,
    "report": Report,
    "browse": Browse,
    "share": ShareRoot,
    "export": Export,
    "chat": Chat,
    "external_harness": ExternalHarness,
    "study": Study,
    "reproduce": Reproduce,
    "audit": Audit,
}


# ----------------------------------------------------------------------------------------------------------- validation


def validate(cfg: DictConfig, root: str, sections: Sequence[str]) -> None:
    """Check a composed configuration as a whole.

    Args:
        cfg: the configuration, with or without Hydra's section.
        root: the script's name, a key of :data:`ROOTS`.
        sections: sections that the script reads; their keys must have a value.

    Raises:
        ConfigError: if the configuration is invalid; the message lists all errors.
    """
    if messages := check_root(cfg, root, sections):
        raise ConfigError(messages)


def check_root(cfg: DictConfig, root: str, sections: Sequence[str]) -> list[str]:
    """The error messages for a composed configuration; see :func:`validate`."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if root == "reproduce" and cfg.get("table") is None:  # all other keys of this script refer to the table
        tables = choices_of("table")
        return [f"table has no value: table=...; there are {', '.join(tables)}"]
    parts = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    if root == "reproduce":  # table and size determine which paths are needed; the script itself checks them
        parts = copy.deepcopy(parts)
        for name in [name for name in parts.paths if OmegaConf.is_missing(parts.paths, name)]:
            parts.paths[name] = name
    absent = _missing(parts, sections)
    try:
        values: Any = OmegaConf.to_container(parts, resolve=True)
    except OmegaConfBaseException as error:
        if absent:
            return [_no_value(absent)]
        return [str(error).partition("\n")[0]]
    cls = ROOTS[root]
    unknown = [str(name) for name in values if name not in hints(cls)]
    keys = known_keys(values, cls) if unknown else {}
    messages = [f"{name}: there is no such key; {key_hint(name, keys)}" for name in unknown]
    messages += check({name: value for name, value in values.items() if name in hints(cls)}, cls, "")
    return messages + ([_no_value(absent)] if absent else [])


def _missing(cfg: DictConfig, sections: Sequence[str]) -> list[str]:
    from omegaconf import OmegaConf

    return sorted(
        key
        for key in OmegaConf.missing_keys(cfg)
        if any(key == s or key.startswith((f"{s}.", f"{s}[")) for s in sections)
    )


def _no_value(keys: Sequence[str]) -> str:
    example = " ".join(f"{key}=..." for key in keys)
    return f"these keys have no value: {', '.join(keys)}. Set them on the command line: {example}"


def known_keys(values: Mapping[str, Any], cls: type[Section], at: str = "") -> dict[str, Any]:
    """All keys that a configuration has or may have, such as ``peft.r``, with annotations (None for a group)."""
    keys: dict[str, Any] = {}
    for name, kind in hints(cls).items():
        key, value = join(at, name), values.get(name) if isinstance(values, Mapping) else None
        section = _section_of(kind, value)
        keys[key] = None if section is not None else kind
        if section is not None:
            keys |= known_keys(value if isinstance(value, Mapping) else {}, section, key)
        elif isinstance(value, Mapping):
            keys |= {join(key, inner): None for inner in value}
    return keys


def _section_of(kind: Any, value: Any) -> type[Section] | None:
    if isinstance(kind, type) and issubclass(kind, Section):
        return kind
    for mark in getattr(kind, "__metadata__", ()):
        if isinstance(mark, Variants):
            return mark.classes.get(value.get(mark.key, "")) if isinstance(value, Mapping) else None
    return next((cls for part in getattr(kind, "__args__", ()) if (cls := _section_of(part, value))), None)


def key_hint(name: str, keys: Iterable[str]) -> str:
    """Suggest existing keys for an unknown one: keys with the same last part first, then similar ones."""
    keys = list(keys)
    group, _, leaf = name.rpartition(".")
    if name in ("experiment", "debug"):
        return f"write +{name}=..."
    if group == "wandb" or name == "wandb":
        return "use trainer.report_to=[wandb] with the environment variables WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY"
    if name.endswith(".options.shard"):
        return "write shard=i/n, as in scripts/generate.py shard=0/4"
    # The section recommended contains defaults of other settings; suggest those settings instead.
    same = [key for key in keys if key.rpartition(".")[2] == leaf and not key.startswith("recommended.")]
    siblings = near(leaf, [key.rpartition(".")[2] for key in keys if key.rpartition(".")[0] == group])
    close = same[:3] or [join(group, key) for key in siblings] or near(name, keys)
    if not close:
        close = [
            key
            for similar_leaf in near(leaf, {k.rpartition(".")[2] for k in keys}, most=1)
            for key in keys
            if key.rpartition(".")[2] == similar_leaf
        ][:2]
    if close:
        return f"did you mean {' or '.join(close)}?"
    inside = [key for key in keys if key.rpartition(".")[0] == group]
    return f"{group or 'the configuration'} has {', '.join(key.rpartition('.')[2] for key in inside)}"
