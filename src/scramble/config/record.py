"""Records the settings of a run in the run folder. Later stages use these settings and report contradictions.

Three kinds of files contain the settings:

- ``stage.json`` of the data folder records the settings of the data,
- ``stage.json`` of each arm records the arm's objective,
- ``run.json`` records the model, an objective from the command line, and the path of a data folder outside the run.

The recorded values are resolved, so that a changed experiment file does not change a run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scramble.config.existing_runs import is_run, new_run
from scramble.config.help import with_defaults
from scramble.field_checks import ConfigError
from scramble.project import CONFIGS, shipped_values
from scramble.storage.files import STAGE_FILE, StoreError, read_json, write_json
from scramble.storage.hashing import differing_keys
from scramble.training.fields import LOSS_FIELDS

if TYPE_CHECKING:
    from omegaconf import DictConfig

RECORD_FILE = "run.json"
ARM_KEYS = {"run.arm", "objective", "objective.name", "seed", "experiment", "adapter"}  # each key can identify the arm
DATA = ("data", "pairs", "data_seed")
# Keys that identify the model. All other keys of the section determine how the model is loaded, and may differ between
# stages.
MODEL_KEYS = ("name", "family", "path", "revision", "adapter", "new")
BINDING = (*DATA, "model")  # these must agree in all stages; objectives may differ
MAKERS = ("generate", "train", "study")


def complete(cfg: DictConfig, root: str, overrides: Sequence[str]) -> str | None:
    """Call :func:`recall`, and choose the pairs, the benchmarks or the arm, unless the command line names them.

    Data that contains only pairs can be used only with ``pairs=given``, although an experiment or ``debug=tiny`` may
    set another method. For data other than the embedded world, the held-out pairs are the only benchmark. If the run
    has only one arm, ``share`` and ``export`` use this arm.

    Returns the line that :func:`recall` returns, a line that announces a new run, or None.
    """
    if not _has_folders(cfg):
        return None  # validation reports missing values later
    if _contains_only_pairs(cfg) and not any(key.partition(".")[0] == "pairs" for key in _keys(overrides)):
        cfg.pairs = _given_pairs()
    line = recall(cfg, root, overrides)
    if root == "evaluate" and cfg.data.kind != "world" and not _set_keys(overrides, "benchmark", root):
        from omegaconf import OmegaConf

        cfg.benchmark = {"heldout_pairs": OmegaConf.load(CONFIGS / "benchmark" / "heldout_pairs.yaml")}
    if root in ("share", "export") and _keys(overrides).isdisjoint(ARM_KEYS) and cfg.get("what") != "data":
        from scramble.pipeline import BASE, choose_arm

        if (arm := choose_arm(cfg.run.dir, None)) != BASE:  # raises if the run has several arms
            cfg.run.arm = arm
    if line is None and root in MAKERS and not is_run(Path(cfg.run.dir)):
        return new_run(Path(cfg.run.dir))
    return line


def _contains_only_pairs(cfg: DictConfig) -> bool:
    """Return whether the data contains pairs and no captions. The format ``scramble`` also contains captions."""
    data = cfg.get("data") or {}
    return data.get("kind") == "pairs" and data.get("format") != "scramble" and cfg.pairs.method != "given"


def _given_pairs() -> DictConfig:
    """Return the section ``pairs`` of ``pairs=given``."""
    from omegaconf import OmegaConf

    files = with_defaults(CONFIGS / "pairs" / "given.yaml")
    section: Any = OmegaConf.merge(*map(OmegaConf.load, files))
    del section["defaults"]
    return section


def recall(cfg: DictConfig, root: str, overrides: Sequence[str]) -> str | None:
    """Set the settings in ``cfg`` that the command line does not set to the values recorded in the run folder.

    Args:
        cfg: a composed configuration.
        root: the script's name.
        overrides: the command line.

    Returns:
        One line that names the settings taken from the record, or None if no setting was taken.

    Raises:
        ConfigError: if the command line contradicts the record; the message lists the differences.
    """
    from omegaconf import OmegaConf, open_dict
    from omegaconf.errors import OmegaConfBaseException

    restored: dict[str, Any] = {}
    refused: list[str] = []
    try:
        name, run, data = cfg.name, Path(cfg.run.dir), Path(cfg.run.data)
        elsewhere = _read(run).get("data_folder")
        if elsewhere is not None and "run.data" not in _keys(overrides):
            data, restored["run.data"] = Path(elsewhere), elsewhere
        for section, recorded in (_data_record(data) | _model_record(run)).items():
            composed, set_keys = _composed(cfg, section), _set_keys(overrides, section, root)
            if section == "recommended":  # these values change with the model
                set_keys = [section] if _set_keys(overrides, "model", root) == ["model"] else set_keys
            if root == "chat" and section == "model" and names_model(overrides):
                continue  # chat accepts any model, for example an exported model of this run
            new, differences = _merged(section, recorded, composed, set_keys)
            if differences and section in BINDING:
                if section != "model" or _objectives(run):  # the model may change until an arm is trained
                    refused += differences
            elif new != composed:
                restored[section] = new
    except OmegaConfBaseException:
        return None  # validation reports the missing value later
    if refused:
        raise ConfigError(_contradiction(run, refused, overrides))
    if not restored:
        return None
    with open_dict(cfg):
        # Resolve name and folders now, because they may be interpolations of settings that change below.
        cfg.name, cfg.run.dir, cfg.run.data = name, str(run), str(data)
        for section, value in restored.items():
            if section == "run.data":
                continue  # set above
            if section == "objective":  # the objective's name, and the trainer keys that its file sets
                cfg.objective = {"name": value["name"]}
                cfg.trainer.update({key: item for key, item in value.items() if key != "name"})
            else:
                cfg[section] = OmegaConf.create(value) if isinstance(value, dict) else value
    listed = [f"{section}={_label(value)}" for section, value in restored.items() if section != "recommended"]
    return f"{run}: using {', '.join(listed)} as recorded in the run folder" if listed else None


def _contradiction(run: Path, refused: Sequence[str], overrides: Sequence[str]) -> str:
    """Return the error message for the differences ``refused``, each of the form ``key (old -> new)``."""
    sections = list(dict.fromkeys(difference.split()[0].split(".")[0] for difference in refused))
    keys = [difference.split()[0] for difference in refused]
    # If the source differs, nearly all keys differ, and so do the pairs.
    for kind, dependent in (("data.kind", ("data.", "pairs.")), ("pairs.method", ("pairs.",))):
        if kind in keys:
            pairs = zip(keys, refused, strict=True)
            refused = [each for key, each in pairs if key == kind or not key.startswith(dependent)]
            break
    message = f"{run} was created with different settings: {', '.join(refused)}. "
    debug = next((each for each in overrides if each.lstrip("+").startswith("debug=")), None)
    if debug is not None and not {"data", "pairs"}.isdisjoint(sections):
        return (
            f"{message}With {debug}, data and pairs are not taken from the folder: repeat the data and pairs "
            f"arguments of the first command, or replace {debug} and name=... with run.dir={run}, which does not "
            "reduce the number of training steps"
        )
    # A group on the command line (data=coco) also sets its defaults, which are not on the command line.
    return (
        f"{message}Leave out all arguments of {' and '.join(sections)}, because the folder contains their values, or "
        f"choose another run folder (name=... or run.dir=...), or remove {run}"
    )


def _has_folders(cfg: DictConfig) -> bool:
    """Return whether the configuration names a run folder and a data folder."""
    from omegaconf import OmegaConf

    folders = [OmegaConf.select(cfg, key, throw_on_resolution_failure=False) for key in ("run.dir", "run.data")]
    return all(isinstance(folder, str) for folder in folders)


def remember(cfg: DictConfig, root: str, overrides: Sequence[str]) -> None:
    """Record the identity of a run in ``run.json``, if the run folder exists: the model, an objective that the command
    line sets, and a data folder that the command line sets for training.

    The recorded model and objective are not changed once the training of an arm has started. Until then, ``train``
    always records the model, and ``generate`` records the model only if the command line sets it.
    """
    run = Path(cfg.run.dir) if "run" in cfg else Path()
    if root not in ("generate", "train") or not run.is_dir():
        return
    record = old = _read(run)
    if "model" not in old or not _objectives(run):
        if root == "train" or _set_keys(overrides, "model", root):
            record = record | {section: _composed(cfg, section) for section in ("model", "recommended")}
        if _set_keys(overrides, "objective", root):
            record = record | {"objective": _composed(cfg, "objective")}
    if root == "train" and "run.data" in _keys(overrides):  # another run's data folder
        record = record | {"data_folder": str(cfg.run.data)}
    if record != old:
        write_json(run / RECORD_FILE, record)


def _data_record(data: Path) -> dict[str, Any]:
    stage = _read(data, STAGE_FILE)
    if stage.get("status") not in ("running", "stopped", "finished") or not {"data", "pairs", "seed"} <= set(
        stage["config"]
    ):
        return {}
    config = stage["config"]
    return {"data": config["data"], "pairs": config["pairs"], "data_seed": config["seed"]}


def _model_record(run: Path) -> dict[str, Any]:
    record, objectives = _read(run), _objectives(run)
    record.pop("data_folder", None)
    model = record.get("model") or {}
    if model.get("new") is not None and (moved := run / Path(model["path"]).name).is_dir():
        record["model"] = {**model, "path": str(moved)}  # the model is in the run folder, which may have been moved
    if objectives:  # if the arms have different objectives, the command line must name an objective
        record.pop("objective", None)
        if all(objective == objectives[0] for objective in objectives):
            record["objective"] = objectives[0]
    return record


def _read(folder: Path, name: str = RECORD_FILE) -> dict[str, Any]:
    try:
        return dict(read_json(folder / name)) if (folder / name).is_file() else {}
    except StoreError:
        return {}  # the stage that reads the file reports the error


def _objectives(run: Path) -> list[Any]:
    """Return the objectives of the run's arms whose training has not failed."""
    stages = [_read(file.parent, STAGE_FILE) for file in sorted(run.glob(f"train/*/{STAGE_FILE}"))]
    configs = [stage["config"] for stage in stages if stage.get("status") in ("running", "stopped", "finished")]
    return [_objective(config["objective"], config["trainer"]) for config in configs]


