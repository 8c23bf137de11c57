"""Signals that ask a job to save and end: SIGTERM, and what batch systems send before a limit or a preemption.

Outside training everything finished is on disk already, so the job ends at once; inside :func:`deferred` the request
is noted and the trainer saves after the step it is in. Either way the process ends with :data:`EXIT_STOPPED`, which a
batch script can tell from success and failure: the same command goes on from there.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
EXIT_STOPPED = 75
"""Exit status of a job that was asked to stop: sysexits' EX_TEMPFAIL."""


class Stopped(KeyboardInterrupt):
    """The job was asked to stop; what is done is saved. Not an error, so that no handler of errors takes it."""


_asked: str | None = None
_deferred = False


def listen() -> None:
    """From now on the signals ask this process to stop. Only the main thread can receive signals: none elsewhere."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, _on_signal)


@contextmanager
def deferred() -> Iterator[None]:
    """Within the block a request is only noted, see :func:`asked`."""
    global _deferred, _asked
    _deferred, _asked = True, None
    try:
        yield
    finally:
        _deferred = False


def asked() -> str | None:
    """Name of the signal that asked a deferring job to stop, None if none has."""
    return _asked


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _asked
    if _asked is not None:  # SLURM repeats itself
        return
    name = signal.Signals(number).name
    if not _deferred:
        raise Stopped(f"stopped by {name}")
    _asked = name
