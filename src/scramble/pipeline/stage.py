"""A stage: work in a folder of its own, done once, reused when its inputs are the same, and resumed after a kill.

A stage finishes by writing ``stage.json`` with the content key of its inputs; a folder that holds the right key is
finished work and is not done again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from scramble.console import LOG_FILE
from scramble.storage.files import STAGE_FILE, StoreError, read_json, write_json
from scramble.storage.hashing import differing_keys, json_value
from scramble.storage.locks import LOCK_FILE, locked
from scramble.storage.tables import TABLES

ANOTHER_RUN = "another run folder (name=... or run.dir=...)"
ANOTHER_ARM = "another arm (run.arm=...)"


def run_stage(
    folder: str | Path,
    config: Mapping[str, Any],
    work: Callable[[Path], dict[str, Any]],
    *,
    main: bool = True,
    instead: str = ANOTHER_RUN,
) -> tuple[dict[str, Any], str]:
    """Run ``work(folder)`` unless ``folder`` already holds its finished result for ``config``.

    ``config`` is plain JSON: everything that the result depends on, content keys of the inputs included. It is stored
    in ``stage.json`` before the work starts and with the summary that ``work`` returns when it ends; work that was
    killed in between is called again and picks up what it finds in its folder. The folder of work that failed can be
    taken by another configuration. Of several processes that do one stage together, only the ``main`` one writes
    ``stage.json``. Of several jobs that want one folder at the same time, the first works and the others wait for its
    result. ``instead`` says in a refusal what to choose for the other configuration.

    Returns:
        The summary, and what happened: ``"done"``, ``"resumed"`` or ``"reused"``.
    Raises:
        StoreError: if the folder belongs to another configuration; the message names the keys that differ.
    """
    folder = Path(folder)
    marker = folder / STAGE_FILE
    if not main or (marker.exists() and read_json(marker)["status"] == "finished"):  # read-only folders can be reused
        return _do_stage(folder, config, work, main=main, instead=instead)
    with locked(folder):
        return _do_stage(folder, config, work, main=True, instead=instead)


def other_settings(folder: Path, changed: Sequence[str], instead: str) -> str:
    """The refusal of a folder that was made with other settings: what differs, and what to choose ``instead``."""
    return (
        f"{folder} was made with another configuration: {', '.join(changed)}. Choose {instead}, leave the settings as "
        "they were, or remove this one"
    )


def discard_if_empty(run: Path) -> None:
    """Remove a run folder in which a command made nothing before it failed, so that it is not taken for a run: it holds
    no more than the log, locks, records of failed stages and empty files."""
    for file in (path for path in run.rglob("*") if not path.is_dir()):
        failed = file.name == STAGE_FILE and read_json(file)["status"] == "failed"
        if not (failed or file.name in (LOG_FILE, LOCK_FILE) or file.stat().st_size == 0):
            return
    shutil.rmtree(run, ignore_errors=True)


def _do_stage(
    folder: Path, config: Mapping[str, Any], work: Callable[[Path], dict[str, Any]], *, main: bool, instead: str
) -> tuple[dict[str, Any], str]:
    marker = folder / STAGE_FILE
    config = json.loads(json.dumps(config, default=json_value))
    found = read_json(marker) if marker.exists() else None
    if found is not None and found["config"] != config:
        if found["status"] != "failed":
            raise StoreError(other_settings(folder, differing_keys(found["config"], config), instead))
        found = None
        if main:  # what failed is being mended: the tables of that attempt go; replies and other people's files stay
            for name in TABLES.values():
                for table in folder.rglob(f"{name}.parquet"):
                    table.unlink()
    if found is not None and found["status"] == "finished":
        return found["summary"], "reused"
    how = "done" if found is None else "resumed"
    if not main:
        return work(folder), how
    write_json(marker, {"status": "running", "config": config})
    try:
        summary = work(folder)
    except Exception:
        with suppress(OSError, StoreError):  # a full disk may be what failed
            write_json(marker, {"status": "failed", "config": config})
        raise
    write_json(marker, {"status": "finished", "config": config, "summary": summary})
    return summary, how
