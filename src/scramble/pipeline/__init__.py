"""Contains the stages that the scripts call. A stage takes plain values, writes a folder and reuses finished work.

A run folder contains ``data/`` (tables in ``train/``, ``val/`` and ``test/``), ``train/<arm>/``, ``evaluation/<arm>/``
and ``report/``.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from scramble.reporting.arms import finished_arms, is_trial
from scramble.storage.files import STAGE_FILE

BASE = "base"
"""Name of the arm that is the untrained model."""


class StageError(ValueError):
    """Raised if a stage cannot run, for example because its settings contradict those of another stage."""


def check_arm(run: str | Path, arm: str) -> Path:
    """Return the training folder of a finished arm.

    Raises:
        StageError: if the arm is not finished; the message names finished arms or similar runs, if there are any.
    """
    run = Path(run)
    folder = run / "train" / arm
    finished = finished_arms(run)
    if arm in finished:
        return folder
    if finished:
        raise StageError(f"{run} has no finished arm {arm}: choose one of {', '.join(finished)} (run.arm=...)")
    if run.is_dir():
        raise StageError(f"{run} has no finished arm: train an arm first (scripts/train.py)")
    others = sorted({file.parents[2].name for file in run.parent.glob(f"*/train/*/{STAGE_FILE}")})
    similar = difflib.get_close_matches(run.name, others, n=3)
    runs = " or ".join(str(run.parent / name) for name in similar)
    hint = f"did you mean {runs}? (name=... or run.dir=...)" if similar else "name a run (name=...) or train it first"
    raise StageError(f"there is no run {run}: {hint}")


def choose_arm(run: str | Path, arm: str | None) -> str:
    """Return the given arm. For None, return the run's only finished arm, or ``base`` if no arm is finished.

    If ``arm`` is None, the trials of a study are ignored.

    Raises:
        StageError: if ``arm`` is None and several arms are finished, or if ``arm`` is not finished.
    """
    if arm is None:
        arms = [name for name in finished_arms(run) if not is_trial(name)]
        if len(arms) > 1:
            raise StageError(f"{run} has several arms: choose one of base, {', '.join(arms)} (run.arm=...)")
        arm = next(iter(arms), BASE)
    if arm != BASE:
        check_arm(run, arm)
    return arm


def arm_model(run: str | Path, arm: str, base: str) -> dict[str, str]:
    """Return the ``path`` of an arm's model and, if the arm has an adapter, the path of the ``adapter``."""
    folder = Path(run) / "train" / arm
    if arm == BASE:
        return {"path": base}
    if (folder / "model").is_dir():
        return {"path": str(folder / "model")}
    return {"path": base, "adapter": str(folder / "adapter")}


def is_main_process() -> bool:
    """Return whether this is the first process of a job (``accelerate launch``, torchrun), or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """Parse ``"i/n"`` into the index of a shard and the number of shards. For None (the whole job), return None."""
    if text is None:
        return None
    index, _, count = text.partition("/")
    return int(index), int(count)
