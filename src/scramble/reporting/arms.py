"""Reads the status of a run's arms, and composes notes on the arms, to be shown with the results."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scramble.storage.files import STAGE_FILE, read_json
from scramble.training.checkpoint_paths import newest_step

_TRIAL = re.compile(r"trial\d{3,}-seed\d+")  # how scripts/study.py names the arms of its trials
RUN_SEPARATOR = ": "
"""Separates the run from the method in the names of methods when several runs are compared."""


def arm_stages(run: str | Path) -> dict[str, dict[str, Any]]:
    """Return the contents of each arm's ``stage.json``. The arms are sorted by name, with numbers in numerical order
    (seed2 before seed10).
    """
    return {marker.parent.name: dict(read_json(marker)) for marker in arm_markers(run)}


def arm_markers(run: str | Path) -> list[Path]:
    """Return the paths of the arms' ``stage.json`` files, in the order of :func:`arm_stages`."""
    return sorted(Path(run).glob(f"train/*/{STAGE_FILE}"), key=_order)


def _order(marker: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", marker.parent.name)]


def finished_arms(run: str | Path) -> list[str]:
    """Return the names of the arms whose training is finished."""
    return [arm for arm, stage in arm_stages(run).items() if stage["status"] == "finished"]


def is_trial(arm: str) -> bool:
    """Return whether an arm is a trial of ``scripts/study.py``."""
    return _TRIAL.fullmatch(arm) is not None


def split_run(name: str) -> tuple[str, str]:
    """Split ``<run>: <method>`` into the run and the method. The run is "" if the name does not contain a run."""
    run, _, method = name.rpartition(RUN_SEPARATOR)
    return run, method


def shown_arms(run: str | Path, results: Iterable[Path]) -> dict[str, Path]:
    """Return the training folders of the arms whose curves and settings are shown. Trials of a study are excluded if
    they have no results.
    """
    scored = {folder.parent.name for folder in results}
    return {arm: Path(run) / "train" / arm for arm in arm_stages(run) if arm in scored or not is_trial(arm)}


def incomplete_notes(run: str | Path) -> list[str]:
    """Return notes that name the unfinished and the failed arms and say how to finish them. The list is empty if all
    arms are finished.
    """
    status = {arm: stage["status"] for arm, stage in arm_stages(run).items() if not is_trial(arm)}
    failed = [arm for arm, state in status.items() if state == "failed"]
    steps = {
        arm: newest_step(Path(run) / "train" / arm / "checkpoints")
        for arm, state in status.items()
        if state not in ("finished", "failed")
    }
    log, notes = Path(run) / "log.txt", []
    if steps:
        listed = ", ".join(
            f"{arm} ({'no checkpoint' if step is None else f'checkpoint of step {step}'})"
            for arm, step in steps.items()
        )
        notes.append(
            f"Arms whose training is not finished are not included: {listed}. To finish their training, repeat the "
            f"scripts/train.py command that is recorded in {log}."
        )
    if failed:
        notes.append(
            f"Arms whose training failed are not included: {', '.join(failed)}. Fix the error that is recorded in "
            f"{log}, and repeat the scripts/train.py command."
        )
    return notes


def arm_notes(results: Iterable[Path]) -> list[str]:
    """Return notes on a run's arms, to be shown with its results in the folders ``<run>/evaluation/<arm>/<benchmark>``.

    The notes name arms without scores. They also say whether the arms were trained for different numbers of steps,
    because a higher score after longer training does not show that a method is better.
    """
    folders = list(results)
    if not folders:
        return []
    run, scored = folders[0].parents[2], {folder.parent.name for folder in folders}
    notes = incomplete_notes(run)
    if absent := [arm for arm in finished_arms(run) if arm not in scored and not is_trial(arm)]:
        notes.append(f"Trained arms that were not evaluated: {', '.join(absent)}. Run scripts/evaluate.py again.")
    steps = {
        arm: stage["summary"]["steps"]
        for arm, stage in arm_stages(run).items()
        if arm in scored and stage["status"] == "finished" and "steps" in stage["summary"]
    }
    if len(set(steps.values())) > 1:
        fewest, most = min(steps, key=steps.__getitem__), max(steps, key=steps.__getitem__)
        notes.append(
            f"The arms were trained for different numbers of steps, from {steps[fewest]:,} ({fewest}) to "
            f"{steps[most]:,} ({most}): set trainer.max_steps to train all arms for the same number of steps."
        )
    return notes
