"""Names the points of a sweep after the overrides that vary."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any


def varying_overrides(overrides: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    """Return, for each point of a sweep, the overrides that differ between the points."""
    tables = [dict(override.lstrip("+").split("=", 1) for override in point if "=" in override) for point in overrides]
    keys = dict.fromkeys(key for table in tables for key in table)
    changing = [key for key in keys if len({table.get(key) for table in tables}) > 1]
    return [{key: table[key] for key in changing if key in table} for table in tables]


def name_arm(config: Mapping[str, Any], varied: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the configuration, with an arm name that contains the varying overrides.

    The name is unchanged if the user has set it, or if only the objective, the seeds, the run name or the run folder
    vary.
    """
    run, objective, seed = config["run"], config["objective"], config["seed"]
    if run["arm"] != f"{objective['name']}-seed{seed}":
        return config
    rest = {k: v for k, v in varied.items() if k not in ("objective", "seed", "data_seed", "name", "run.dir")}
    if not rest:
        return config
    arm = f"{objective['name']}-{slug(rest)}-seed{seed}"
    return {**config, "run": {**run, "arm": arm}}


def slug(varied: Mapping[str, str]) -> str:
    """Return the varying overrides as part of a folder's name: ``trainer.beta=0.1`` becomes ``beta0.1``."""
    parts = []
    for key, value in varied.items():
        joint = "" if value[:1].isdigit() and not key[-1:].isdigit() else "-"
        parts.append(f"{key.rpartition('.')[2]}{joint}{value}")
    return re.sub(r"[^\w.,-]+", "_", "-".join(parts)).strip("_")
