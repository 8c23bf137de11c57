"""A run folder remembers what it was made with: later stages take it from there, and contradictions are refused.

The data's settings are in ``stage.json`` of the data folder, each arm's objective in that of the arm, and the model in
``run.json``. Values are plain and resolved, so that a changed experiment file does not change a run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scramble.config.binding import ConfigError
from scramble.project import CONFIGS, shipped_values
from scramble.storage.files import STAGE_FILE, StoreError, read_json, write_json
from scramble.storage.hashing import differing_keys
from scramble.training.fields import LOSS_FIELDS

if TYPE_CHECKING:
    from omegaconf import DictConfig

RECORD_FILE = "run.json"
DATA = ("data", "pairs", "data_seed")
# What makes it another model; the other keys say how it is loaded, which may differ from stage to stage.
MODEL_KEYS = ("name", "family", "path", "revision", "adapter", "new")
BINDING = (*DATA, "model")  # an arm may differ from the others in its objective
MAKERS = ("generate", "train", "study")


def complete(cfg: DictConfig, root: str, overrides: Sequence[str]) -> str | None:
    """:func:`recall`, and then the benchmarks that the data have, unless the command line names some."""
    line = recall(cfg, root, overrides)
    if root == "evaluate" and cfg.data.kind != "world" and not _given(overrides, "benchmark", root):
        from omegaconf import OmegaConf

        cfg.benchmark = {"heldout_pairs": OmegaConf.load(CONFIGS / "benchmark" / "heldout_pairs.yaml")}
    return line


def recall(cfg: DictConfig, root: str, overrides: Sequence[str]) -> str | None:
    """Fill ``cfg`` from the record of its run folder, in place, where the command line does not say otherwise.

    Args:
        cfg: a composed configuration.
        root: the script's name.
        overrides: the command line.

    Returns:
        One line that says what was taken; None if nothing was.
    Raises:
        ConfigError: the command line contradicts the record; the message lists the differences.
    """
    from omegaconf import OmegaConf, open_dict
    from omegaconf.errors import OmegaConfBaseException

    if "run" not in cfg:
        return None
    taken, refused = {}, []
    try:
        name, run, data = cfg.name, Path(cfg.run.dir), Path(cfg.run.data)
        for section, recorded in (_data_record(data) | _model_record(run)).items():
            composed, given = _composed(cfg, section), _given(overrides, section, root)
            if section == "recommended":  # it belongs to the model
                given = [section] if _given(overrides, "model", root) == ["model"] else given
            if root == "chat" and section == "model" and names_model(overrides):
                continue  # chat may try any model, an exported one of this run too
            new, differences = _merged(section, recorded, composed, given)
            if differences and section in BINDING:
                if section != "model" or _objectives(run):  # without an arm nothing was made with the model
                    refused += differences
            elif new != composed:
                taken[section] = new
    except OmegaConfBaseException:
        return None  # the check of the configuration says what has no value
    if refused:
        raise ConfigError(
            f"{run} was made with other settings: {', '.join(refused)}. Leave these out, or choose another run folder "
            "(name=... or run.dir=...) or remove this one"
        )
    if not taken:
        return None
    with open_dict(cfg):  # these three may be made of what changes, and the folder stays the one that was named
        cfg.name, cfg.run.dir, cfg.run.data = name, str(run), str(data)
        for section, value in taken.items():
            if section == "objective":  # a name, and what its file writes into the trainer's section
                cfg.objective = {"name": value["name"]}
                cfg.trainer.update({key: item for key, item in value.items() if key != "name"})
            else:
                cfg[section] = OmegaConf.create(value) if isinstance(value, dict) else value
    listed = [f"{section}={_label(value)}" for section, value in taken.items() if section != "recommended"]
    return f"{run}: {', '.join(listed)} as recorded in the run folder" if listed else None


def remember(cfg: DictConfig, root: str, overrides: Sequence[str]) -> None:
    """Note the run's model in its folder, if there is one: ``generate`` what it was given, ``train`` what it uses."""
    run = Path(cfg.run.dir) if "run" in cfg else Path()
    if root not in ("generate", "train") or not run.is_dir():
        return
    record = old = _read(run)
    if "model" not in old or not _objectives(run):
        if root == "train" or _given(overrides, "model", root):
            record = record | {section: _composed(cfg, section) for section in ("model", "recommended")}
        if _given(overrides, "objective", root):
            record = record | {"objective": _composed(cfg, "objective")}
    if record != old:
        write_json(run / RECORD_FILE, record)


