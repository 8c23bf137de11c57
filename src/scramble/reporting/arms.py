"""The arms of a run folder: their status, and notes for readers of the scores about arms that are not finished."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scramble.storage.files import STAGE_FILE, read_json
from scramble.training.checkpoint_paths import newest_step

_TRIAL = re.compile(r"trial\d{3,}-seed\d+")  # how scripts/study.py names the arms of its trials


def arm_stages(run: str | Path) -> dict[str, dict[str, Any]]:
    """Arm -> contents of its ``stage.json``, sorted by name with numbers in numerical order (seed2 before seed10)."""
    return {marker.parent.name: dict(read_json(marker)) for marker in arm_markers(run)}


def arm_markers(run: str | Path) -> list[Path]:
    """Return the files ``stage.json`` of the arms, in the order of :func:`arm_stages`."""
    return sorted(Path(run).glob(f"train/*/{STAGE_FILE}"), key=_order)


def _order(marker: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", marker.parent.name)]


def finished_arms(run: str | Path) -> list[str]:
    """Return the arms whose training is finished."""
    return [arm for arm, stage in arm_stages(run).items() if stage["status"] == "finished"]


def is_trial(arm: str) -> bool:
    """Return whether an arm is a trial of a study."""
    return _TRIAL.fullmatch(arm) is not None


def method_of(arm: str) -> str:
    """Return the method of an arm: its name without the suffix ``-seedN``."""
    return re.sub(r"-seed\d+$", "", arm)


def shown_arms(run: str | Path, results: Iterable[Path]) -> dict[str, Path]:
    """Arm -> its training folder, for curves and settings. Trials of a study without results are excluded."""
    scored = {folder.parent.name for folder in results}
    return {arm: Path(run) / "train" / arm for arm in arm_stages(run) if arm in scored or not is_trial(arm)}


def incomplete_notes(run: str | Path) -> list[str]:
    """Return lines that name the unfinished and the failed arms and say how to finish them; empty if all are
    finished.
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
            f"Not included, because training is not finished: {listed}. Repeat the scripts/train.py command to finish; "
            f"{log} contains it."
        )
    if failed:
        notes.append(
            f"Not included, because training failed: {', '.join(failed)}. {log} contains the error; repeat the "
            "scripts/train.py command when its cause is fixed."
        )
    return notes


def arm_notes(results: Iterable[Path]) -> list[str]:
    """Return the notes on a run's arms for readers of its result folders ``<run>/evaluation/<arm>/<benchmark>``.

    They name arms without scores and report different numbers of training steps, because a score from longer training
    does not show that a method is better.
    """
    folders = list(results)
    if not folders:
        return []
    run, scored = folders[0].parents[2], {folder.parent.name for folder in folders}
    notes = incomplete_notes(run)
    if absent := [arm for arm in finished_arms(run) if arm not in scored and not is_trial(arm)]:
        notes.append(f"Trained but not evaluated: {', '.join(absent)}. Run scripts/evaluate.py again.")
    steps = {
        arm: stage["summary"]["steps"]
        for arm, stage in arm_stages(run).items()
        if arm in scored and stage["status"] == "finished" and "steps" in stage["summary"]
    }
    fewest, most = (choose(steps, key=steps.__getitem__, default="") for choose in (min, max))
    if steps and steps[fewest] != steps[most]:
        notes.append(
            f"The arms were trained for different numbers of steps, from {steps[fewest]:,} ({fewest}) to "
            f"{steps[most]:,} ({most}): set trainer.max_steps to train all of them for the same number."
        )
    return notes
