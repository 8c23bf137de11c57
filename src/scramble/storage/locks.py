"""Locks folders to which only one job at a time may write, and waits for files that another process creates."""

from __future__ import annotations

import fcntl
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from scramble.storage.files import StoreError, writing

log = logging.getLogger(__name__)

LOCK_FILE = ".lock"


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Within the block, hold a lock on ``folder``. If another job holds the lock, wait until it is released.

    The operating system releases the lock of a killed job. Raises StoreError if the folder cannot be written. On a file
    system without locks, a warning is logged and the block runs without protection.
    """
    folder = Path(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / LOCK_FILE).open("w")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            log.warning(f"{folder} cannot be locked ({error.strerror}): run only one job at a time on this folder")
        yield


def is_locked(folder: str | Path) -> bool | None:
    """Return whether a job holds the lock on ``folder``, or None if this cannot be determined.

    The function does not wait. It briefly holds a shared lock, which does not require a writable lock file.
    """
    try:
        with (Path(folder) / LOCK_FILE).open("r") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no lock file, or a file system without locks
        return None
    return False


def wait_for(path: str | Path, ready: Callable[[], bool], seconds: float = 24 * 3600) -> None:
    """Wait until ``ready()`` is true, while another process creates ``path``. Raises StoreError after ``seconds``."""
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise StoreError(
                f"the first process did not create {path} within {seconds:.0f} s: see the messages of that process"
            )
        time.sleep(0.5)
