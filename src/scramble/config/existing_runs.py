"""Checks the arms, baselines and runs that a script names against the run folders that exist."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from scramble.console import LOG_FILE
from scramble.field_checks import hint, near
from scramble.storage.arm_names import method_of
from scramble.storage.files import stage_status

DEBUG_FOLDERS = {"debug": "+debug=tiny", "short": "+debug=short"}  # run.dir in configs/debug


def arm_faults(run: Path, arms: str | Sequence[str]) -> Iterator[str]:
    """Yield error messages for arms that a run has not trained."""
    trained = [path.parent.name for path in run.glob("train/*/stage.json")]
    names = [] if arms == "all" else [arms] if isinstance(arms, str) else arms
    for arm in names:
        if arm not in ("base", "all", *trained):
            valid = ["base", *sorted(trained)]
            where = f"{run} has no such arm" if run.is_dir() else no_run(run)
            yield f"arms={arm}: {where}" + (f"; {hint(arm, valid)}" if run.is_dir() else "")


def methods(runs: Iterable[Path]) -> set[str]:
    """Return the methods that runs have trained or evaluated."""
    folders = [folder for run in runs for folder in (*run.glob("train/*"), *run.glob("evaluation*/*"))]
    return {method_of(folder.name) for folder in folders if folder.is_dir()}


def baseline_faults(baselines: Sequence[str], valid: Iterable[str]) -> Iterator[str]:
    """Yield error messages for baselines that are not in ``valid``.

    The default baselines ``base`` and ``sft`` are always accepted.
    """
    valid = {"base", "sft", *valid}
    for name in baselines:
        if name not in valid and name.rpartition(": ")[2] not in valid:
            yield f"baselines={name}: there is no such method; {hint(name, valid)}"


def no_run(folder: Path) -> str:
    """Return the message for a run folder that does not exist.

    If ``+debug=tiny`` or ``+debug=short`` created a run with this name, the message names this run. Otherwise the
    message lists the existing runs with similar names or, if there are none, all runs.
    """
    for place, choice in DEBUG_FOLDERS.items():
        if is_run(folder.parent / place / folder.name):
            return f"there is no run {folder}, but there is {folder.parent / place / folder.name}: add {choice}"
    others = _run_names(folder.parent)
    close = near(folder.name, others)
    listed = (
        f"did you mean {' or '.join(f'name={name}' for name in close)}?"
        if close
        else (
            f"the runs are {', '.join(sorted(others))}"
            if others
            else "scripts/train.py creates a run, and scripts/evaluate.py evaluates it"
        )
    )
    return f"there is no run {folder}; {listed}"


def held_out_faults(run: Path, data: Path) -> Iterator[str]:
    """Yield an error message if the data set whose held-out part a script evaluates does not exist or is not
    finished.
    """
    if not data.is_dir():
        no_data = f"{data} contains no data set: run scripts/generate.py with these settings"
        yield no_data if run.is_dir() else no_run(run)
    elif (status := stage_status(data)) == "failed":
        yield f"generating {data} failed: fix the error that is recorded in {run / LOG_FILE}, and repeat the command"
    elif status not in (None, "finished"):
        yield f"{data} is not finished: wait, or repeat the command that is recorded in {run / LOG_FILE}"


def is_run(folder: Path) -> bool:
    """Return whether a folder contains a run's data or arms."""
    return (folder / "data").is_dir() or (folder / "train").is_dir()


def new_run(folder: Path) -> str:
    """Return the message that announces a new run folder.

    The message lists existing runs with nearly the same name, because the new name may be misspelt.
    """
    close = sorted(name for name in _run_names(folder.parent) if _is_misspelt(folder.name, name))
    similar = f" (there is also {', '.join(f'name={name}' for name in close)})" if close else ""
    return f"new run {folder}{similar}"


def _is_misspelt(name: str, other: str) -> bool:
    """Return whether two names differ in one inserted, removed, replaced or transposed character, or only in case.

    Names of one or two characters and names that differ in a digit do not count as misspelt, because ``run1`` and
    ``run2`` are usually two runs.
    """
    a, b = name.lower(), other.lower()
    start = _num_equal(a, b)
    a, b = a[start:], b[start:]
    end = _num_equal(a[::-1], b[::-1])
    a, b = a[: len(a) - end], b[: len(b) - end]
    has_one_edit = max(len(a), len(b)) <= 1 or (len(a) == 2 and a == b[::-1])
    return min(len(name), len(other)) > 2 and has_one_edit and not any(c.isdigit() for c in a + b)


def _num_equal(a: str, b: str) -> int:
    """Return the number of equal characters at the start of two texts."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _run_names(parent: Path) -> list[str]:
    return [path.name for path in parent.glob("*") if is_run(path)]
