"""Handles the signals that ask a job to stop: SIGINT (Ctrl-C), SIGTERM, and batch systems' SIGUSR1 and SIGUSR2.

Within :func:`deferred`, a signal is only recorded, and the trainer saves and stops after the current step. A second
Ctrl-C ends the job without saving. Everywhere else, the first signal ends the job immediately; finished work is already
on disk. The last line of the output says where the same command will resume. The exit status is :data:`EXIT_STOPPED`
(:data:`EXIT_AT_ONCE` after a second Ctrl-C), which a batch script can distinguish from success and failure.
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
"""Exit status of a job that was stopped by a signal: EX_TEMPFAIL of sysexits.h."""
EXIT_AT_ONCE = 130
"""Exit status after a second Ctrl-C: 128 + SIGINT, as in shells."""

MessageFunction = Callable[[], str]


class Stopped(KeyboardInterrupt):
    """Raised when a signal requests a stop.

    The class is not a subclass of Exception, so that ``except Exception`` does not catch it.
    """

    def __init__(self, message: str, status: int = EXIT_STOPPED) -> None:
        super().__init__(message)
        self.status = status


_stop_signal: str | None = None
_loss: MessageFunction | None = None  # within deferred(): returns a text that says what a second Ctrl-C loses
_resume: MessageFunction | None = (
    None  # within resumable(): returns a text that says where the same command will resume
)


def listen() -> None:
    """Install the signal handlers. Outside the main thread, do nothing, because only the main thread receives signals.

    If SIGINT is already ignored, it remains ignored. Shells without job control ignore SIGINT in background jobs, so
    that a Ctrl-C for another program does not end these jobs.
    """
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _on_signal)


def ignore_interrupt() -> None:
    """Ignore Ctrl-C in a worker process, because a terminal sends it to all processes and the parent ends its
    workers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def ignore_stop_signals() -> None:
    """Ignore stop signals in a worker process that the parent still needs.

    A batch system sends its signals to all processes of a job, but the parent finishes its step and saves before it
    ends its workers. The first SIGTERM is ignored. The second SIGTERM ends the worker, because the parent sends SIGTERM
    to a worker that does not exit.
    """
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(number, signal.SIG_DFL))


@contextmanager
def deferred(loss: MessageFunction = lambda: "work since the last checkpoint is lost") -> Iterator[None]:
    """Within the block, only record a stop signal. The text that ``loss`` returns says what a second Ctrl-C loses."""
    global _stop_signal, _loss
    _stop_signal, _loss = None, loss
    try:
        yield
    finally:
        _loss = None


@contextmanager
def resumable(message: MessageFunction) -> Iterator[None]:
    """If a signal ends the job within the block, report ``message``, which says where the same command will resume."""
    global _resume
    previous, _resume = _resume, message
    try:
        yield
    finally:
        _resume = previous


def stop_signal() -> str | None:
    """Return the name of the signal that was recorded within :func:`deferred`, or None."""
    return _stop_signal


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _stop_signal
    name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    if _loss is None:
        how = _resume() if _resume else "the same command reuses finished work and repeats the rest"
        raise Stopped(f"stopped by {name}; {how}")
    if _stop_signal is None:
        _stop_signal = name
        if number == signal.SIGINT:
            text = (
                "the run saves a checkpoint and stops after the current step. "
                f"A second Ctrl-C stops it immediately: {_loss()}"
            )
            os.write(2, f"\n{text}\n".encode())  # not print, which the signal may have interrupted
    elif number == signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a third Ctrl-C ends even a process that hangs
        raise Stopped(f"stopped immediately by a second Ctrl-C: {_loss()}", EXIT_AT_ONCE)
    # Any other repeated signal is ignored, because SLURM repeats its signals.