def _objective(objective: Mapping[str, Any], trainer: Mapping[str, Any]) -> dict[str, Any]:
    """Return an objective's name and the fields of the trainer that define the objective."""
    return {"name": objective["name"], **{key: trainer[key] for key in LOSS_FIELDS if key in trainer}}


def _composed(cfg: DictConfig, section: str) -> Any:
    if section == "objective":
        return _objective(plain_section(cfg, "objective"), plain_section(cfg, "trainer"))
    return plain_section(cfg, section)


def plain_section(cfg: DictConfig, section: str) -> Any:
    """Return a section as plain values. Interpolations are resolved, and paths of files that ship with the project are
    made valid in every working directory.
    """
    from omegaconf import Container, OmegaConf

    value = cfg[section]
    return shipped_values(OmegaConf.to_container(value, resolve=True) if isinstance(value, Container) else value)


def _set_keys(overrides: Sequence[str], section: str, root: str) -> list[str]:
    """Return the keys of a section that the command line sets, or the section's name if the whole section is set.

    In scripts that generate or train, ``experiment=...`` and ``debug=...`` count as setting the whole section. In all
    other scripts, these arguments are ignored, because the record of the run takes precedence.
    """
    set_keys = []
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        if key == section or (key in ("experiment", "debug") and root in MAKERS):
            return [section]
        start, _, leaf = key.partition(".")
        if section == "objective" and start == "trainer" and leaf in LOSS_FIELDS:
            set_keys.append(f"objective.{leaf}")
        if key.startswith(f"{section}."):
            set_keys.append(key.partition("@")[0])
    return set_keys


