"""Checkpoints that are whole or absent: sealed with checksums, renamed into place, verified before use."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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


def newest(folder: str | Path, settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> Path | None:
    """The newest checkpoint that is whole, or None. A damaged one is passed over with a warning.

    A setting that is absent on one side has its default there.

    Raises StoreError if it was made with other settings, naming those that differ.
    """
    for path in sorted(Path(folder).glob("step-*"), reverse=True):
        fault = damage(path)
        if fault is not None:
            log.warning(f"checkpoint {path} is damaged ({fault}); going back to the one before it")
            continue
        there, here = {**defaults, **read_json(path / MANIFEST)["settings"]}, {**defaults, **settings}
        changed = sorted(key for key in {*there, *here} if there.get(key) != here.get(key))
        if changed:
            listed = ", ".join(f"{key}: {there.get(key)!r} there, {here.get(key)!r} here" for key in changed)
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


def prune(folder: str | Path, keep: int | None, best_step: int | None = None) -> None:
    """Remove all but the newest ``keep`` checkpoints (None: none) and that of ``best_step``, and what killed runs left
    half-written."""
    for path in Path(folder).glob(".step-*"):
        shutil.rmtree(path, ignore_errors=True)
    best = None if best_step is None else checkpoint_path(folder, best_step)
    old = [] if keep is None else sorted(Path(folder).glob("step-*"), reverse=True)[keep:]
    for path in old:
        if path == best:
            continue
        shutil.rmtree(path, ignore_errors=True)
