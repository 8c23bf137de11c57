"""Collects the rows of a benchmark's file that cannot be used. The error or warning states their number and the first
reasons."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from scramble.evaluation.items import EvaluationError
from scramble.formats.bad_rows import BadRows

log = logging.getLogger(__name__)
SHOWN = 3


class RejectedRows(BadRows):
    """The rejected rows of one benchmark's file. Nothing is written; :meth:`finish` reports them."""

    def __init__(self, name: str, file: object) -> None:
        super().__init__()
        self.name, self.source = name, str(file)

    @contextmanager
    def row(self, row: int | str) -> Iterator[None]:
        """Reject the row if the block raises EvaluationError."""
        try:
            yield
        except EvaluationError as error:
            self.reject(self.source, row, str(error).removeprefix(f"{self.name}: "))

    def finish(self, usable: int, partial: bool) -> None:
        """Raise EvaluationError if a row was rejected. With ``partial``, warn instead, unless no row is usable."""
        if not self.rejected:
            return
        reasons = [" ".join(reason.split())[:140] for reason in list(self.reasons)[:SHOWN]]
        total = usable + self.rejected
        summary = f"{self.name}: {self.rejected} of {total} rows of {self.source} cannot be used: {'; '.join(reasons)}"
        if not partial or not usable:
            fix = "" if partial else f", or set benchmark.{self.name}.partial=true to skip them"
            raise EvaluationError(f"{summary}; correct the file{fix}")
        log.warning(f"{summary}; they are skipped")
