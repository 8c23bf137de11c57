"""Reads Hugging Face data sets: a hub id, a folder written by ``save_to_disk``, or local parquet or arrow files.

Local files are read in place (:mod:`scramble.sources.tables`). The ``datasets`` library streams or downloads data sets
on the hub.
"""

from __future__ import annotations

import glob
import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scramble.formats.bad_rows import BadRows, SourceError
from scramble.formats.checks import clean_captions, clean_id, exists, find_image, image_name, load_image, verify_image
from scramble.records import ImageFile, ImageRecord, RecordError
from scramble.sources.columns import find_columns, stored_column, value_at
from scramble.sources.shards import Shards
from scramble.sources.tables import LocalTable, one_line, open_local

log = logging.getLogger(__name__)

Row = dict[str, Any]


def read(
    path: str | Path,
    bad: BadRows,
    *,
    image_column: str | None = None,
    caption_column: str | None = None,
    id_column: str | None = None,
    split: str = "train",
    name: str | None = None,
    revision: str | None = None,
    streaming: bool = True,
    embed: bool = True,
    verify: bool = True,
    limit: int | None = None,
) -> Iterator[ImageRecord]:
    """Stream the images of a data set, each with the captions of all its rows.

    The caption column contains a string or a list of strings. The image column contains a ``datasets`` image, encoded
    bytes, or a path. Rows belong to the same image if they have the same id in ``id_column``. Without this column, they
    must have the same bytes or path, and the image's id is the number of its first row. Captions are loaded into
    memory, but images are read one at a time, so the data set is read twice (if it is on the hub, over the network).

    Args:
        path: hub id, folder written by ``save_to_disk``, parquet or arrow file, a folder of parquet files, or
            WebDataset shards (:func:`tar_files`).
        image_column: the column of the image; None selects it with :func:`scramble.sources.columns.find_columns`.
        caption_column: the column of the caption, or a key of a column of dictionaries (``json.caption``); None selects
            it in the same way.
        split: one of the data set's splits. In a folder of parquet files, its name is part of the names of files or
            folders (``data/train-00000-of-00001.parquet``, ``train/0.parquet``).
        name: the configuration of a hub data set.
        revision: the commit of a hub data set, which makes the run repeatable.
        streaming: whether to read the rows of a hub data set over the network (with ``limit``, only the first rows), or
            to download the split to the ``datasets`` library's cache before it is read.
        limit: stop after this many images; rows after the first row of the next image are not read.

    Raises:
        SourceError: the data set cannot be opened, has no such split, or lacks a column.
    """
    data = _open(path, split, name, revision, streaming)
    image_column, caption_column = find_columns(
        path, data.columns, image_column, caption_column, lambda column: (row[column] for _, row in data.rows([column]))
    )
    selected = [image_column, caption_column] + ([id_column] if id_column else [])
    columns = [stored_column(column, data.columns) for column in selected]
    _require(path, columns, data.columns)
    images: dict[str, _Image] = {}
    for number, row in data.rows(columns):
        try:
            captions = clean_captions(value_at(row, caption_column))
            content = _content(value_at(row, image_column))
            key = clean_id(value_at(row, id_column)) if id_column else content
        except RecordError as error:
            bad.reject(path, number, str(error))
            continue
        if key not in images and limit is not None and len(images) == limit:
            break
        image = images.setdefault(key, _Image(number, content))
        if image.content != content:
            bad.reject(path, number, "duplicate id", f"{key} names another image in row {image.first}")
            continue
        image.rows += 1
        image.captions |= dict.fromkeys(captions)
    if not id_column:
        _log_shared_images(path, images)
    yield from _records(path, data, columns, image_column, images, bad, embed, verify)


@dataclass(slots=True)
class _Image:
    """The data of an image that the first pass collects, before its bytes are read again."""

    first: int  # row, from 1
    content: str
    rows: int = 0
    captions: dict[str, None] = field(default_factory=dict)


