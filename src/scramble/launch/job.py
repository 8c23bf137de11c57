"""Runs a launched job: reads its resolved configuration and records its status."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scramble.interrupt import EXIT_STOPPED
from scramble.launch.points import STATUS_FILE
from scramble.pipeline import is_main_process
from scramble.storage.files import read_json, write_json


def run_resolved(main: Callable[..., Any], file: str | Path) -> None:
    """Call a script's main with a resolved configuration, and record the status next to the configuration file."""
    from omegaconf import OmegaConf

    with recorded_status(Path(file).parent):
        main(OmegaConf.load(file))


@contextmanager
def recorded_status(folder: Path) -> Iterator[None]:
    """Record the job's status in ``status.json``.

    The status is ``running`` while the ``with`` block runs, and then ``finished``, ``stopped`` or ``failed``.
    """
    if not is_main_process():
        yield
        return
    file = folder / STATUS_FILE
    previous = read_json(file) if file.exists() else {}
    record = {
        "status": "running",
        "attempt": previous.get("attempt", 0) + 1,
        "host": socket.gethostname(),
        "process": os.getpid(),
        "started": time.time(),
    }
    if "job" in previous:
        record["job"] = previous["job"]
    write_json(file, record)
    outcome: dict[str, Any] = {"status": "failed"}
    try:
        yield
        outcome = {"status": "finished"}
    except SystemExit as end:
        if end.code is None or end.code == 0:
            outcome = {"status": "finished"}
        elif end.code == EXIT_STOPPED:
            outcome = {"status": "stopped"}
        else:
            outcome["error"] = str(end.code)
        raise
    except BaseException as error:
        outcome["error"] = f"{type(error).__name__}: {error}"
        raise
    finally:
        write_json(file, {**record, **outcome, "ended": time.time()})
