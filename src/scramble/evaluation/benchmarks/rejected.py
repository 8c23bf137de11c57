"""Collect the rows of a benchmark's file that cannot be used. The error or warning states the number of these rows and
the first reasons.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from scramble.evaluation.items import EvaluationError, Item
from scramble.formats.bad_rows import BadRows

log = logging.getLogger(__name__)
SHOWN = 3
Row = TypeVar("Row")
Key = TypeVar("Key", int, str)


class RejectedRows(BadRows):
    """The rejected rows of one benchmark's file. :meth:`finish` reports the rows, and no file is written."""

    def __init__(self, name: str, file: object) -> None:
        super().__init__()
        self.name, self.source = name, str(file)

    @contextmanager
    def row(self, row: int | str) -> Iterator[None]:
        """Reject the row if the ``with`` block raises EvaluationError."""
        try:
            yield
        except EvaluationError as error:
            self.reject(self.source, row, str(error).removeprefix(f"{self.name}: "))

    def finish(self, usable: int, partial: bool) -> None:
        """Raise EvaluationError if a row was rejected. With ``partial``, log a warning instead, unless no row is
        usable.
        """
        if not self.rejected:
            return
        reasons = [" ".join(reason.split())[:140] for reason in list(self.reasons)[:SHOWN]]
        total = usable + self.rejected
        summary = f"{self.name}: {self.rejected} of {total} rows of {self.source} cannot be used: {'; '.join(reasons)}"
        if not partial or not usable:
            fix = "" if partial else f", or set benchmark.{self.name}.partial=true to skip these rows"
            raise EvaluationError(f"{summary}. Correct the file{fix}")
        log.warning(f"{summary}. These rows are skipped")


def read_items(
    name: str, file: object, rows: Iterable[tuple[Key, Row]], item: Callable[[Key, Row], Item], partial: bool
) -> list[Item]:
    """Return the items of a file's rows. One message reports all rows for which ``item`` raises EvaluationError.

    Args:
        rows: pairs of the number or key of a row and the row itself, for example from ``enumerate``.
        partial: whether to skip rejected rows (:meth:`RejectedRows.finish`).
    """
    bad, items = RejectedRows(name, file), []
    for key, row in rows:
        with bad.row(key):
            items.append(item(key, row))
    bad.finish(len(items), partial)
    return items