def _records(
    path: str | Path,
    data: Any,
    columns: list[str],
    image_column: str,
    images: dict[str, _Image],
    bad: BadRows,
    embed: bool,
    verify: bool,
) -> Iterator[ImageRecord]:
    source = f"hf:{Path(path).name if Path(path).exists() else path}"
    pending = {image.first: (key, image) for key, image in images.items()}
    for number, row in data.rows(columns):
        if number not in pending:
            continue
        key, image = pending.pop(number)
        try:
            file = _load(value_at(row, image_column), Path(path), embed, verify)
        except RecordError as error:
            bad.reject(path, number, "unreadable image", str(error), rows=image.rows)
        else:
            bad.use(image.rows)
            image_id = key if len(columns) > 2 else f"{number:08d}"
            yield ImageRecord(image_id, file, tuple(image.captions), source)
        if not pending:
            return


def _log_shared_images(path: str | Path, images: dict[str, _Image]) -> None:
    shared = [image.rows for image in images.values() if image.rows > 1]
    if shared:
        log.info(
            f"data: {path}: {sum(shared):,} rows share {len(shared):,} images (the same bytes or path); each image "
            "gets the captions of all its rows"
        )


class HubTable:
    """A data set on the hub, read row by row with encoded images."""

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
            rows: Any = datasets.load_dataset(path, name, split=split, revision=revision, streaming=streaming)
            features = rows.features or {}
            for column, feature in features.items():
                if isinstance(feature, datasets.Image):
                    rows = rows.cast_column(column, datasets.Image(decode=False))
        except Exception as error:  # hub, file system and pyarrow raise exceptions of many types
            raise SourceError(
                f"data.path={path} cannot be opened as a data set ({one_line(error)}): set it to a local file, a "
                "folder, or a hub id that this machine can reach (gated data sets need HF_TOKEN)"
            ) from error
        self._rows = rows
        self.columns = list(rows.column_names or features)

    def rows(self, columns: list[str]) -> Iterator[tuple[int, Row]]:
        try:
            for number, row in enumerate(self._rows, 1):
                yield number, {column: row.get(column) for column in columns}
        except Exception as error:  # the connection may be lost during the stream
            raise SourceError(
                f"{self.path} cannot be read completely ({one_line(error)}): run the command again"
            ) from error


def _open(
    path: str | Path, split: str, name: str | None, revision: str | None, streaming: bool
) -> LocalTable | HubTable | Shards:
    tars = tar_files(path)
    if tars or Path(path).exists():
        for key, value in (("name", name), ("revision", revision)):
            if value is not None:
                raise SourceError(
                    f"{path} is a local copy, which has no {key}: remove data.{key}, or set data.path to the "
                    "intended folder in this copy"
                )
        if tars:
            return Shards(path, tars)
        return open_local(Path(path), split)
    return HubTable(str(path), split, name, revision, streaming=streaming)


def tar_files(path: str | Path) -> list[Path]:
    """Return the WebDataset shards that a path names: a .tar file, a folder of .tar files, or a pattern
    (``cc3m/*.tar``).
    """
    pattern = Path(path) / "*.tar" if Path(path).is_dir() else Path(path)
    if pattern.suffix != ".tar":
        return []
    return [pattern] if pattern.is_file() else [Path(file) for file in sorted(glob.glob(str(pattern)))]


def _require(path: str | Path, columns: list[str], names: list[str]) -> None:
    missing = [column for column in columns if column not in names]
    if missing and names:
        raise SourceError(
            f"{path} has no column {', '.join(missing)}; it has {', '.join(names)}: set the column names "
            "(data.image_column=..., data.caption_column=..., data.id_column=...)"
        )


def _fields(value: Any) -> tuple[bytes | None, str | None]:
    """Return the bytes and path in an image field, which may be a list with one image.

    Raises RecordError if the field has neither.
    """
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, bytes):
        return value or None, None
    if isinstance(value, dict):
        data, path = value.get("bytes"), value.get("path")
        if isinstance(data, bytes) and data:
            return data, path if isinstance(path, str) else None
        value = path
    return None, image_name(value)


def _content(value: Any) -> str:
    """Return the key that rows of the same image share: the hash of the bytes, or the path."""
    data, path = _fields(value)
    return hashlib.sha256(data).hexdigest() if data is not None else f"path {path}"


def _load(value: Any, path: Path, embed: bool, verify: bool) -> ImageFile:
    data, name = _fields(value)
    if data is not None:
        image = ImageFile(bytes=data, path=name)
        if verify:
            verify_image(image)
        return image
    file = Path(name or "")
    folder = path if path.is_dir() else path.parent
    return load_image(file if exists(file) else find_image(folder, name or ""), embed=embed, verify=verify)
