"""Checkpoints that are whole or absent: sealed with checksums, renamed into place, verified before use."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

from scramble.storage.files import StoreError, read_json, write_json
from scramble.storage.hashing import file_key
from scramble.training.checkpoint_paths import checkpoint_path, working_path

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"


def seal(folder: str | Path, step: int, settings: Mapping[str, Any]) -> Path:
    """Turn the working folder of a step into its checkpoint: checksums and settings, then one rename.

    Raises StoreError if the disk is full or the folder cannot be written; earlier checkpoints stay.
    """
    working, final = working_path(folder, step), checkpoint_path(folder, step)
    try:
        files = {str(p.relative_to(working)): file_key(p) for p in sorted(working.rglob("*")) if p.is_file()}
        write_json(working / MANIFEST, {"step": step, "settings": dict(settings), "files": files})
        for name in files:
            with (working / name).open("rb") as file:
                os.fsync(file.fileno())
        if final.exists():
            shutil.rmtree(final)
        os.replace(working, final)
    except OSError as error:
        raise StoreError(f"cannot write checkpoint {final}: {error.strerror or error}") from error
    return final


def newest(folder: str | Path, settings: Mapping[str, Any]) -> Path | None:
    """The newest checkpoint that is whole, or None. A damaged one is passed over with a warning.

    Raises StoreError if it was made with other settings, naming those that differ.
    """
    for path in sorted(Path(folder).glob("step-*"), reverse=True):
        fault = damage(path)
        if fault is not None:
            log.warning(f"checkpoint {path} is damaged ({fault}); going back to the one before it")
            continue
        made_with = read_json(path / MANIFEST)["settings"]
        changed = sorted(k for k in {*made_with, *settings} if made_with.get(k) != settings.get(k))
        if changed:
            listed = ", ".join(f"{key}: {made_with.get(key)!r} there, {settings.get(key)!r} here" for key in changed)
            raise StoreError(
                f"{path} was made with other settings ({listed}): choose another folder (run.arm=...) or remove it"
            )
        return path
    return None


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint's files, None if nothing is."""
    try:
        files = read_json(path / MANIFEST)["files"]
    except (StoreError, KeyError, TypeError):
        return f"{MANIFEST} is missing or cut"
    for name, key in files.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if file_key(path / name) != key:
            return f"{name} has changed"
    return None


def prune(folder: str | Path, keep: int) -> None:
    """Remove all but the newest ``keep`` checkpoints, and what killed runs left half-written."""
    for path in Path(folder).glob(".step-*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in sorted(Path(folder).glob("step-*"), reverse=True)[keep:]:
        shutil.rmtree(path, ignore_errors=True)


class Best(TrainerCallback):
    """Keeps the weights of the evaluation that came out best, on held-out pairs and not on a benchmark.

    Args:
        number: what is compared: ``val/loss`` (lower is better) or another ``val/...`` (higher is better).
        folder: where the weights go, with ``best.json``: number, value, step.
        save: writes the weights into a folder; every process calls it, the main one writes.

    Raises:
        ValueError: a number that is not of the held-out pairs.
    """

    RECORD = "best.json"

    def __init__(self, number: str, folder: Path, save: Callable[[Path], None]) -> None:
        if not number.startswith("val/"):
            raise ValueError(f"best={number!r}: choose by held-out pairs (val/loss, val/rewards/accuracies, ...)")
        self.number, self.folder, self.save = number, folder, save
        self.value: float | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        record = self.folder / self.RECORD
        if record.exists() and (found := read_json(record))["step"] <= state.global_step:
            self.value = found["value"] if found["number"] == self.number else None

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        value = (logs or {}).get(self.number)
        sign = -1 if self.number.endswith("loss") else 1
        if value is None or (self.value is not None and sign * value <= sign * self.value):
            return
        self.value = value
        working = self.folder.with_name(f".{self.folder.name}")
        if state.is_world_process_zero:
            shutil.rmtree(working, ignore_errors=True)
        self.save(working)
        if state.is_world_process_zero:
            write_json(working / self.RECORD, {"number": self.number, "value": value, "step": state.global_step})
            shutil.rmtree(self.folder, ignore_errors=True)
            working.rename(self.folder)
