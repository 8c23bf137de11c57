"""The stages as the scripts call them: plain values in, a finished folder out, finished work reused.

A run folder holds ``data/`` (``train/ val/ test/`` tables), ``train/<arm>/``, ``evaluation/<arm>/`` and ``report/``.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from scramble.reporting.arms import finished_arms, is_trial
from scramble.storage.files import STAGE_FILE

BASE = "base"
"""The arm that is the model itself."""


class StageError(ValueError):
    """Stages or settings that do not fit together. The message says which and the way out."""


def check_arm(run: str | Path, arm: str) -> Path:
    """The training folder of a finished arm.

    Raises:
        StageError: there is none; the message names the finished arms, or the nearest run.
    """
    run = Path(run)
    folder = run / "train" / arm
    finished = finished_arms(run)
    if arm in finished:
        return folder
    if finished:
        raise StageError(f"{run} has no finished arm {arm}; name one of {', '.join(finished)} (run.arm=...)")
    if run.is_dir():
        raise StageError(f"{run} has no finished arm: train one first (scripts/train.py)")
    others = sorted({file.parents[2].name for file in run.parent.glob(f"*/train/*/{STAGE_FILE}")})
    near = difflib.get_close_matches(run.name, others, n=3)
    runs = " or ".join(str(run.parent / name) for name in near)
    hint = f"did you mean {runs}? (name=... or run.dir=...)" if near else "name a run (name=...) or train it first"
    raise StageError(f"there is no run {run}: {hint}")


def choose_arm(run: str | Path, arm: str | None) -> str:
    """The arm that is named, else the run's only finished one; ``base``, the model itself, where there is none.

    Raises:
        StageError: there are several, or the one that is named is not finished; the message names the finished ones.
    """
    if arm is None:
        arms = [name for name in finished_arms(run) if not is_trial(name)]
        if len(arms) > 1:
            raise StageError(f"{run} has several arms: name one of base, {', '.join(arms)} (run.arm=...)")
        arm = next(iter(arms), BASE)
    if arm != BASE:
        check_arm(run, arm)
    return arm


def arm_model(run: str | Path, arm: str, base: str) -> dict[str, str]:
    """``path`` of an arm's model, and of its ``adapter`` if it has one."""
    folder = Path(run) / "train" / arm
    if arm == BASE:
        return {"path": base}
    if (folder / "model").is_dir():
        return {"path": str(folder / "model")}
    return {"path": base, "adapter": str(folder / "adapter")}


def is_main_process() -> bool:
    """Whether this is the first process of a job (``accelerate launch``, torchrun), or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """A share of a job: ``"i/n"`` with i from 0 to n - 1, as two numbers; None is the whole job."""
    if text is None:
        return None
    index, _, count = str(text).partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise StageError(f"shard={text}: write i/n with i from 0 to n - 1, as in shard=0/4")
    return int(index), int(count)
