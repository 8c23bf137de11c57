"""Reads WebDataset shards: tar files in which the files of a row have the same name up to the first dot.

The ``datasets`` library is not used here, because its rows have only the fields of the first row of the first shard.
"""

from __future__ import annotations

import json
import logging
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from scramble.formats.bad_rows import SourceError
from scramble.formats.checks import PHOTO_SUFFIXES
from scramble.formats.hf_tables import typed_message
from scramble.sources.columns import usual_column, value_at

log = logging.getLogger(__name__)

KEY = "__key__"  # the column that contains the common name of a row's files

_FIRST_ROWS = 5  # number of rows per shard whose fields become columns
_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)")


class Shards:
    """Provides the rows of WebDataset shards. Rows may have different fields.

    The columns ``image`` and ``caption`` are computed for each row: they contain the field of the row, or the value
    in its field ``json``, that has a usual name (:func:`scramble.sources.columns.usual_column`).
    """

    def __init__(self, path: str | Path, files: Sequence[Path]) -> None:
        self._files = files
        fields: dict[str, None] = {}
        usual: dict[str, dict[str, None]] = {"image": {}, "caption": {}}
        for file in files:
            for row in islice(_rows(file), _FIRST_ROWS):
                fields |= dict.fromkeys(row)
                for column, selected in usual.items():
                    try:
                        name = _usual(file, row, column)
                    except SourceError:  # several fields have usual names; rows() raises unless one is configured
                        name = column
                    if name is not None:
                        selected[name] = None
        self.columns = list(fields | {column: None for column, selected in usual.items() if selected})
        if all(usual.values()):
            images, captions = (" or ".join(selected) for selected in usual.values())
            log.info(f"data: {path}: the shards contain the images in {images} and the captions in {captions}")

    def rows(self, columns: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the number (from 1) and the columns of each row. A field that the row does not have is None.

        Raises SourceError if a shard cannot be read, or if several fields of a row could be the image or the caption.
        """
        number = 0
        for file in self._files:
            for row in _rows(file):
                number += 1
                yield number, {column: _value(file, row, column) for column in columns}


class _Row(Mapping[str, Any]):
    """Maps the names of a row's fields to their values, which are read from the shard on access."""

    def __init__(self, file: Path, tar: tarfile.TarFile, key: str) -> None:
        self._file, self._tar, self._key = file, tar, key
        self.members: dict[str, tarfile.TarInfo] = {}

    def __iter__(self) -> Iterator[str]:
        return iter((*self.members, KEY))

    def __len__(self) -> int:
        return len(self.members) + 1

    def __contains__(self, field: object) -> bool:
        return field == KEY or field in self.members

    def __getitem__(self, field: str) -> Any:
        if field == KEY:
            return self._key
        member = self.members[field]
        with _reading(self._file):
            content = self._tar.extractfile(member)
            data = content.read() if content is not None else b""
        suffix = f".{field.rpartition('.')[2]}".lower()
        if suffix in PHOTO_SUFFIXES:
            return {"bytes": data, "path": member.name}
        try:
            text = data.decode("utf-8-sig")
            return json.loads(text) if suffix == ".json" else text
        except (ValueError, RecursionError):
            return data


def _rows(file: Path) -> Iterator[_Row]:
    with _reading(file):
        tar = tarfile.open(file, "r:")  # noqa: SIM115 - only errors of opening and reading become a SourceError
    with tar:
        key, row = None, None
        members = iter(tar)
        while True:
            with _reading(file):
                member = next(members, None)
            if member is None:
                break
            match = _NAME.fullmatch(member.name) if member.isfile() else None
            if match is None:
                continue
            if row is None or match[1] != key:
                if row is not None:
                    yield row
                key, row = match[1], _Row(file, tar, match[1])
            row.members[match[2]] = member
        if row is not None:
            yield row


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, OSError, EOFError) as error:
        raise SourceError(
            f"{file} cannot be read completely ({typed_message(error)}): copy or download it again"
        ) from error


def _usual(file: Path, row: _Row, column: str) -> str | None:
    return usual_column(file, list(row), column, lambda field: iter([row[field]]))


def _value(file: Path, row: _Row, column: str) -> Any:
    if column in ("image", "caption") and column not in row:
        name = _usual(file, row, column)
        return None if name is None else value_at(row, name)
    return row.get(column)
