"""Runs a stage. Each folder holds one result: a later call with the same inputs reuses it, and a call after an
interruption resumes the work.

A stage records the settings and the content keys of its inputs in ``stage.json``. A finished folder with the same
record is reused.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from scramble.console import LOG_FILE
from scramble.pipeline.provenance import write_command
from scramble.storage.files import STAGE_FILE, StoreError, read_json, stage_status, write_json
from scramble.storage.hashing import differing_keys, json_value
from scramble.storage.locks import LOCK_FILE, locked
from scramble.storage.tables import TABLE_NAMES

Changes = Callable[[Mapping[str, Any], Mapping[str, Any]], list[str]]

ANOTHER_RUN = "another run folder (name=... or run.dir=...)"
ANOTHER_ARM = "another arm (run.arm=...)"


def run_stage(
    folder: str | Path,
    config: Mapping[str, Any],
    work: Callable[[Path], dict[str, Any]],
    *,
    main: bool = True,
    instead: str = ANOTHER_RUN,
    changes: Changes = differing_keys,
) -> tuple[dict[str, Any], str]:
    """Run ``work(folder)`` unless ``folder`` already holds its finished result for ``config``.

    If an earlier call was stopped or killed, ``work`` resumes from the files in the folder. If an earlier call failed,
    another configuration may use the folder. If several jobs need the same folder at the same time, the first job does
    the work and the other jobs wait for its result.

    Args:
        folder: folder of the stage.
        config: everything that the result depends on, including content keys of the inputs, as plain JSON. The
            configuration is stored in ``stage.json`` before the work starts, and again with the summary when the work
            ends.
        work: does the work in the folder and returns a summary.
        main: whether this process writes ``stage.json``, which only one process of a job may do.
        instead: what to choose for another configuration, as text for the error message.
        changes: function of the recorded and the new configuration that returns the keys whose values differ. It is
            called only if the two configurations are not equal.

    Returns:
        The summary, and what happened: ``"done"``, ``"resumed"`` or ``"reused"``.

    Raises:
        StoreError: if the folder belongs to another configuration; the message names the keys that differ.
    """
    folder = Path(folder)
    # No lock for a finished stage, so that read-only folders can be reused.
    if not main or stage_status(folder) == "finished":
        return _do_stage(folder, config, work, main=main, instead=instead, changes=changes)
    with locked(folder):
        return _do_stage(folder, config, work, main=True, instead=instead, changes=changes)


def other_settings(folder: Path, changed: Sequence[str], instead: str) -> str:
    """Return the error message for a folder that was created with different settings.

    The message names the keys that differ, and lists fixes, such as choosing ``instead``.
    """
    return (
        f"{folder} was created with different settings: {', '.join(changed)}. Choose {instead}, restore the settings, "
        "or remove this folder"
    )


def discard_if_empty(run: Path) -> None:
    """Remove a run folder that a failed command created, unless the folder contains results.

    Such a folder contains only the log, locks, records of failed stages and empty files. If it were kept, other scripts
    would suggest it as a run.
    """
    for file in (path for path in run.rglob("*") if not path.is_dir()):
        failed = file.name == STAGE_FILE and read_json(file)["status"] == "failed"
        if not (failed or file.name in (LOG_FILE, LOCK_FILE) or file.stat().st_size == 0):
            return
    shutil.rmtree(run, ignore_errors=True)


def _do_stage(
    folder: Path,
    config: Mapping[str, Any],
    work: Callable[[Path], dict[str, Any]],
    *,
    main: bool,
    instead: str,
    changes: Changes,
) -> tuple[dict[str, Any], str]:
    marker = folder / STAGE_FILE
    config = json.loads(json.dumps(config, default=json_value))
    record = read_json(marker) if marker.exists() else None
    if record is not None and record["config"] != config and (changed := changes(record["config"], config)):
        if record["status"] != "failed":
            raise StoreError(other_settings(folder, changed, instead))
        record = None
        if main:  # the settings of a failed stage were corrected: remove its tables, keep replies and other files
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            for name in TABLE_NAMES.values():
                for table in folder.rglob(f"{name}.parquet"):
                    table.unlink()
    if record is not None and record["status"] == "finished":
        return record["summary"], "reused"
    how = "done" if record is None else "resumed"
    if not main:
        return work(folder), how
    write_json(marker, {"status": "running", "config": config})
    try:
        summary = work(folder)
    except KeyboardInterrupt:  # a stop signal (scramble.interrupt); the same command resumes
        with suppress(OSError, StoreError):
            write_json(marker, {"status": "stopped", "config": config})
        raise
    except Exception:
        with suppress(OSError, StoreError):  # the work may have failed because the disk is full
            write_json(marker, {"status": "failed", "config": config})
        raise
    write_command(folder)
    write_json(marker, {"status": "finished", "config": config, "summary": summary})
    return summary, how
