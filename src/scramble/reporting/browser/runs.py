"""Prepares the page of runs. The page shows the data sets, protocols and environments of the runs, and the differences
between their settings.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scramble.evaluation.scoring import results
from scramble.reporting.arms import split_run
from scramble.reporting.comparison import Folders
from scramble.reporting.table import cell_text, listed_counts, objective_text
from scramble.storage.files import STAGE_FILE, read_json

ENVIRONMENT = "environment.json"


def runs_page(arms: Mapping[str, Path], data: Mapping[str, Path], folders: Folders) -> dict[str, Any]:
    """Return the values that the template of the page requires."""
    stages = {name: dict(read_json(folder / STAGE_FILE)) for name, folder in arms.items()}
    environments = {
        name: read_json(folder / ENVIRONMENT) if (folder / ENVIRONMENT).exists() else {}
        for name, folder in arms.items()
    }
    data_sets = {run: dict(read_json(folder / STAGE_FILE)) for run, folder in data.items()}
    settings = {
        name: dict(
            flat(
                {
                    **stages[name]["config"],
                    "data": _data_set(name, data_sets).get("config", {}),  # replaces the data set's content key
                    "environment": environments[name],
                }
            )
        )
        for name in arms
    }
    return {
        "arms": [
            {
                "name": name,
                "status": stage["status"],
                "facts": _facts(stage, environments[name]),
                "all": json.dumps(
                    {"config": stage["config"], "environment": environments[name]}, indent=1, ensure_ascii=False
                ),
            }
            for name, stage in stages.items()
        ],
        "differing": differing(settings),
        "data": [_data(name, stage) for name, stage in data_sets.items()],
        "protocols": _protocols(folders),
    }


def _data_set(arm: str, data_sets: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the ``stage.json`` of the data set that belongs to an arm's run. If there are several runs, the arm's name
    contains the run.
    """
    run, _ = split_run(arm)
    return data_sets.get(run, {}) if run else next(iter(data_sets.values()), {})


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested settings as pairs of a dotted key and a text."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def differing(settings: Mapping[str, Mapping[str, str]]) -> list[tuple[str, list[str]]]:
    """Return the keys whose values are not the same in all arms, with the value of each arm. The value of an arm
    without the key is "".
    """
    keys = dict.fromkeys(key for values in settings.values() for key in values)
    rows = [(key, [values.get(key, "") for values in settings.values()]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _facts(stage: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, str]:
    config, summary = stage["config"], stage.get("summary") or {}
    facts = {
        "model": config.get("model", {}).get("path"),
        "objective": objective_text(config),
        "steps": summary.get("steps"),
        "examples": summary.get("examples"),
        "seconds": round(summary["seconds"]) if "seconds" in summary else None,
        "commit": (environment.get("git_commit") or "")[:10],
    }
    return {name: cell_text(value) for name, value in facts.items()}


def _data(name: str, stage: Mapping[str, Any]) -> dict[str, Any]:
    summary = stage.get("summary") or {}
    return {
        "name": name,
        "kind": stage["config"].get("data", {}).get("kind", ""),
        "method": stage["config"].get("pairs", {}).get("method", ""),
        "splits": {split: listed_counts(counts) for split, counts in summary.get("splits", {}).items()},
        "is_transfer": bool(summary.get("transfer")),
        "text_only": summary.get("transfer") or summary.get("blind") or {},
    }


def _protocols(folders: Folders) -> list[dict[str, str]]:
    """Return all distinct protocols in full, with their benchmarks."""
    protocols: dict[str, dict[str, str]] = {}
    for benchmark, methods in folders.items():
        for result_folders in methods.values():
            protocol = results.read(result_folders[0]).protocol
            text = json.dumps(protocol, indent=1, ensure_ascii=False)
            entry = protocols.setdefault(text, {"name": str(protocol["name"]), "all": text, "benchmarks": ""})
            names = entry["benchmarks"].split(", ") if entry["benchmarks"] else []
            entry["benchmarks"] = ", ".join(dict.fromkeys([*names, benchmark]))
    return list(protocols.values())
