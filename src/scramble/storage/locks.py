"""Folders that one job at a time may write, and waiting for what another job writes."""

from __future__ import annotations

import fcntl
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from scramble.storage.files import StoreError

log = logging.getLogger(__name__)

LOCK_FILE = ".lock"


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Hold ``folder`` against other jobs within the block; wait while one has it. A killed job's hold ends with it.

    Raises StoreError if the folder cannot be written. On a file system without locks the block runs unprotected, with
    a warning.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / LOCK_FILE).open("w")
    except OSError as error:
        raise StoreError(f"cannot write {folder}: {error.strerror or error}") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            log.warning(f"{folder} cannot be locked ({error.strerror}): start one job on it at a time")
        yield


def wait_for(path: str | Path, ready: Callable[[], bool], seconds: float = 24 * 3600) -> None:
    """Wait until ``ready()``: for what another process of the same job makes. Raises StoreError after ``seconds``."""
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise StoreError(f"{path} was not made within {seconds:.0f} s by the first process: see its messages")
        time.sleep(0.5)
