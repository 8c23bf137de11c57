"""Finds and reads the data files of preference data: a file, a folder, a glob pattern, or a data set on the hub."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scramble.formats import mmpr
from scramble.formats.bad_rows import BadRows, FormatError, SourceError
from scramble.formats.checks import exists
from scramble.formats.csv_file import COLUMN_KEYS, csv_names, csv_rows, require_columns
from scramble.formats.dataset_info import INFO, DataSetEntry, find_info, read_entry
from scramble.formats.hf_tables import ARROW, HubTable, LocalTable, files_of_split, is_table_folder, open_local
from scramble.formats.readers import ANSWERS
from scramble.storage.files import BLANK, StoreError, read_json
from scramble.storage.jsonl import json_lines, json_values
from scramble.storage.similar_paths import did_you_mean, looks_local

log = logging.getLogger(__name__)

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
TEXT_TABLES = (".csv", ".tsv")
DATA_SUFFIXES = (*JSON_SUFFIXES, *TEXT_TABLES, ".parquet", *ARROW)
_IMAGE_COLUMNS = ("image", "images", "filename", "image_path")
# Sets of columns with the answers of a pair. A row of preference data has the columns of one set.
PAIR_COLUMNS = (
    *ANSWERS,
    ("output_1", "output_2"),
    ("preferred_output", "non_preferred_output"),
    ("rejected_conversations",),
    ("rejected_messages",),
)

OnBadRow = Callable[[str | Path, int | str, str, str], None]
"""The type of a function that is called for each row that cannot be used. Its arguments are the file, the row's number
or key, the reason, and an exact description of the fault, which can be empty.
"""


@dataclass(frozen=True)
class DataFile:
    """Reads the rows of a data file or of a data set on the hub.

    Attributes:
        path: the file; None for a data set on the hub.
        hub: the data set on the hub; None for a file.
        root: the file's folder, relative to the folder that contains all files of the data set. It distinguishes equal
            image paths in several folders.
    """

    path: Path | None = None
    hub: HubTable | None = None
    root: str = ""

    def __str__(self) -> str:
        return str(self.path if self.hub is None else self.hub.path)

    @property
    def folder(self) -> Path | None:
        """The folder that image paths are relative to; None for a data set on the hub."""
        return None if self.path is None else self.path.parent

    def rows(self, on_bad: OnBadRow, columns: Mapping[str, str]) -> Iterator[tuple[int, Any]]:
        """Yield the number (from 1) and content of each row, like :func:`read_rows`."""
        if self.hub is not None:
            yield from self.hub.rows(self.hub.columns)
        elif self.path is not None:
            yield from read_rows(self.path, on_bad, columns)


@dataclass(frozen=True)
class DataFiles:
    """Contains the files of a data set, and the entry of LLaMA-Factory's ``dataset_info.json`` for them, if any."""

    files: list[DataFile]
    entry: DataSetEntry | None = None


def find_data_files(
    path: str, *, name: str | None = None, split: str = "train", revision: str | None = None
) -> DataFiles:
    """Find the files of a data set.

    Args:
        path: a data file (JSON, JSONL, CSV, parquet, arrow), a folder with such files, a folder written by
            ``save_to_disk``, a ``dataset_info.json`` of LLaMA-Factory, a glob pattern, or a hub id.
        name: the name of an entry in ``dataset_info.json``, or the configuration of a hub data set.
        split: the split of a folder or of a hub data set; it is ignored for a single file.
        revision: the commit of a hub data set.

    Raises:
        SourceError: the data set does not exist or cannot be opened, or ``name``, ``split`` or ``revision`` does not
            match it.
    """
    place = Path(path).expanduser()
    if exists(place):
        info = find_info(place)
        entry = None if info is None else read_entry(info, name)
        unused = {"name": None if entry else name, "revision": revision}
        for key, value in unused.items():
            if value is not None:
                raise SourceError(
                    f"data.{key}={value} applies only to a hub id, but {path} is a local copy: remove data.{key}"
                )
        place = place if entry is None else entry.file
        if not place.exists():
            raise SourceError(f"{info} names the file {place}, which does not exist: correct file_name")
        return DataFiles(_data_files([place] if place.is_file() else _in_folder(place, split)), entry)
    if is_pattern(path):
        if not (files := matching_files(path)):
            raise SourceError(
                f"data.path={path} matches no data file ({', '.join(DATA_SUFFIXES)}): correct the pattern"
            )
        return DataFiles(_data_files(files))
    if not is_hub_dataset_id(path):
        raise SourceError(
            f"data.path={path} does not exist: use a data file, its folder, a pattern or a hub id{did_you_mean(path)}"
        )
    return DataFiles([DataFile(hub=HubTable(path, split, name, revision))])


