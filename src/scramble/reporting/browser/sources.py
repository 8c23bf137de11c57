"""Collects the inputs of the results browser: result folders, training folders and data sets of one run or several
runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scramble.reporting import comparison
from scramble.reporting.arms import RUN_SEPARATOR, shown_arms
from scramble.reporting.comparison import Folders
from scramble.storage.files import STAGE_FILE


@dataclass(frozen=True)
class Sources:
    """Result folders by benchmark and method, training folders by arm, and data set folders by run."""

    folders: Folders
    arms: Mapping[str, Path]
    data: Mapping[str, Path]


def gather(runs: Mapping[Path, Path]) -> Sources:
    """Collect the results, arms and data sets of runs. ``runs`` maps each run folder to its data set folder.

    With several runs, methods are named ``<run>: <method>``.
    """
    folders: dict[str, dict[str, list[Path]]] = {}
    arms: dict[str, Path] = {}
    data: dict[str, Path] = {}
    for run, name in run_names(list(runs)).items():
        prefix = f"{name}{RUN_SEPARATOR}" if len(runs) > 1 else ""
        results_of_run: list[Path] = []
        for benchmark, methods in comparison.find_methods(run / "evaluation").items():
            for method, method_folders in methods.items():
                folders.setdefault(benchmark, {})[prefix + method] = method_folders
                results_of_run += method_folders
        arms |= {prefix + arm: path for arm, path in shown_arms(run, results_of_run).items()}
        if (runs[run] / STAGE_FILE).exists():
            data[name] = runs[run]
    return Sources(folders, arms, data)


def run_names(runs: Sequence[Path]) -> dict[Path, str]:
    """Return a short, unique name for each run: the folder's name, with as many parent folders as needed."""
    parts = {run: run.resolve().parts for run in runs}
    for count in range(1, max(map(len, parts.values())) + 1):
        names = {run: "/".join(path[-count:]) for run, path in parts.items()}
        if len(set(names.values())) == len(runs):
            break
    return names
