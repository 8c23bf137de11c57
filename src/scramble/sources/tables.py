"""Reads local tables in place: parquet files, arrow files, folders of them, and folders written by ``save_to_disk``.

The ``datasets`` library is not used here, because it copies local files into its cache before it reads them, interprets
brackets and stars in paths as patterns, and merges a folder's splits if it gets a list of files.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scramble.formats.bad_rows import SourceError
from scramble.sources.image_folder import inputs_below
from scramble.storage.files import StoreError, read_json

log = logging.getLogger(__name__)

BATCH = 64  # rows in memory at a time; a row may contain a photograph

_SHARD = re.compile(r"(.+?)-\d{5}-of-(\d{5})(?:-[0-9a-f]+)?")  # the hub's naming: train-00000-of-00001[-hash]
_ARROW = (".arrow", ".feather")
_OTHERS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt")
_NAMES = {  # split names that the datasets library recognises, and the split that each one denotes
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "dev": "validation",
    "val": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}


@dataclass(frozen=True)
class LocalTable:
    """The files of one table, in order."""

    path: Path
    files: list[Path]

    @property
    def columns(self) -> list[str]:
        """The columns of the first file."""
        return _open(self.files[0])[0] if self.files else []

    def rows(self, columns: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the number (from 1) and content of each row, read in batches with bounded memory.

        Raises SourceError if a file cannot be read or lacks a column. The message names the file.
        """
        number = 0
        for file in self.files:
            names, batches = _open(file)
            if missing := [column for column in columns if column not in names]:
                raise SourceError(
                    f"{file} has no column {', '.join(missing)}; it has {', '.join(names)}: all files of a split must "
                    "have the same columns"
                )
            while True:
                try:
                    batch = next(batches, None)
                    rows = [] if batch is None else batch.select(list(dict.fromkeys(columns))).to_pylist()
                except Exception as error:  # broken files raise exceptions of many types
                    raise SourceError(
                        f"{file} cannot be read after row {number} ({one_line(error)}): copy or download it again"
                    ) from error
                if batch is None:
                    break
                for row in rows:
                    number += 1
                    yield number, row


def open_local(path: Path, split: str) -> LocalTable:
    """Return the files of one split.

    Raises SourceError with the available splits, or with the reason why there are none.
    """
    if path.is_file() and path.suffix.lower() in _OTHERS:
        raise SourceError(f"{path} is not a parquet or arrow file: for a table with image files use data=image_folder")
    if path.is_file():
        named = _split_of(Path(path.name)) if path.suffix.lower() == ".parquet" else None
        return LocalTable(path, [path] if _is(split, {"train", named}) else _refuse(path, split, [named or "train"]))
    if (path / "state.json").exists():
        return _saved(path, split)
    if (path / "dataset_dict.json").exists():
        return _saved_splits(path, split)
    if not (parquet := parquet_files(path)):
        below = inputs_below(path)
        folder = f" data.path={path / below[0]} (the sub-folders {', '.join(below)} have one)" if below else ""
        raise SourceError(
            f"{path} has no parquet file and was not written by save_to_disk; for image files with a table of captions "
            f"use data=image_folder{folder}"
        )
    files = files_of_split(path, parquet, split)
    _check_one_configuration(path, files)
    _log_missing_files(path, files)
    return LocalTable(path, files)


def _check_one_configuration(path: Path, files: list[Path]) -> None:
    """Raise SourceError if several folders each contain the split.

    Hub data sets store their configurations in separate folders (for example other captions of the same images). Each
    configuration is a separate table.
    """
    folders = sorted({_above_split(file.relative_to(path)) for file in files})
    if len(folders) > 1:
        named = ", ".join(str(folder) for folder in folders)
        raise SourceError(
            f"{path} has this split in {len(folders)} folders, which may be configurations of one data set: choose one "
            f"of {named} (data.path={path / folders[0]})"
        )


def _above_split(file: Path) -> Path:
    """Return the folder above the first part of a relative path that names a split, or else the top folder."""
    parts = file.parts
    return next((Path(*parts[:n]) for n in range(len(parts)) if _split_of(Path(parts[n])) is not None), Path())


def _log_missing_files(path: Path, files: list[Path]) -> None:
    """Log if files of a numbered series (``-of-00005``) are missing. This can be intended and is not an error."""
    series = Counter((file.parent, shard[1], shard[2]) for file in files if (shard := _SHARD.fullmatch(file.stem)))
    for (_, name, total), count in series.items():
        if count < int(total):
            log.info(f"data: {path} has {count} of the {int(total)} files of {name}; only these are read")