def may_exist(path: str) -> bool:
    """Return whether :func:`find_data_files` can open a path, as far as this can be checked without network access."""
    return exists(Path(path).expanduser()) or bool(matching_files(path)) or is_hub_dataset_id(path)


def matching_files(path: str) -> list[Path]:
    """Return the sorted data files that a pattern matches. The list is empty if ``path`` exists or is not a pattern."""
    if not is_pattern(path) or exists(Path(path).expanduser()):
        return []
    paths = [Path(file) for file in sorted(glob.glob(str(Path(path).expanduser()), recursive=True))]
    return [file for file in paths if file.suffix.lower() in DATA_SUFFIXES and file.is_file()]


def is_pattern(path: str) -> bool:
    """Return whether a path contains a wildcard."""
    return any(sign in path for sign in "*?[")


def is_hub_dataset_id(path: str) -> bool:
    """Return whether a path that does not exist locally has the form of a hub id, ``owner/name``."""
    owner, _, name = path.partition("/")
    is_file = Path(name).suffix.lower() in (*DATA_SUFFIXES, ".tar")
    is_id = bool(owner.strip(".~")) and bool(name) and "/" not in name and not is_file and not is_pattern(path)
    return is_id and not looks_local(path)


def _in_folder(folder: Path, split: str) -> list[Path]:
    if is_table_folder(folder):
        return open_local(folder, split).files
    files = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in DATA_SUFFIXES and file.is_file()]
    files = [file for file in files if file.name not in (INFO, mmpr.META)]
    if not files:
        raise SourceError(f"{folder} has no data files ({', '.join(DATA_SUFFIXES)}): set data.path to a data file")
    return files_of_split(folder, files, split)


def _data_files(paths: Sequence[Path]) -> list[DataFile]:
    common = os.path.commonpath([path.parent for path in paths])
    roots = (os.path.relpath(path.parent, common) for path in paths)
    return [DataFile(path, root="" if root == "." else root) for path, root in zip(paths, roots, strict=True)]


# ---------------------------------------------------------------------------------------------------------------- rows


def refuse(path: str | Path, row: int | str, reason: str, detail: str = "") -> None:
    """Raise FormatError for a row. Callers that do not accept bad rows use this function as :data:`OnBadRow`."""
    raise FormatError(
        f"{path}, {'key' if isinstance(row, str) else 'row'} {row}: {reason}{f': {detail}' if detail else ''}"
    )


def read_rows(
    path: Path,
    on_bad: OnBadRow = refuse,
    columns: Mapping[str, str] | None = None,
    needs: Sequence[Sequence[str]] = PAIR_COLUMNS,
) -> Iterator[tuple[int, Any]]:
    """Yield the number (from 1) and content of each row of a JSON, JSONL, CSV, parquet or arrow file.

    JSON files contain a list of rows, one row per line, or a single row, regardless of their suffix. The number of a
    row of a JSONL or CSV file is its line number. The columns are not renamed.

    Args:
        on_bad: called for rows that cannot be read.
        columns: see :class:`scramble.formats.layout.Layout`.
        needs: sets of columns; a row has all columns of at least one set. The sets determine the delimiter of a CSV
            file, and distinguish a single row in a JSON file from rows by key.

    Raises SourceError if the file cannot be read.
    """
    if not path.is_file():
        raise FormatError(f"{path} is not a file: set the path to a data file")
    columns = columns or {}
    needs = [[columns.get(name, name) for name in needed] for needed in needs]
    try:
        if path.suffix.lower() in (".parquet", *ARROW):
            table = LocalTable(path, [path])
            yield from table.rows(table.columns)
        elif path.suffix.lower() in TEXT_TABLES:
            yield from _table_rows(path, on_bad, columns, needs)
        else:
            yield from _json_rows(path, on_bad, needs)
    except StoreError as error:
        raise FormatError(str(error)) from error


