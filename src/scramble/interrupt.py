"""Signals that ask a job to save and end: Ctrl-C (SIGINT), SIGTERM, and what batch systems send before a limit.

Inside :func:`deferred` a request is noted and the trainer saves after the step it is in. Anywhere else the job ends at
once: what is finished is on disk. The process ends with :data:`EXIT_STOPPED`, which a batch script can distinguish from
success and failure, and its last line says where the same command starts from. A second Ctrl-C ends a job that is
saving at once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
EXIT_STOPPED = 75
"""Exit status of a job that was asked to stop: sysexits' EX_TEMPFAIL."""
EXIT_AT_ONCE = 130
"""Exit status after a second Ctrl-C, as the shell has it: 128 + SIGINT."""

Words = Callable[[], str]


class Stopped(KeyboardInterrupt):
    """The job was asked to stop. Not an error, so that no handler of errors takes it. The message is a whole line."""

    def __init__(self, message: str, status: int = EXIT_STOPPED) -> None:
        super().__init__(message)
        self.status = status


def _start_over() -> str:
    return "the same command reuses what is finished and starts the rest over"


_asked: str | None = None
_lost: Words | None = None  # within deferred(): what a second Ctrl-C would lose
_kept: Words = _start_over


def listen() -> None:
    """From now on the signals ask this process to stop. Only the main thread can receive signals: none elsewhere.

    A SIGINT that is ignored stays so: a shell without job control starts its background jobs like that, so that a
    Ctrl-C meant for another program does not reach them.
    """
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _on_signal)


def leave_to_parent() -> None:
    """In a worker process: Ctrl-C reaches all processes of a terminal, and the parent ends its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def outlast_signals() -> None:
    """In a worker process that the parent still needs after a signal to the whole job: a batch system sends its signals
    to all processes, and the parent saves before it ends its workers.

    The first SIGTERM is passed over, the second ends the worker: the parent's own way to end one that does not return.
    """
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(number, signal.SIG_DFL))


@contextmanager
def deferred(lost: Words = lambda: "what was done since the last checkpoint is lost") -> Iterator[None]:
    """Within the block a request is only noted, see :func:`asked`; ``lost`` says what a second Ctrl-C costs."""
    global _asked, _lost
    _asked, _lost = None, lost
    try:
        yield
    finally:
        _lost = None


@contextmanager
def keeping(words: Words) -> Iterator[None]:
    """Within the block a job that is stopped ends with these words, which say where the same command starts from."""
    global _kept
    before, _kept = _kept, words
    try:
        yield
    finally:
        _kept = before


def asked() -> str | None:
    """Name of the signal that asked a deferring job to stop, None if none has."""
    return _asked


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _asked
    name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    if _lost is None:
        raise Stopped(f"stopped by {name}; {_kept()}")
    if _asked is None:
        _asked = name
        if number == signal.SIGINT:
            _write(f"\nstopping after this step, to save; a second Ctrl-C ends at once: {_lost()}\n")
    elif number == signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a third one ends even a process that hangs
        raise Stopped(f"stopped at once by a second Ctrl-C: {_lost()}", EXIT_AT_ONCE)
    # Any other repeated signal changes nothing: SLURM repeats itself.


def _write(text: str) -> None:
    """Write to standard error from a signal handler, where a buffered write could meet another one half done."""
    os.write(2, text.encode())
