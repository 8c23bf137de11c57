"""Opens preference data as files of rows: a file, a folder, a pattern of files, or a data set on the hub."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scramble.formats import mmpr
from scramble.formats.bad_rows import BadRows, SourceError
from scramble.formats.checks import exists
from scramble.formats.dataset_info import INFO, DataSetEntry, find_info, read_entry
from scramble.formats.files import ROW_FILES, read_rows
from scramble.formats.provenance import FormatError
from scramble.sources.hf import HubTable
from scramble.sources.tables import LocalTable, files_of_split, open_local, parquet_files

ARROW = (".arrow", ".feather")


@dataclass(frozen=True)
class RowFile:
    """A file of rows, or a data set on the hub.

    Attributes:
        path: the file; None for a data set on the hub.
        hub: the data set on the hub.
    """

    path: Path | None = None
    hub: HubTable | None = None

    def __str__(self) -> str:
        return str(self.path if self.hub is None else self.hub.path)

    @property
    def folder(self) -> Path | None:
        """The folder that image paths are relative to."""
        return None if self.path is None else self.path.parent

    def rows(self, bad: BadRows) -> Iterator[tuple[int, Any]]:
        """Yield the number (from 1) and content of each row. ``bad`` collects the rows that cannot be read.

        Raises SourceError if the file cannot be read.
        """
        if self.hub is not None:
            yield from self.hub.rows(self.hub.columns)
        elif self.path is not None and self.path.suffix.lower() in (*ARROW, ".parquet"):
            table = LocalTable(self.path, [self.path])
            yield from table.rows(table.columns)
        elif self.path is not None:
            try:
                yield from read_rows(self.path, bad.reject)
            except FormatError as error:
                raise SourceError(str(error)) from error


@dataclass(frozen=True)
class OpenedRows:
    """The files of a data set, and the entry of LLaMA-Factory's ``dataset_info.json`` that describes them, if any."""

    files: list[RowFile]
    entry: DataSetEntry | None = None


def open_rows(path: str, *, name: str | None = None, split: str = "train", revision: str | None = None) -> OpenedRows:
    """Find the files of a data set.

    Args:
        path: a file of rows (JSON, JSONL, CSV, parquet, arrow), a folder with such files, a folder written by
            ``save_to_disk``, a ``dataset_info.json`` of LLaMA-Factory, a pattern of files, or a hub id.
        name: the entry of a ``dataset_info.json``, or the configuration of a hub data set.
        split: the split of a folder or of a hub data set; it is ignored for a single file.
        revision: the commit of a hub data set.

    Raises:
        SourceError: no file or data set exists. The message names the key to change.
    """
    place = Path(path).expanduser()
    if exists(place):
        try:
            info = find_info(place)
            entry = None if info is None else read_entry(info, name)
        except FormatError as error:
            raise SourceError(str(error)) from error
        unused = {"name": None if entry else name, "revision": revision}
        for key, value in unused.items():
            if value is not None:
                raise SourceError(f"{path} is a local copy, which has no {key}: remove data.{key}")
        place = place if entry is None else entry.file
        if not place.exists():
            raise SourceError(f"{info} names the file {place}, which does not exist: correct file_name")
        files = [place] if place.is_file() else _in_folder(place, split)
        return OpenedRows([RowFile(file) for file in files], entry)
    if is_pattern(path):
        if not (files := matches(path)):
            raise SourceError(f"data.path={path} matches no file of rows ({', '.join(ROW_FILES)}): correct the pattern")
        return OpenedRows([RowFile(file) for file in files])
    if not is_hub_id(path):
        raise SourceError(f"data.path={path} does not exist: use a file of rows, its folder, a pattern or a hub id")
    return OpenedRows([RowFile(hub=HubTable(path, split, name, revision))])


def matches(path: str) -> list[Path]:
    """Return the files of rows that a pattern matches, sorted; none for a path without a pattern."""
    if not is_pattern(path) or exists(Path(path).expanduser()):
        return []
    paths = [Path(file) for file in sorted(glob.glob(str(Path(path).expanduser()), recursive=True))]
    return [file for file in paths if file.suffix.lower() in (*ROW_FILES, *ARROW) and file.is_file()]


def is_pattern(path: str) -> bool:
    """Return whether a path is a pattern of several files."""
    return any(sign in path for sign in "*?[")


def is_hub_id(path: str) -> bool:
    """Return whether a path that does not exist can be a data set on the hub: ``owner/name``."""
    owner, _, name = path.partition("/")
    return bool(owner.strip(".~")) and bool(name) and "/" not in name and Path(name).suffix.lower() not in ROW_FILES


def _in_folder(folder: Path, split: str) -> list[Path]:
    saved = any((folder / name).exists() for name in ("state.json", "dataset_dict.json"))
    if saved or parquet_files(folder):
        return open_local(folder, split).files
    rows = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in ROW_FILES and file.is_file()]
    rows = [file for file in rows if file.name not in (INFO, mmpr.META)]
    if not rows:
        raise SourceError(f"{folder} has no files of rows ({', '.join(ROW_FILES)}): set data.path to the file")
    return files_of_split(folder, rows, split)