def _data_record(data: Path) -> dict[str, Any]:
    stage = _read(data, STAGE_FILE)
    if stage.get("status") not in ("running", "finished") or not {"data", "pairs", "seed"} <= set(stage["config"]):
        return {}
    config = stage["config"]
    return {"data": config["data"], "pairs": config["pairs"], "data_seed": config["seed"]}


def _model_record(run: Path) -> dict[str, Any]:
    record, objectives = _read(run), _objectives(run)
    model = record.get("model") or {}
    if model.get("new") is not None and (moved := run / Path(model["path"]).name).is_dir():
        record["model"] = {**model, "path": str(moved)}  # made in the run folder, wherever that was moved to
    if objectives:  # of several different ones the command line must name the one that is meant
        record.pop("objective", None)
        if all(objective == objectives[0] for objective in objectives):
            record["objective"] = objectives[0]
    return record


def _read(folder: Path, name: str = RECORD_FILE) -> dict[str, Any]:
    try:
        return dict(read_json(folder / name)) if (folder / name).is_file() else {}
    except StoreError:
        return {}  # the stage that reads it says what is wrong


def _objectives(run: Path) -> list[Any]:
    """The objectives of the run's arms, but for arms that failed."""
    stages = [_read(file.parent, STAGE_FILE) for file in sorted(run.glob(f"train/*/{STAGE_FILE}"))]
    configs = [stage["config"] for stage in stages if stage.get("status") in ("running", "finished")]
    return [_objective(config["objective"], config["trainer"]) for config in configs]


def _objective(objective: Mapping[str, Any], trainer: Mapping[str, Any]) -> dict[str, Any]:
    """An objective's name with the fields of the trainer that make it."""
    return {"name": objective["name"], **{key: trainer[key] for key in LOSS_FIELDS if key in trainer}}


def _composed(cfg: DictConfig, section: str) -> Any:
    if section == "objective":
        return _objective(_plain(cfg, "objective"), _plain(cfg, "trainer"))
    return _plain(cfg, section)


def _plain(cfg: DictConfig, section: str) -> Any:
    from omegaconf import Container, OmegaConf

    value = cfg[section]
    return shipped_values(OmegaConf.to_container(value, resolve=True) if isinstance(value, Container) else value)


def _given(overrides: Sequence[str], section: str, root: str) -> list[str]:
    """Keys of a section that the command line gives, the section itself where all of it counts as given.

    An experiment counts where something is made with it. Stages that only read the run follow its record.
    """
    found = []
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        if key == section or (key in ("experiment", "debug") and root in MAKERS):
            return [section]
        start, _, leaf = key.partition(".")
        if section == "objective" and start == "trainer" and leaf in LOSS_FIELDS:
            found.append(f"objective.{leaf}")
        if key.startswith(f"{section}."):
            found.append(key.partition("@")[0])
    return found


def names_model(overrides: Sequence[str]) -> bool:
    """Whether the command line says which model; how one is loaded (``model.device=cpu``) does not."""
    keys = {override.partition("=")[0].lstrip("+~") for override in overrides}
    return not keys.isdisjoint({"model", *(f"model.{key}" for key in MODEL_KEYS)})


def _merged(section: str, recorded: Any, composed: Any, given: Sequence[str]) -> tuple[Any, list[str]]:
    """The section's value, and how what is given differs from the record."""
    if not given:
        return recorded, []
    if not isinstance(recorded, Mapping):
        return composed, [] if composed == recorded else [f"{section} ({recorded} -> {composed})"]
    if given == [section]:
        new = composed
    else:
        new = dict(recorded)
        for key in given:
            top = key.split(".")[1]
            if top in composed:  # within a mapping the command line changed one value: the others are the record's
                new[top] = _replaced(recorded.get(top), composed[top], key.split(".")[2:])
    keys = set(MODEL_KEYS) if section == "model" else {*recorded, *new}
    if section == "model" and new.get("new") is not None:
        keys.discard("path")  # it lies in the run folder, wherever that was moved to
    # Through JSON, as the record went: its keys are texts.
    sides = json.loads(json.dumps([{k: v for k, v in side.items() if k in keys} for side in (recorded, new)]))
    return new, differing_keys(sides[0], sides[1], f"{section}.") if section in BINDING else []


def _replaced(recorded: Any, composed: Any, path: Sequence[str]) -> Any:
    if not path or not isinstance(recorded, Mapping) or not isinstance(composed, Mapping) or path[0] not in composed:
        return composed
    return {**recorded, path[0]: _replaced(recorded.get(path[0]), composed[path[0]], path[1:])}


def _label(value: Any) -> str:
    if not isinstance(value, Mapping):
        return str(value)
    return str(value.get("name") or value.get("kind") or value.get("method") or "")