def object_rows(
    path: Path, bad: BadRows, columns: list[str], named_by: str = COLUMN_KEYS
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and content of each row that is a JSON object, like :func:`read_rows`. Other rows are rejected.

    Raises SourceError if the first row lacks one of ``columns``. For ``named_by``, see
    :func:`scramble.formats.csv_file.require_columns`.
    """
    is_first = True
    for number, row in read_rows(path, bad.reject, needs=[columns]):
        if not isinstance(row, dict):
            bad.reject(path, number, "not a JSON object", f"{type(row).__name__}; write one object per row")
            continue
        if is_first:
            require_columns(path, columns, list(row), named_by=named_by)
            is_first = False
        yield number, row


def log_unused_columns(file: object, columns: Iterable[str]) -> None:
    """Log the columns of a file that are not used, if there are any."""
    if names := ", ".join(dict.fromkeys(columns)):
        log.info(f"data: {file}: these columns are not used: {names}")


def rows_by_key(path: Path, columns: Mapping[str, str]) -> Mapping[str, Any] | None:
    """Return the object in a JSON file if it is not a single row, for example SugarCrepe's rows by key. Return None for
    any other file.
    """
    try:
        if path.suffix.lower() != ".json" or not path.is_file() or _holds_lines(path):
            return None
        _, first = next(json_lines(path), (1, b""))
        content = None if _opens_list(first) else read_json(path)
    except StoreError:
        return None  # the reader of the rows reports the error
    needs = [[columns.get(name, name) for name in needed] for needed in PAIR_COLUMNS]
    return content if isinstance(content, dict) and not _is_row(content, needs) else None


def _json_rows(path: Path, on_bad: OnBadRow, needs: Sequence[Sequence[str]]) -> Iterator[tuple[int, Any]]:
    if not _holds_lines(path):
        content = read_json(path)
        if isinstance(content, dict) and _is_row(content, needs):
            content = [content]
        if not isinstance(content, list):
            raise FormatError(f"{path} does not contain a list of rows: write a JSON list, or one JSON object per line")
        yield from enumerate(content, 1)
        return
    for number, line in json_lines(path):
        try:
            values = json_values(line)
        except ValueError as error:
            on_bad(path, number, "not JSON", f"{error}; write one object per line")
            continue
        yield from enumerate(values, number)  # a line has several values if carriage returns end rows


def _is_row(content: Mapping[str, Any], needs: Sequence[Sequence[str]]) -> bool:
    """Return whether a JSON object is a single row rather than rows by key or values by column. In a single row, at
    least one of the needed columns contains a string, a message, or a list of messages.
    """
    values = [content[name] for needed in needs for name in needed if name in content]
    return any(isinstance(value, str) or _is_message(value) for value in values)


def _is_message(value: Any) -> bool:
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, Mapping) and bool({"role", "from"} & set(first))


def _holds_lines(path: Path) -> bool:
    """Return whether a JSON file has one row per line.

    A ``.jsonl`` file has one row per line unless the whole file is one list. Any other file has one row per line if
    its first line is a JSON object and further lines follow.
    """
    lines = json_lines(path)
    _, first = next(lines, (1, b""))
    is_jsonl, is_list = path.suffix.lower() in (".jsonl", ".ndjson"), _opens_list(first)
    if next(lines, None) is None or (is_jsonl and not is_list):
        return is_jsonl and not is_list
    try:
        return all(isinstance(value, dict) for value in json_values(first)) or is_jsonl
    except ValueError:
        return False


def _opens_list(line: bytes) -> bool:
    return line.lstrip(BLANK).startswith(b"[")


def _table_rows(
    path: Path, on_bad: OnBadRow, columns: Mapping[str, str], needs: Sequence[Sequence[str]]
) -> Iterator[tuple[int, Any]]:
    """Yield the rows of a CSV or TSV file.

    If the header has the columns of one of the sets in ``needs``, they determine the delimiter. The column with the
    image paths, if any, is used to find where a row begins.
    """
    names = csv_names(path)
    needed = next((one for one in needs if set(one) <= names), [])
    images = (columns.get(name, name) for name in _IMAGE_COLUMNS)
    image = next(([name] for name in images if name in names), [])
    yield from csv_rows(path, [*image, *needed], on_bad)