def names_model(overrides: Sequence[str]) -> bool:
    """Return whether the command line selects a model. Loading options (``model.device=cpu``) do not select a model."""
    return not _keys(overrides).isdisjoint({"model", *(f"model.{key}" for key in MODEL_KEYS)})


def _keys(overrides: Sequence[str]) -> set[str]:
    """Return the keys that a command line sets."""
    return {override.partition("=")[0].lstrip("+~") for override in overrides}


def _merged(section: str, recorded: Any, composed: Any, set_keys: Sequence[str]) -> tuple[Any, list[str]]:
    """Return the merged value of the section, and the differences between the command line and the record."""
    if not set_keys:
        return recorded, []
    if not isinstance(recorded, Mapping):
        return composed, [] if composed == recorded else [f"{section} ({recorded} -> {composed})"]
    if set_keys == [section]:
        new = composed
    else:
        new = dict(recorded)
        for key in set_keys:
            top = key.split(".")[1]
            if top in composed:  # the command line changes one value; all other values come from the record
                new[top] = _replaced(recorded.get(top), composed[top], key.split(".")[2:])
    keys = set(MODEL_KEYS) if section == "model" else {*recorded, *new}
    if section == "model" and new.get("new") is not None:
        keys.discard("path")  # the model is in the run folder, which may have been moved
    # Convert both sides to JSON and back, as the record was, because JSON turns all keys into strings.
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
