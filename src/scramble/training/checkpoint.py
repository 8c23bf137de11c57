"""Writes checkpoints atomically and with checksums, and verifies checkpoints before use."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scramble.storage.files import StoreError, read_json, write_json, writing
from scramble.storage.hashing import file_key
from scramble.training.checkpoint_paths import checkpoint_path, working_path
from scramble.training.resume import changes_since_checkpoint

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"


def seal(folder: str | Path, step: int, settings: Mapping[str, Any]) -> Path:
    """Turn the working folder of a step into its checkpoint: write checksums and settings, then rename the folder.

    Raises StoreError if the disk is full or the folder cannot be written; earlier checkpoints are kept.
    """
    working, final = working_path(folder, step), checkpoint_path(folder, step)
    with writing(f"checkpoint {final}"):
        files = {str(p.relative_to(working)): file_key(p) for p in sorted(working.rglob("*")) if p.is_file()}
        write_json(working / MANIFEST, {"step": step, "settings": dict(settings), "files": files})
        for name in files:  # sync the contents, which must be on disk before the rename
            with (working / name).open("rb") as file:
                os.fsync(file.fileno())
        if final.exists():
            shutil.rmtree(final)
        os.replace(working, final)
    return final


def newest(folder: str | Path, settings: Mapping[str, Any]) -> Path | None:
    """Return the newest complete checkpoint, or None. A damaged checkpoint is skipped with a warning.

    Raises StoreError if the checkpoint was written with different settings (:mod:`scramble.training.resume`). The
    message names the settings that differ.
    """
    for path in sorted(Path(folder).glob("step-*"), reverse=True):
        fault = damage(path)
        if fault is not None:
            log.warning(f"checkpoint {path} is damaged ({fault}); the previous checkpoint is used, if there is one")
            continue
        if changed := changes_since_checkpoint(read_json(path / MANIFEST)["settings"], settings):
            raise StoreError(
                f"{path} was written with different settings: {', '.join(changed)}. Choose another arm (run.arm=...; "
                f"in Python, another out), restore the settings, or remove {folder}"
            )
        return path
    return None


def damage(path: Path) -> str | None:
    """Return why a checkpoint is damaged, or None if its files match their checksums."""
    try:
        files = read_json(path / MANIFEST)["files"]
    except (StoreError, KeyError, TypeError):
        return f"{MANIFEST} is missing or truncated"
    for name, key in files.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if file_key(path / name) != key:
            return f"{name} has changed"
    return None


def prune(folder: str | Path, keep: int | None, best_step: int | None = None) -> None:
    """Remove all checkpoints except the ``keep`` newest ones (None keeps all) and the checkpoint of ``best_step``.

    Also remove the incomplete working folders of killed runs.
    """
    for path in Path(folder).glob(".step-*"):
        shutil.rmtree(path, ignore_errors=True)
    best = None if best_step is None else checkpoint_path(folder, best_step)
    for path in [] if keep is None else sorted(Path(folder).glob("step-*"), reverse=True)[keep:]:
        if path != best:
            shutil.rmtree(path, ignore_errors=True)
