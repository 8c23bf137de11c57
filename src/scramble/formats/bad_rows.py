"""Records rejected input rows with the reasons, and raises an error if too many rows are rejected."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from types import TracebackType

from scramble.console import counted
from scramble.storage.files import writing

_SHOWN = 8  # number of reasons that a message lists

_CAPTION_FAULT = re.compile("(row without|empty) caption|caption is .*")


class SourceError(ValueError):
    """Raised if input data cannot be read. Line breaks in the message are replaced by spaces."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))  # quoted content can contain line breaks


class FormatError(SourceError):
    """Raised if a file or a row does not have the expected format."""


class BadRow(Exception):
    """Raised for a row that cannot be used. ``kind`` and ``detail`` are arguments of :meth:`BadRows.reject`."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(kind)
        self.kind, self.detail = kind, detail


class BadRows:
    """Records the rejected rows of one input (file, row, reason) in the JSONL file ``path``, and counts the used rows.

    An input is always read from its start, so an existing file at ``path`` is replaced. Without a path, the rejected
    rows are only counted. Use the object as a context manager, or call :meth:`close`.

    Attributes:
        images_key, caption_key: configuration keys of the image folder and the caption column, for the advice in
            error messages. The reader of the input sets the keys that it supports.
    """

    def __init__(self, path: str | Path | None = None, max_fraction: float = 0.05) -> None:
        self.path = None if path is None else Path(path)
        self.max_fraction = max_fraction
        self.used = 0
        self.reasons: Counter[str] = Counter()
        self.first = ""
        self.images_key = self.caption_key = ""
        self._file = None
        if self.path is not None:
            with writing(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("w", encoding="utf-8")

    @property
    def rejected(self) -> int:
        """The number of rejected rows."""
        return self.reasons.total()

    @property
    def counts(self) -> str:
        """The most frequent reasons for rejection with their counts, as text."""
        shown = [f"{count} x {kind}" for kind, count in self.reasons.most_common(_SHOWN)]
        more = len(self.reasons) - len(shown)
        return ", ".join([*shown, *([counted(more, "other reasons")] if more else [])])

    def use(self, rows: int = 1) -> None:
        """Count used rows."""
        self.used += rows

    def reject(self, file: str | Path, row: int | str, kind: str, detail: str = "", rows: int = 1) -> None:
        """Record one rejected row, or ``rows`` rows with a common fault (for example, the captions of a missing image).

        Args:
            file: the file that contains the row.
            row: the row's number (from 1) or key.
            kind: the reason in a few words; rows with the same reason are counted together.
            detail: the exact fault, which is added to the reason in the file and in the error message.
        """
        self.reasons[kind] += rows
        reason = f"{kind}: {detail}" if detail else kind
        self.first = self.first or f"{file}, row {row}: {' '.join(reason.split())[:300]}".rstrip(
            "."
        )  # for the error message
        if self._file is not None:
            self._file.write(json.dumps({"file": str(file), "row": row, "reason": reason}, ensure_ascii=False) + "\n")
            self._file.flush()

    def check(self, source: str | Path) -> None:
        """Check the counts at the end of the input.

        Raises SourceError if no row is usable or too many rows were rejected.
        """
        total = self.used + self.rejected
        listed = f" {self.path} lists all errors." if self.path and self.rejected > 1 else ""
        if total == 0:
            raise SourceError(f"{source}: the data set is empty: choose a data set with rows")
        counts = self.counts
        if self.used == 0 and total == 1:
            raise SourceError(f"{source}: the only row cannot be used. The error is: {self.first}. {self._fix()}")
        if self.used == 0:
            several = f" ({counts})" if len(self.reasons) > 1 else ""
            raise SourceError(
                f"{source}: none of the {total} rows can be used{several}. The first error is: {self.first}.{listed} "
                f"{self._fix()}"
            )
        if self.rejected > self.max_fraction * total:
            raise SourceError(
                f"{source}: {self.rejected} of {total} rows cannot be used ({counts}), which is more than the allowed "
                f"fraction {self.max_fraction:g}. The first error is: {self.first}.{listed} Fix the rows, or raise "
                "data.max_rejected"
            )

    def _fix(self) -> str:
        """Return advice on how to fix an input without a usable row.

        If a configuration key would probably fix most of the rows, the advice names this key.
        """
        images = self.reasons["missing image"]
        captions = Counter({kind: rows for kind, rows in self.reasons.items() if _CAPTION_FAULT.fullmatch(kind)})
        if self.images_key and images > self.rejected / 2:
            return f"Set {self.images_key} to the folder that the image paths are relative to"
        if self.caption_key and captions.total() > self.rejected / 2:
            key = ", or to a key in a column of dictionaries (column.key)" if "dict" in " ".join(captions) else ""
            return f"Set {self.caption_key} to the column with the captions{key}"
        return "Fix the row" if self.rejected == 1 else "Fix the rows"

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> BadRows:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
