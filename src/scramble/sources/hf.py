"""Reads data sets on the hub, folders written by ``save_to_disk``, parquet and arrow files, and WebDataset shards.

Local files are read in place (:mod:`scramble.formats.hf_tables`). The ``datasets`` library streams or downloads data
sets on the hub.
"""

from __future__ import annotations

import glob
import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scramble.console import counted
from scramble.formats.bad_rows import BadRows, SourceError
from scramble.formats.checks import (
    clean_captions,
    clean_id,
    exists,
    find_image,
    image_fields,
    load_image,
    verify_image,
)
from scramble.formats.csv_file import COLUMN_KEYS, CSV_SUFFIXES, require_columns
from scramble.formats.data_files import JSON_SUFFIXES, is_hub_dataset_id
from scramble.formats.hf_tables import HubTable, LocalTable, is_table_folder, open_local
from scramble.records import ImageFile, ImageRecord, RecordError
from scramble.sources.columns import find_columns, stored_column, value_at
from scramble.sources.image_folder import inputs_below
from scramble.sources.shards import Shards
from scramble.storage.similar_paths import did_you_mean

log = logging.getLogger(__name__)


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
    bytes, or a path. Rows belong to the same image if they have the same id in ``id_column``. Without ``id_column``,
    the bytes or the path of their images must be the same, and the id of the image is the number of its first row.
    Captions are loaded into memory, but images are read one at a time, so the data set is read twice (a streamed data
    set over the network).

    Args:
        path: hub id, folder written by ``save_to_disk``, parquet or arrow file, a folder of parquet files, or
            WebDataset shards (:func:`tar_files`).
        image_column: the column of the image; if None, :func:`scramble.sources.columns.find_columns` selects it.
        caption_column: the column of the caption, or a key of a column of dictionaries (``json.caption``); if None,
            it is selected in the same way.
        split: one of the data set's splits. In a folder of parquet files, the name of the split is part of the names of
            files or folders (``data/train-00000-of-00001.parquet``, ``train/0.parquet``).
        name: the configuration of a hub data set.
        revision: the commit of a hub data set, which makes the run reproducible.
        streaming: whether the rows of a hub data set are read over the network (with ``limit``, only the first rows).
            If False, the split is first downloaded to the cache of the ``datasets`` library.
        limit: stop after this many images; reading stops at the first row of the next image.

    Raises:
        SourceError: the data set cannot be opened, has no such split, or lacks a column.
    """
    bad.caption_key = "data.caption_column"
    data = _open(path, split, name, revision, streaming)
    image_column, caption_column = find_columns(
        path, data.columns, image_column, caption_column, lambda column: (row[column] for _, row in data.rows([column]))
    )
    selected = [image_column, caption_column] + ([id_column] if id_column else [])
    columns = [stored_column(column, data.columns) for column in selected]
    require_columns(path, columns, data.columns, named_by=f"{COLUMN_KEYS}, data.id_column=...")
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
    """Contains the data that the first pass collects about an image. The second pass reads the bytes of the image."""

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
            f"data: {path}: {sum(shared):,} rows share {counted(len(shared), 'images')} (the same bytes or path); each "
            "image gets the captions of all its rows"
        )


def _open(
    path: str | Path, split: str, name: str | None, revision: str | None, streaming: bool
) -> LocalTable | HubTable | Shards:
    tars, place = tar_files(path), Path(path)
    if not tars and not place.exists():
        if not may_be_on_hub(str(path)):
            raise SourceError(
                f"data.path={path} does not exist: use a parquet or arrow file, a folder, .tar files (shards/*.tar) or "
                f"a hub id{did_you_mean(path)}"
            )
        return HubTable(str(path), split, name, revision, streaming=streaming)
    for key, value in (("name", name), ("revision", revision)):
        if value is not None:
            raise SourceError(
                f"data.{key}={value} applies only to a hub id, but {path} is a local copy: remove data.{key}, or set "
                "data.path to the intended folder in this copy"
            )
    if tars:
        return Shards(path, tars)
    _check_table(place)
    return open_local(place, split)


def _check_table(path: Path) -> None:
    """Raise SourceError, which names ``data=image_folder``, for a CSV or JSON file, or a folder without a table."""
    if path.is_file() and path.suffix.lower() in (*CSV_SUFFIXES, *JSON_SUFFIXES):
        raise SourceError(f"{path} is not a parquet or arrow file: for a table with image files, use data=image_folder")
    if path.is_dir() and not is_table_folder(path):
        below = inputs_below(path)
        folder = f" data.path={path / below[0]} (sub-folders with such a table: {', '.join(below)})" if below else ""
        raise SourceError(
            f"{path} has no parquet file and was not written by save_to_disk; for image files with a table of "
            f"captions, use data=image_folder{folder}"
        )


def tar_files(path: str | Path) -> list[Path]:
    """Return the WebDataset shards that a path names: a .tar file, a folder of .tar files, or a pattern
    (``cc3m/*.tar``).
    """
    path = Path(path)
    if path.is_dir():
        return sorted(path.glob("*.tar"))
    if path.suffix != ".tar":
        return []
    return [path] if path.is_file() else [Path(file) for file in sorted(glob.glob(str(path)))]


def may_be_on_hub(path: str) -> bool:
    """Return whether a path that does not exist has the form of a hub id (``owner/name`` or ``name``)."""
    return is_hub_dataset_id(path if "/" in path else f"owner/{path}")


def _content(value: Any) -> str:
    """Return the key that rows of the same image share: the hash of the bytes, or the path."""
    data, path = image_fields(value)
    return hashlib.sha256(data).hexdigest() if data is not None else f"path {path}"


def _load(value: Any, path: Path, embed: bool, verify: bool) -> ImageFile:
    data, name = image_fields(value)
    if data is not None:
        image = ImageFile(bytes=data, path=name)
        if verify:
            verify_image(image)
        return image
    file = Path(name or "")
    folder = path if path.is_dir() else path.parent
    return load_image(file if exists(file) else find_image(folder, name or ""), embed=embed, verify=verify)
