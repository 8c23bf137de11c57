"""Terminal output: logging handlers, tables, and progress bars (only if standard error is a terminal).

Library code calls ``logging.getLogger(__name__)``; scripts call :func:`log_to_terminal` and :func:`log_to_run` once.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

LOG_FILE = "log.txt"
LONG = "%(asctime)s %(levelname)s %(name)s: %(message)s"
PACKAGE = logging.getLogger("scramble")
log = logging.getLogger(__name__)


class Terminal(logging.Handler):
    """Prints messages to standard output, and warnings with their level to standard error.

    A record of :func:`log_heading` is printed together with the next message.

    ``sys.stdout`` and ``sys.stderr`` are looked up for each record, because tests and notebooks replace them.
    """

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.headings = list[str]()

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "heading", False):
            self.headings.append(self.format(record))
            return
        try:
            if record.levelno < logging.WARNING:
                print(*self.headings, self.format(record), sep="\n", file=sys.stdout, flush=True)
                self.headings.clear()
            else:
                print(f"{record.levelname.lower()}: {self.format(record)}", file=sys.stderr, flush=True)
        except BrokenPipeError:
            # The program that reads the output (head, less) has exited. The run continues; log.txt has the messages.
            stream = sys.stdout if record.levelno < logging.WARNING else sys.stderr
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        except Exception:
            self.handleError(record)


class RunFile(logging.Handler):
    """Appends records with time, level and logger to ``log.txt`` in a run folder.

    Records are buffered until the folder exists, so that a mistyped command does not create a run folder. If the folder
    cannot be written, records are dropped: a finished run may be read-only.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(logging.DEBUG)
        self.folder, self.waiting = folder, list[str]()
        self.setFormatter(logging.Formatter(LONG))

    def emit(self, record: logging.LogRecord) -> None:
        self.waiting.append(self.format(record) + "\n")
        if self.folder.is_dir():
            try:
                # Open the file for each record: jobs of a sweep append to the same file, and the folder may be moved.
                with (self.folder / LOG_FILE).open("a", encoding="utf-8") as file:
                    file.write("".join(self.waiting))
            except OSError:
                pass
            self.waiting.clear()


def log_to_terminal() -> None:
    """Configure the package's logger. In a job with several processes, all but the first print only warnings."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a stream in another encoding shows "?"
    PACKAGE.setLevel(logging.DEBUG)
    for handler in PACKAGE.handlers[:]:
        PACKAGE.removeHandler(handler)
    terminal = Terminal(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)
    PACKAGE.addHandler(terminal)


def log_to_run(folder: str | Path | None) -> None:
    """Write records to ``log.txt`` in this run folder instead of an earlier run's; with None, to no file."""
    for handler in PACKAGE.handlers[:]:
        if isinstance(handler, RunFile):
            PACKAGE.removeHandler(handler)
    if folder is not None and os.environ.get("RANK", "0") == "0":
        PACKAGE.addHandler(RunFile(Path(folder)))


def log_heading(line: str) -> None:
    """Log a line that the terminal shows only before a further message.

    A command that is refused before any work therefore prints only its error.
    """
    log.info(line, extra={"heading": True})


def show(table: Any) -> None:
    """Log a rich table, rendered for the terminal's width (120 columns without a terminal)."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False, color_system=None)
    with console.capture() as captured:
        console.print(table)
    log.info(captured.get().rstrip("\n"))


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Iterate over items with a progress bar, which is shown only on a terminal."""
    from tqdm.auto import tqdm

    return iter(tqdm(items, desc=what, total=total, disable=not sys.stderr.isatty(), leave=False, delay=2))


def counter(what: str) -> Callable[[int, int, float], None]:
    """Return a function of (done, total, seconds) that updates a progress bar, which is shown only on a terminal."""
    from tqdm.auto import tqdm

    bar = tqdm(desc=what, disable=not sys.stderr.isatty(), leave=False, delay=2)

    def update(done: int, total: int, seconds: float) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return update
