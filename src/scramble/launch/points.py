"""Determines the configuration, name, folder and status of each point of a sweep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from scramble.launch.names import name_arm, slug, varying_overrides
from scramble.pipeline.inputs import input_keys, model_keys
from scramble.pipeline.train import model_content
from scramble.storage.files import STAGE_FILE, StoreError, read_json
from scramble.storage.hashing import content_key, file_key
from scramble.training.resume import stage_settings

CONFIG_FILE, LOG_FILE, STATUS_FILE = "config.yaml", "log.txt", "status.json"


class LaunchError(ValueError):
    """Raised if jobs cannot be started. The message names the jobs and says how to fix the problem."""


@dataclass(frozen=True, slots=True)
class Point:
    """Describes a job: a script and its configuration.

    Attributes:
        script: the script to run.
        varied: the overrides (keys with their values as typed) that distinguish the job from the other points of the
            sweep.
        config: the composed configuration.
        key: content key of the configuration and of the files that the job reads.
        folder: folder of the configuration, log and status.
    """

    script: Path
    varied: Mapping[str, str]
    config: Mapping[str, Any]
    key: str
    folder: Path

    @property
    def label(self) -> str:
        """The overrides that distinguish this point from all other points, or the script's name if there are none."""
        return ", ".join(f"{key}={value}" for key, value in self.varied.items()) or self.script.stem

    @property
    def stage_file(self) -> Path | None:
        """The ``stage.json`` that the job writes, or None for scripts that write no such file (evaluate.py)."""
        run = self.config["run"]
        if self.config.get("shard") is not None or self.script.stem not in ("generate", "train"):
            return None
        folder = Path(run["data"]) if self.script.stem == "generate" else Path(run["dir"]) / "train" / run["arm"]
        return folder / STAGE_FILE


def make_points(
    script: Path, configs: Sequence[Mapping[str, Any]], overrides: Sequence[Sequence[str]], folder: Path
) -> list[Point]:
    """Return the points of a sweep.

    Args:
        script: the script that each point runs.
        configs: the composed configuration of each point.
        overrides: the command-line overrides (``key=value``) of each point.
        folder: parent of the points' folders.

    Raises:
        LaunchError: two points would write to the same folder, or need different data in the same data folder.
    """
    varied = varying_overrides(overrides)
    configs = [
        name_arm(config, changed) if script.stem == "train" else config
        for config, changed in zip(configs, varied, strict=True)
    ]
    folder_key = cache(file_key)
    points = []
    for config, changed in zip(configs, varied, strict=True):
        key = point_key(script, config, folder_key)
        name = slug(changed) or script.stem
        points.append(Point(script, changed, config, key, folder / f"{name[:80]}-{key[:8]}"))
    _check_folders(points)
    return points


def point_key(script: Path, config: Mapping[str, Any], folder_key: Callable[[str], str] = file_key) -> str:
    """Return the content key of the settings that affect the results, and of the files and models that the job reads.

    ``folder_key`` computes the content key of a model's folder. The points of a sweep share a cached function, so that
    each folder is read only once.
    """
    parts: dict[str, Any] = {k: v for k, v in config.items() if k not in ("launcher", "show_batch", "dry_run")}
    if "trainer" in parts:
        parts["trainer"] = stage_settings(config["trainer"])
    parts["inputs"] = input_keys(config["data"])
    if "pairs" in parts:
        parts["inputs"] |= model_keys(parts["pairs"], folder_key)
    if "model" in parts:
        parts["model"] = model_content(parts["model"], folder_key)
    if script.stem == "evaluate":  # the result depends on the arms that have been trained
        arms = sorted(Path(config["run"]["dir"]).glob(f"train/*/{STAGE_FILE}"))
        parts["arms_trained"] = {path.parent.name: file_key(path) for path in arms}
    return content_key(script.stem, parts)


def status(point: Point) -> dict[str, Any]:
    """Return the recorded status of a point.

    The value of the key ``status`` is new, submitted, running, finished, stopped, killed or failed.
    """
    file = point.folder / STATUS_FILE
    if not file.exists():
        return {"status": "new"}
    record: dict[str, Any] = read_json(file)
    if record["status"] == "finished" and (stage := point.stage_file) is not None and not _stage_finished(stage):
        return {"status": "new"}  # the result was removed
    return record


def _stage_finished(file: Path) -> bool:
    try:
        return bool(read_json(file)["status"] == "finished")
    except StoreError:
        return False


def _check_folders(points: Sequence[Point]) -> None:
    """Raise LaunchError if points would write to the same folder, or share a data folder but need different data."""
    places = Counter(str(point.stage_file) for point in points if point.stage_file is not None)
    shared = [place for place, count in places.items() if count > 1]
    if shared:
        one, two = [point.label for point in points if str(point.stage_file) == shared[0]][:2]
        key = "run.arm" if points[0].script.stem == "train" else "run.data"
        raise LaunchError(
            f"{one} and {two} would both write to {Path(shared[0]).parent}: set separate folders, for example "
            f"{key}='...${{{next(iter(points[0].varied), 'seed')}}}'"
        )
    first_by_data: dict[str, tuple[str, Point]] = {}
    for point in points:
        parts = {name: point.config.get(name) for name in ("data", "pairs", "data_seed")}
        key, first = first_by_data.setdefault(str(point.config["run"]["data"]), (content_key(parts), point))
        if key != content_key(parts):
            raise LaunchError(
                f"{first.label} and {point.label} share the data folder {point.config['run']['data']} but need "
                "different data: set a separate name=... or run.data=... for each"
                + (", or the same data_seed" if parts["data_seed"] != first.config.get("data_seed") else "")
            )