def one_line(error: BaseException) -> str:
    """Return the message of an error of another library, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _is(split: str, names: set[str | None]) -> bool:
    return split in names or _NAMES.get(split, split) in names


def _refuse(path: Path, split: str, names: list[str]) -> list[Path]:
    raise SourceError(f"{path} has no split {split}: choose one of {', '.join(names)} (data.split=...)")


def files_of_split(folder: Path, files: list[Path], split: str) -> list[Path]:
    """Return the files of a folder that belong to a split. Raises SourceError with the available splits."""
    splits = _splits(folder, files)
    match = next((name for name in splits if _is(split, {name})), None)
    return splits[match] if match is not None else _refuse(folder, split, sorted(splits))


def parquet_files(folder: Path) -> list[Path]:
    """Return all parquet files below a folder."""
    return [file for file in sorted(folder.rglob("*")) if _is_parquet(file)]


def _splits(folder: Path, files: list[Path]) -> dict[str, list[Path]]:
    """Return the files by split. If no name has a split, all files are the split ``train``."""
    named: dict[str | None, list[Path]] = {}
    for file in files:
        named.setdefault(_split_of(file.relative_to(folder)), []).append(file)
    if set(named) <= {None}:
        return {"train": files} if files else {}
    for file in named.pop(None, []):  # if some names have a split, each file without one is a separate split
        named.setdefault(file.stem, []).append(file)
    return {name: paths for name, paths in named.items() if name is not None}


def _is_parquet(file: Path) -> bool:
    return file.suffix.lower() == ".parquet" and file.is_file() and not file.name.startswith(".")


def _split_of(file: Path) -> str | None:
    """Return the split in a relative path: in the file's name, or else in the nearest folder's name."""
    if shard := _SHARD.fullmatch(file.stem):
        return _NAMES.get(shard[1], shard[1])
    for part in (file.stem, *reversed(file.parts[:-1])):
        for word in re.split(r"[^a-zA-Z]+", part.lower()):
            if word in _NAMES:
                return _NAMES[word]
    return None


def _saved(path: Path, split: str) -> LocalTable:
    """Return the table of a ``Dataset`` written by ``save_to_disk``, whose metadata may name the split."""
    state, files = _state(path)
    own = re.split(r"[\[+]", str(state.get("_split") or "train"))[0]
    return LocalTable(path, files if _is(split, {own}) else _refuse(path, split, [own]))


def _saved_splits(path: Path, split: str) -> LocalTable:
    """Return the table of one split in a folder that ``save_to_disk`` wrote for a ``DatasetDict``."""
    try:
        names = [str(name) for name in read_json(path / "dataset_dict.json")["splits"]]
    except (StoreError, KeyError, TypeError) as error:
        raise SourceError(
            f"{path} is not a complete DatasetDict ({one_line(error)}): write it again with DatasetDict.save_to_disk"
        ) from error
    match = next((name for name in names if _is(split, {name})), None)
    return LocalTable(path, _state(path / match)[1] if match is not None else _refuse(path, split, names))


def _state(folder: Path) -> tuple[dict[str, Any], list[Path]]:
    try:
        state = read_json(folder / "state.json")
        files = [folder / row["filename"] for row in state["_data_files"]]
    except (StoreError, KeyError, TypeError) as error:
        raise SourceError(
            f"{folder} is not a complete Dataset ({one_line(error)}): write it again with Dataset.save_to_disk"
        ) from error
    if state.get("_indices_files"):
        raise SourceError(f"{folder} stores rows by reference: save it again with the datasets library's save_to_disk")
    return state, files


def _open(file: Path) -> tuple[list[str], Iterator[Any]]:
    """Return the columns of a file, and its rows in record batches."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if file.suffix.lower() in _ARROW:
            source = pa.memory_map(str(file))
            try:
                stream = pa.ipc.open_stream(source)
                return stream.schema.names, (part for batch in stream for part in _parts(batch))
            except pa.ArrowInvalid:  # the file has the other arrow format
                reader = pa.ipc.open_file(source)
                batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
                return reader.schema.names, (part for batch in batches for part in _parts(batch))
        parquet = pq.ParquetFile(file, memory_map=True, page_checksum_verification=True)
        return parquet.schema_arrow.names, iter(parquet.iter_batches(batch_size=BATCH, use_threads=False))
    except Exception as error:  # broken files raise exceptions of many types
        raise SourceError(
            f"{file} is not a readable {file.suffix.lstrip('.')} file ({one_line(error)}): copy or download it again"
        ) from error


def _parts(batch: Any) -> Iterator[Any]:
    yield from (batch.slice(start, BATCH) for start in range(0, batch.num_rows, BATCH))
