"""Describes a data file by its format and column names, and reports errors with the names of the user's columns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from scramble.formats.bad_rows import FormatError
from scramble.formats.recognise import READABLE, nearest_format, recognise, renamed

LOOK_AHEAD = 20  # number of rows from which the format of a file is detected


@dataclass(frozen=True)
class Layout:
    """Describes the format and the column names of a data file.

    Attributes:
        format: a name in :data:`scramble.formats.recognise.READABLE`; if None, the format is detected from the columns.
        columns: the file's column name for each name that the format expects.
        section: prefix of the configuration keys in error messages, such as ``data.``.
    """

    format: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    section: str = ""

    def renamed(self, row: Any) -> Any:
        """Return the row with its columns renamed to the names that the format expects."""
        return renamed(row, self.columns)

    def reason(self, text: str) -> str:
        """Add the user's column names to a reason, for example ``rejected (column bad) is missing``."""
        if not self.columns:
            return text
        names = "|".join(map(re.escape, self.columns))
        return re.sub(
            rf"\b({names})\b(?! placeholder)",
            lambda match: f"{match[1]} (column {self.columns[match[1]]})",
            text,
        )

    def format_of(self, file: object, rows: Sequence[Any]) -> str:
        """Detect the format of a file from its first rows, or check the format that is set. The columns of ``rows`` are
        not renamed yet.

        Raises FormatError if no row has the needed columns, or if no known format matches. The message lists the file's
        columns.
        """
        rows = [row for row in rows if isinstance(row, Mapping)]
        names = dict.fromkeys(str(name) for row in rows for name in row)
        seen = f"{', '.join(names):.300}" or "none, because its rows are not JSON objects"
        for name, column in self.columns.items():
            if rows and not any(column in row for row in rows):
                raise FormatError(self._no_column(file, rows, name, column, seen))
        rows = [self.renamed(row) for row in rows]
        if self.format is not None:
            row_format = READABLE[self.format]
            if not any(row_format.has_columns(row) for row in rows):
                raise FormatError(
                    f"{self.section}format={self.format} needs {listed(row_format.needs)}, but {file} has the columns "
                    f"{seen}: {self._how(rows, row_format.needs)}, or set {self.section}format=null, which detects the "
                    "format"
                )
            return self.format
        for row in rows:
            with suppress(FormatError):
                return recognise(row)
        needed, text = nearest_format(rows[0] if rows else ())
        how = f": {self._how(rows, (needed,))}" if needed else ""
        raise FormatError(
            f"{file}: the columns ({seen}) match no known format; {text}{how}. "
            f"The known formats are {', '.join(READABLE)}"
        )

    def format_of_row(self, row: Any, usual: str) -> str:
        """Return the format of a row with renamed columns, in a file whose first rows have the format ``usual``.

        If the format is not set and the row has another known format, the result is that format. Otherwise, it is
        ``usual``, whose reader reports what the row lacks.
        """
        if self.format is not None or not isinstance(row, Mapping):
            return usual
        if READABLE[usual].has_columns(row) and READABLE[usual].fits(row):
            return usual
        try:
            return recognise(row)
        except FormatError:
            return usual

    def _no_column(self, file: object, rows: Sequence[Any], name: str, column: str, seen: str) -> str:
        text = f"{self.section}columns.{name}={column}: {file} has no column {column}"
        if any(name in row for row in rows) and any(
            column in needed for one in READABLE.values() for needed in one.needs
        ):
            return (
                f"{text}. The key is the name in the format, and the value is the name in the file: write "
                f"{self.section}columns.{column}={name}"
            )
        return f"{text}: choose one of {seen}"

    def _how(self, rows: Sequence[Any], needs: Sequence[Sequence[str]]) -> str:
        """Return advice on which keys to set so that the rows have all columns of one of the sets in ``needs``.

        If no column is missing, the advice is to change the values.
        """
        present = {name for row in rows for name in row}
        missing = min(([name for name in needed if name not in present] for needed in needs), key=len)
        keys = " ".join(f"{self.section}columns.{name}=<your column>" for name in missing)
        return f"set the names of your columns ({keys})" if missing else "change the values in these columns"


def listed(needs: Sequence[Sequence[str]]) -> str:
    """Return the sets of columns as text. A set that contains another set is left out."""
    smallest = [one for one in needs if not any(set(other) < set(one) for other in needs)]
    texts = [f"{', '.join(one[:-1])} and {one[-1]}" if len(one) > 1 else one[0] for one in smallest]
    columns = "columns" if len(smallest[0]) > 1 else "column"
    return f"the {columns} {texts[0]}" if len(texts) == 1 else f"either the columns {', or '.join(texts)}"
