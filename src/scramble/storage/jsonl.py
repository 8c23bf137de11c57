"""Appends rows to JSON lines files, and reads these files. Error messages about rows contain line numbers."""

from __future__ import annotations

import codecs
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from scramble.storage.files import BLANK, BYTE_ORDER_MARKS, StoreError, decode_text, writing

_DECODER = json.JSONDecoder(strict=False)


class JsonLines:
    """Appends rows to a JSONL file and writes each row to disk immediately. Use an instance as a context manager.

    Opening the file removes an incomplete last line, which a killed process may have left.

    Args:
        path: the file; its folder is created.
        sync: whether to wait until the rows are on disk, so that a crash of the machine loses no rows. Waiting takes
            milliseconds per call. Choose False for rows that are written again after an interruption.
    """

    def __init__(self, path: str | Path, sync: bool = True) -> None:
        self.path = Path(path)
        self._sync = sync
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._remove_incomplete_line()
            self._file = self.path.open("a", encoding="utf-8")

    def _remove_incomplete_line(self) -> None:
        if not self.path.exists():
            return
        data = self.path.read_bytes()
        if data and not data.endswith(b"\n"):
            with self.path.open("r+b") as file:
                file.truncate(data.rfind(b"\n") + 1)

    def append(self, row: Mapping[str, Any]) -> None:
        """Append one row to the file. Raises StoreError if the row cannot be written; earlier rows are kept."""
        self.extend([row])

    def extend(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append several rows to the file. Raises StoreError if the rows cannot be written; earlier rows are kept."""
        with writing(self.path):
            self._file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
            self._file.flush()
            if self._sync:
                os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_jsonl(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSONL file. An incomplete last line is skipped. A missing file counts as empty.

    Raises StoreError if the file cannot be read or a line is not a JSON object; the message names the line.
    """
    path = Path(path)
    if not path.exists():
        return
    for number, line in json_lines(path):
        try:
            values = json_values(line)
        except ValueError as error:
            if not line.endswith(b"\n"):
                return
            raise StoreError(f"{path}, line {number}: the line is not JSON ({error}): correct or remove it") from error
        if not all(isinstance(value, dict) for value in values):
            raise StoreError(
                f"{path}, line {number}: the line must be a JSON object, not {line[:60]!r}: correct or remove it"
            )
        yield from values


def json_lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """Yield the number (from 1) and the bytes of each non-blank line of a JSONL file.

    Only line feeds end lines, because U+2028, U+0085 and carriage returns can be part of a row's text. A file with the
    byte-order mark of UTF-16 or UTF-32, which Windows shells write, is decoded as a whole.

    Raises StoreError if the file cannot be read.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(4)
            file.seek(0)
            is_wide = any(head.startswith(mark) and name != "utf-8-sig" for mark, name in BYTE_ORDER_MARKS.items())
            lines = io.BytesIO(decode_text(file.read()).encode()) if is_wide else file
            yield from ((number, line) for number, line in enumerate(lines, 1) if line.strip(BLANK))
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {path}: {error}") from error


def json_values(line: bytes) -> list[Any]:
    """Return the JSON values on a line. Several values must be separated by carriage returns (old line ends).

    A leading byte-order mark and raw control characters in strings are accepted. Raises ValueError if the line
    contains anything else.
    """
    try:
        text = line.removeprefix(codecs.BOM_UTF8).decode("utf-8").strip(" \t\r\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start + 1} is not valid UTF-8: save the file as UTF-8") from error
    values: list[Any] = []
    end = 0
    try:
        while end < len(text):
            value, stop = _DECODER.raw_decode(text, end)
            values.append(value)
            end = stop
            while text[end : end + 1] in (" ", "\t", "\r"):
                end += 1
            if end < len(text) and "\r" not in text[stop:end]:
                raise ValueError(f"unexpected text after column {stop}")
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return values
