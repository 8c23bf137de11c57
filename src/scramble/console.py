"""Provides tables, progress bars, and logging handlers for the terminal and for ``log.txt``.

Library code logs through ``logging.getLogger(__name__)``. Scripts call :func:`log_to_terminal` and :func:`log_to_run`
once. Progress bars are shown only if standard error is a terminal. Otherwise, progress is logged every
:data:`PROGRESS_SECONDS` seconds.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

LOG_FILE = "log.txt"
PROGRESS_SECONDS = 30.0
"""Without a terminal, progress is logged every this many seconds."""
LONG = "%(asctime)s %(levelname)s %(name)s: %(message)s"
PACKAGE = logging.getLogger("scramble")
log = logging.getLogger(__name__)


def counted(count: int, plural: str) -> str:
    """Return a number with its noun: ``1 item``, ``1,037 items``."""
    return f"{count:,} {plural.removesuffix('s') if count == 1 else plural}"


class Terminal(logging.Handler):
    """Prints warnings and errors to standard error, prefixed with their level, and all other messages to standard
    output.

    A heading (:func:`log_heading`) is printed together with the next message on standard output.

    ``sys.stdout`` and ``sys.stderr`` are looked up for each record, because tests and notebooks replace them.
    """

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.headings = list[str]()

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "heading", False):
            self.headings.append(self.format(record))
            return
        is_warning = record.levelno >= logging.WARNING
        stream = sys.stderr if is_warning else sys.stdout
        try:
            if is_warning:
                print(f"{record.levelname.lower()}: {self.format(record)}", file=stream, flush=True)
            else:
                print(*self.headings, self.format(record), sep="\n", file=stream, flush=True)
                self.headings.clear()
        except BrokenPipeError:
            # The program that reads the output (head, less) has exited. The run continues, and log.txt contains the
            # messages.
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        except Exception:
            self.handleError(record)


class RunFile(logging.Handler):
    """Appends records with their time, level and logger name to ``log.txt`` in a run folder.

    Records are buffered until the folder exists, so that a mistyped command does not create a run folder. Records are
    dropped if ``log.txt`` is not writable, because the folder of a finished run may be read-only.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(logging.DEBUG)
        self.folder, self.waiting = folder, list[str]()
        self.setFormatter(logging.Formatter(LONG))

    def emit(self, record: logging.LogRecord) -> None:
        self.waiting.append(self.format(record) + "\n")
        if self.folder.is_dir():
            try:
                # Open the file for each record, because jobs of a sweep append to the same file and the folder may be
                # moved.
                with (self.folder / LOG_FILE).open("a", encoding="utf-8") as file:
                    file.write("".join(self.waiting))
            except OSError:
                pass
            self.waiting.clear()


def log_to_terminal() -> None:
    """Configure the package's logger to print to the terminal.

    In a job with several processes, only the first process prints messages that are not warnings or errors.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # print "?" for characters that the stream cannot encode
    PACKAGE.setLevel(logging.DEBUG)
    for handler in PACKAGE.handlers[:]:
        PACKAGE.removeHandler(handler)
    terminal = Terminal(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)
    PACKAGE.addHandler(terminal)


def log_to_run(folder: str | Path | None) -> None:
    """Write records to ``log.txt`` in ``folder``, and stop writing to the file of an earlier run.

    If ``folder`` is None, records are not written to a file.
    """
    for handler in PACKAGE.handlers[:]:
        if isinstance(handler, RunFile):
            PACKAGE.removeHandler(handler)
    if folder is not None and os.environ.get("RANK", "0") == "0":
        PACKAGE.addHandler(RunFile(Path(folder)))


def log_heading(line: str) -> None:
    """Log a line that the terminal shows only if another message follows.

    A command that fails before it starts any work therefore prints only its error.
    """
    log.info(line, extra={"heading": True})


def show_table(table: Any) -> None:
    """Log a rich table, rendered for the terminal's width (120 columns without a terminal).

    A table that is too wide is printed without padding. If the table is still too wide, words in its headings and row
    names are split.
    """
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False, color_system=None)
    if _width(table).maximum > console.width:
        _fit(table, console.width)
    with console.capture() as captured:
        console.print(table)
    log.info(captured.get().rstrip("\n"))


def _fit(table: Any, width: int) -> None:
    """Set the widths of the columns so that lines break only at spaces, if the columns' minimum widths fit.

    Columns that need the least additional width get it first, so that numbers are not split. Rich itself would reduce
    the widest columns first, even below their minimum widths.
    """
    if _width(table).minimum > width:
        table.padding = (0, 0)
    free = width - _width(table).minimum
    if free < 0:
        for column in table.columns:
            column.min_width = None
        return
    longest = [max((_width(cell).maximum for cell in column.cells), default=0) for column in table.columns]
    missing = [max(0, most - (column.min_width or 0)) for column, most in zip(table.columns, longest, strict=True)]
    order = sorted(range(len(missing)), key=missing.__getitem__)
    for place, number in enumerate(order):
        more = min(missing[number], free // (len(order) - place))
        table.columns[number].width = (table.columns[number].min_width or 0) + more
        free -= more


def _width(renderable: Any) -> Any:
    """Return a ``rich.measure.Measurement`` with the ``minimum`` and ``maximum`` width of a rich object."""
    from rich.console import Console

    return Console(width=1000).measure(renderable)


def track(items: Iterable[T], what: str) -> Iterator[T]:
    """Iterate over items with a progress bar, or with log lines if there is no terminal."""
    if not sys.stderr.isatty():
        return _with_lines(items, what)
    from tqdm.auto import tqdm

    return iter(tqdm(items, desc=what, leave=False, delay=2))


def _with_lines(items: Iterable[T], what: str) -> Iterator[T]:
    update, total = _progress_lines(what), len(items) if isinstance(items, Sized) else None
    for done, item in enumerate(items):
        update(done, total)
        yield item


def counter(what: str) -> Callable[[int, int], None]:
    """Return a function that updates a progress bar from (done, total).

    Without a terminal, the function logs a line every :data:`PROGRESS_SECONDS` seconds instead.
    """
    if not sys.stderr.isatty():
        return _progress_lines(what)
    from tqdm.auto import tqdm

    bar = tqdm(desc=what, leave=False, delay=2)

    def update(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return update


def _progress_lines(what: str) -> Callable[[int, int | None], None]:
    """Return a function that logs (done, total) every :data:`PROGRESS_SECONDS` seconds."""
    start = last = time.monotonic()

    def update(done: int, total: int | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PROGRESS_SECONDS:
            last = now
            of_total = "" if total is None else f" of {total:,}"
            log.info(f"{what}: {done:,}{of_total} done after {now - start:,.0f} s")

    return update
