"""Reads the tables of the ``datasets`` library: parquet and arrow files, folders with these files, and hub data sets.

Local files are read in place without the library, because the library copies local files into its cache before it
reads them, interprets brackets and stars in paths as patterns, and merges a folder's splits if it gets a list of files.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from scramble.formats.bad_rows import SourceError
from scramble.storage.files import StoreError, read_json
from scramble.storage.similar_paths import did_you_mean

log = logging.getLogger(__name__)

ARROW = (".arrow", ".feather")
BATCH = 64  # rows in memory at a time; a row may contain a photograph

_SHARD = re.compile(r"(.+?)-\d{5}-of-(\d{5})(?:-[0-9a-f]+)?")  # the hub's naming: train-00000-of-00001[-hash]
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
    """Reads the rows of a table that consists of one or more local files."""

    path: Path
    files: list[Path]

    @property
    def columns(self) -> list[str]:
        """The column names of the first file."""
        return _open(self.files[0])[0] if self.files else []

    def rows(self, columns: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the number (from 1) of each row and its values in ``columns``.

        The rows are read in small batches to limit memory use. Raises SourceError if a file cannot be read or lacks a
        column. The message names the file.
        """
        number = 0
        for file in self.files:
            names, batches = _open(file)
            if missing := [column for column in columns if column not in names]:
                raise SourceError(
                    f"{file} has no column {' or '.join(missing)}, only {', '.join(names)}: all files of a split must "
                    "have the same columns"
                )
            while True:
                try:
                    batch = next(batches, None)
                    rows = [] if batch is None else batch.select(list(dict.fromkeys(columns))).to_pylist()
                except Exception as error:  # broken files raise exceptions of many types
                    raise SourceError(
                        f"{file} cannot be read after row {number} ({typed_message(error)}): copy or download it again"
                    ) from error
                if batch is None:
                    break
                for row in rows:
                    number += 1
                    yield number, row


def is_table_folder(folder: Path) -> bool:
    """Return whether a folder was written by ``save_to_disk`` or contains parquet files, possibly in sub-folders."""
    return any((folder / name).exists() for name in ("state.json", "dataset_dict.json")) or bool(_parquet_files(folder))


def open_local(path: Path, split: str) -> LocalTable:
    """Return the table of one split. ``path`` is a file, or a folder for which :func:`is_table_folder` is true.

    Raises SourceError, with the available splits in the message, if ``split`` is not one of them.
    """
    if path.is_file():
        named = _split_of(Path(path.name)) if path.suffix.lower() == ".parquet" else None
        return LocalTable(path, [path] if _is(split, {"train", named}) else _refuse(path, split, [named or "train"]))
    if (path / "state.json").exists():
        return _saved(path, split)
    if (path / "dataset_dict.json").exists():
        return _saved_splits(path, split)
    files = files_of_split(path, _parquet_files(path), split)
    _check_one_configuration(path, files)
    _log_missing_files(path, files)
    return LocalTable(path, files)


def _check_one_configuration(path: Path, files: list[Path]) -> None:
    """Raise SourceError if several folders contain files of the split.

    A data set on the hub can have several configurations, for example different captions of the same images. Each
    configuration is a separate table in its own folder.
    """
    folders = sorted({_above_split(file.relative_to(path)) for file in files})
    if len(folders) > 1:
        named = ", ".join(str(folder) for folder in folders)
        raise SourceError(
            f"{path} contains the selected split in {len(folders)} folders, which may be configurations of one data "
            f"set: choose one of {named} (data.path={path / folders[0]})"
        )


def _above_split(file: Path) -> Path:
    """Return the folders of a relative path above the first part that names a split, or ``.`` if no part does."""
    parts = file.parts
    return next((Path(*parts[:n]) for n in range(len(parts)) if _split_of(Path(parts[n])) is not None), Path())


def _log_missing_files(path: Path, files: list[Path]) -> None:
    """Log a message if files of a numbered series (``-of-00005``) are missing. They can be missing on purpose."""
    series = Counter((file.parent, shard[1], shard[2]) for file in files if (shard := _SHARD.fullmatch(file.stem)))
    for (_, name, total), count in series.items():
        if count < int(total):
            log.info(
                f"data: {path} contains only {count} of the {int(total)} files of {name}, so the rows of the missing "
                "files are not read"
            )


