"""What stages say on the terminal: lines, progress bars and tables; bars only where a person watches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")


def console() -> Console:
    """The terminal: 120 columns where there is none, so that logs do not wrap."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 120, highlight=False)


def say(line: str) -> None:
    """Print one line (no markup: captions and paths may hold brackets)."""
    print(line, flush=True)


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Pass items through with a progress bar on a terminal, silently elsewhere."""
    from tqdm.auto import tqdm

    return iter(tqdm(items, desc=what, total=total, disable=not sys.stderr.isatty(), leave=False, delay=2))


def counter(what: str) -> Callable[[int, int, float], None]:
    """A progress bar that is told (done, total, seconds); silent where no person watches."""
    from tqdm.auto import tqdm

    bar = tqdm(desc=what, disable=not sys.stderr.isatty(), leave=False, delay=2)

    def update(done: int, total: int, seconds: float) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return update