def typed_message(error: BaseException) -> str:
    """Return the type and the message of another library's error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _is(split: str, names: set[str | None]) -> bool:
    return split in names or _NAMES.get(split, split) in names


def _refuse(path: Path, split: str, names: list[str]) -> NoReturn:
    raise SourceError(f"{path} has no split {split!r}: choose one of {', '.join(names)} (data.split=...)")


def files_of_split(folder: Path, files: list[Path], split: str) -> list[Path]:
    """Return the files of a folder that belong to a split.

    Raises SourceError, with the available splits in the message, if ``split`` is not one of them.
    """
    splits = _splits(folder, files)
    match = next((name for name in splits if _is(split, {name})), None)
    return splits[match] if match is not None else _refuse(folder, split, sorted(splits))


def _parquet_files(folder: Path) -> list[Path]:
    """Return all parquet files below a folder, except hidden files."""
    files = (file for file in sorted(folder.rglob("*")) if file.suffix.lower() == ".parquet" and file.is_file())
    return [file for file in files if not file.name.startswith(".")]


def _splits(folder: Path, files: list[Path]) -> dict[str, list[Path]]:
    """Return the files by split. If no path names a split, all files belong to the split ``train``."""
    named: dict[str, list[Path]] = {}
    others = []
    for file in files:
        if (split := _split_of(file.relative_to(folder))) is None:
            others.append(file)
        else:
            named.setdefault(split, []).append(file)
    if not named:
        return {"train": others}
    for file in others:  # if some paths name a split, each of the other files is a separate split
        named.setdefault(file.stem, []).append(file)
    return named


def _split_of(file: Path) -> str | None:
    """Return the split that a relative path names, in the file name or else in the nearest folder name with a split."""
    if shard := _SHARD.fullmatch(file.stem):
        return _NAMES.get(shard[1], shard[1])
    for part in (file.stem, *reversed(file.parts[:-1])):
        for word in re.split(r"[^a-zA-Z]+", part.lower()):
            if word in _NAMES:
                return _NAMES[word]
    return None


def _saved(path: Path, split: str) -> LocalTable:
    """Return the table in a folder that ``save_to_disk`` wrote for a ``Dataset``.

    The metadata states the split of the table; if it does not, the split is ``train``. Raises SourceError if this split
    is not ``split``.
    """
    state, files = _state(path)
    own = re.split(r"[\[+]", str(state.get("_split") or "train"))[0]
    return LocalTable(path, files if _is(split, {own}) else _refuse(path, split, [own]))


def _saved_splits(path: Path, split: str) -> LocalTable:
    """Return the table of one split in a folder that ``save_to_disk`` wrote for a ``DatasetDict``."""
    try:
        names = [str(name) for name in read_json(path / "dataset_dict.json")["splits"]]
    except (StoreError, KeyError, TypeError) as error:
        raise SourceError(
            f"{path} is not a complete DatasetDict ({typed_message(error)}): write it again with "
            "DatasetDict.save_to_disk"
        ) from error
    match = next((name for name in names if _is(split, {name})), None)
    return LocalTable(path, _state(path / match)[1] if match is not None else _refuse(path, split, names))


def _state(folder: Path) -> tuple[dict[str, Any], list[Path]]:
    try:
        state = read_json(folder / "state.json")
        files = [folder / row["filename"] for row in state["_data_files"]]
    except (StoreError, KeyError, TypeError) as error:
        raise SourceError(
            f"{folder} is not a complete Dataset ({typed_message(error)}): write it again with Dataset.save_to_disk"
        ) from error
    if state.get("_indices_files"):
        raise SourceError(
            f"{folder} stores indices of rows instead of the selected rows: load it with the datasets "
            "library, and save it again with save_to_disk"
        )
    return state, files


def _open(file: Path) -> tuple[list[str], Iterator[Any]]:
    """Return the column names of a file and an iterator over its record batches."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if file.suffix.lower() in ARROW:
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
            f"{file} is not a readable {file.suffix.lstrip('.')} file ({typed_message(error)}): copy or download it "
            "again"
        ) from error


def _parts(batch: Any) -> Iterator[Any]:
    yield from (batch.slice(start, BATCH) for start in range(0, batch.num_rows, BATCH))


class HubTable:
    """Reads a data set on the hub row by row, without decoding its images."""

    def __init__(
        self,
        path: str,
        split: str,
        name: str | None,
        revision: str | None,
        *,
        streaming: bool = True,
    ) -> None:
        import datasets

        self.path = path
        try:
            if streaming:  # a data set that was downloaded before needs no connection
                _check_connection(path)
            rows: Any = datasets.load_dataset(path, name, split=split, revision=revision, streaming=streaming)
            features = rows.features or {}
            for column, feature in features.items():
                if (encoded := _encoded(feature)) != feature:
                    rows = rows.cast_column(column, encoded)
        except Exception as error:  # hub, file system and pyarrow raise exceptions of many types
            raise SourceError(
                f"data.path={path} cannot be opened as a data set ({typed_message(error)}): set data.path to a local "
                "file, a folder, or a hub id that this machine can reach (gated data sets need HF_TOKEN)"
                f"{did_you_mean(path)}"
            ) from error
        self._rows = rows
        self.columns = list(rows.column_names or features)

    def rows(self, columns: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the number (from 1) of each row and its values in ``columns``.

        Raises SourceError if the rows cannot be read completely, for example because the connection is lost.
        """
        try:
            for number, row in enumerate(self._rows, 1):
                yield number, {column: row.get(column) for column in columns}
        except Exception as error:  # the connection may be lost during the stream
            raise SourceError(
                f"{self.path} cannot be read completely ({typed_message(error)}): run the command again"
            ) from error


def _check_connection(path: str) -> None:
    """Send one request to the hub, to raise the error of a failed connection early.

    ``load_dataset`` would first retry for half a minute. In offline mode, no request is sent.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    if not constants.HF_HUB_OFFLINE:
        with suppress(HfHubHTTPError):  # the hub has replied, so load_dataset reports what is wrong with the id
            get_hf_file_metadata(hf_hub_url(path, "README.md", repo_type="dataset"), timeout=10)


def _encoded(feature: Any) -> Any:
    """Return a feature of the ``datasets`` library with image decoding disabled."""
    import datasets

    if isinstance(feature, datasets.Image):
        return datasets.Image(decode=False)
    if isinstance(feature, datasets.List | datasets.LargeList):
        return replace(feature, feature=_encoded(feature.feature))
    if isinstance(feature, dict):
        return {name: _encoded(value) for name, value in feature.items()}
    return feature
