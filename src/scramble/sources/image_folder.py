"""Reads images and their captions from a folder: a JSON, JSONL or CSV file of paths and captions, or a text file per
image.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from scramble.formats.bad_rows import BadRows, SourceError
from scramble.formats.checks import clean_captions, clean_id, exists, find_image, image_fault, image_name, load_image
from scramble.formats.csv_file import CSV_SUFFIXES, csv_names, csv_rows
from scramble.formats.data_files import JSON_SUFFIXES, object_rows, read_rows
from scramble.records import ImageRecord, RecordError
from scramble.sources.caption_files import caption_rows, has_caption_files
from scramble.sources.columns import IMAGE_COLUMNS, find_columns, matching, stored_column, value_at
from scramble.storage.similar_paths import did_you_mean

log = logging.getLogger(__name__)

FILE_NAMES = ("captions.jsonl", "captions.csv", "metadata.jsonl", "metadata.csv")
_TABLES = (*CSV_SUFFIXES, ".jsonl", ".ndjson")


def read(
    path: str | Path,
    bad: BadRows,
    *,
    images: str | Path | None = None,
    image_column: str | None = None,
    caption_column: str | None = None,
    id_column: str | None = None,
    embed: bool = True,
    verify: bool = True,
) -> Iterator[ImageRecord]:
    """Stream the images that a caption file lists, or the images of a folder with a text file next to each image.

    A row of a caption file has an image and one caption or a list of captions. Several rows, adjacent or not, can have
    the same image. Captions are loaded into memory. Images are read one at a time, in the order of their first rows. An
    image's id is the value of ``id_column``, or the image's path as written.

    Args:
        path: the file (``.jsonl``, ``.json``, or ``.csv``, ``.tsv`` or ``.txt`` with a header, see
            :mod:`scramble.formats.csv_file`), or a folder (:func:`find_input`).
        bad: collects rejected rows.
        images: the folder that the image paths are relative to; by default the file's folder, or the only sub-folder
            that contains one of the first images.
        image_column: the column of the image's path; if None,
            :func:`scramble.sources.columns.find_columns` selects it.
        caption_column: the column of the caption, or a key of a column of dictionaries (``json.caption``); if None,
            it is selected in the same way.
        embed, verify: see :func:`scramble.formats.checks.load_image`.

    Raises:
        SourceError: the file is missing, its content does not match its suffix, or a column is missing.
    """
    bad.images_key, bad.caption_key = "data.images", "data.caption_column"
    file = find_input(path, image_column)
    rows: Iterator[tuple[int | str, dict[str, Any]]]
    if file.is_dir():
        image_column, caption_column, id_column = "image", "caption", None
        rows = caption_rows(file, bad)
    else:
        names = _names(file)
        image_column, caption_column = find_columns(
            file,
            names,
            image_column,
            caption_column,
            lambda column: (row.get(column) for _, row in _rows(file, [column], BadRows())),
        )
        selected = [image_column, caption_column] + ([id_column] if id_column else [])
        rows = _rows(file, [stored_column(column, names) for column in selected], bad)
    grouped: dict[str, tuple[str, list[int | str], dict[str, None]]] = {}  # id -> path, its rows, its captions
    for number, row in rows:
        try:
            name = image_name(value_at(row, image_column))
            image_id = clean_id(value_at(row, id_column)) if id_column else name
            captions = clean_captions(value_at(row, caption_column))
        except RecordError as error:
            bad.reject(file, number, str(error), _detail(row, image_column, caption_column))
            continue
        first_name, numbers, image_captions = grouped.setdefault(image_id, (name, [], {}))
        if first_name != name:
            bad.reject(file, number, "duplicate id", f"{image_id} is {first_name} and {name}")
        elif repeated := [caption for caption in captions if caption in image_captions]:
            bad.reject(file, number, "duplicate caption", f"image {name}: {repeated[0]!r}")
        else:
            numbers.append(number)
            image_captions |= dict.fromkeys(captions)
    folder = Path(images) if images is not None else _image_folder(file, [name for name, _, _ in grouped.values()])
    for image_id, (name, numbers, image_captions) in grouped.items():
        image_file = find_image(folder, name)
        try:
            image = load_image(image_file, embed=embed, verify=verify)
        except RecordError as error:
            bad.reject(file, numbers[0], image_fault(image_file), str(error), rows=len(numbers))
            continue
        bad.use(len(numbers))
        source = f"image_folder:{file.absolute().parent.name}/{file.name}"
        yield ImageRecord(image_id, image, tuple(image_captions), source)


def find_input(path: str | Path, image_column: str | None = None) -> Path:
    """Return the caption file at or in ``path``, or the folder ``path`` if it has text files next to its images.

    In a folder, :data:`FILE_NAMES` take precedence over other tables. A table with another name must have an image
    column. Raises SourceError if there is no input, or more than one.
    """
    path = Path(path)
    if path.is_file():
        return path
    if not path.exists():
        raise SourceError(f"{path} does not exist: set data.path to the caption file or its folder{did_you_mean(path)}")
    files = [path / name for name in FILE_NAMES if (path / name).is_file()]
    if not files:
        files = [file for file in sorted(path.iterdir()) if _is_table(file, image_column, _TABLES)]
    if not files and has_caption_files(path):
        return path
    if not files:  # a JSON file often contains other data, such as settings or annotations
        files = [file for file in sorted(path.iterdir()) if _is_table(file, image_column, (".json",))]
    if not files and (below := inputs_below(path, image_column)):
        raise SourceError(
            f"{path} contains no captions, but its sub-folders do ({', '.join(below)}): set data.path to one of them "
            f"(data.path={path / below[0]})"
        )
    if len(files) != 1:
        what = "none of them" if not files else " and ".join(file.name for file in files)
        raise SourceError(
            f"{path} must contain exactly one of {', '.join(FILE_NAMES)} (or another table with an image column, or a "
            f".txt file with captions next to each image), but contains {what}: set data.path to the caption file"
        )
    return files[0]


def inputs_below(path: Path, image_column: str | None = None) -> list[str]:
    """Return the names of the sub-folders with a table of captions, such as the splits of ``imagefolder``.

    The names are sorted, except that ``train`` comes first.
    """
    folders = (folder for folder in path.iterdir() if folder.is_dir())
    names = [folder.name for folder in folders if any(_is_table(file, image_column) for file in folder.iterdir())]
    return sorted(names, key=lambda name: (name != "train", name))


def _is_table(file: Path, image_column: str | None, suffixes: Collection[str] = (*_TABLES, ".json")) -> bool:
    """Return whether a file has one of the suffixes and is a table with an image column."""
    if file.suffix.lower() not in suffixes or not file.is_file():
        return False
    try:
        names = _names(file)
    except SourceError:
        return False
    return image_column in names if image_column else bool(matching(names, IMAGE_COLUMNS))


def _names(file: Path) -> Collection[str]:
    """Return the names of a table's columns, from the first object of a JSON file or from the header."""
    if file.suffix.lower() in CSV_SUFFIXES:
        return csv_names(file)
    with suppress(SourceError):  # the code that reads the rows reports the error
        return next((list(row) for _, row in read_rows(file, lambda *_: None, needs=()) if isinstance(row, dict)), [])
    return []


def _image_folder(file: Path, names: Sequence[str]) -> Path:
    """Return the folder that image paths are relative to: the file's folder, or its only sub-folder that has one of the
    images.

    Only the first five paths are tested.
    """
    if file.is_dir():
        return file

    def has_images(folder: Path) -> bool:
        return any(exists(find_image(folder, name)) for name in names[:5])

    if has_images(file.parent):
        return file.parent
    folders = [folder for folder in sorted(file.parent.iterdir()) if folder.is_dir() and has_images(folder)]
    if len(folders) != 1:
        return file.parent
    log.info(f"data: {file}: the image paths are relative to {folders[0]} (data.images)")
    return folders[0]


def _detail(row: dict[str, Any], image_column: str, caption_column: str) -> str:
    """Return the image of a rejected row, or the names of the columns that the row lacks."""
    missing = [column for column in (image_column, caption_column) if stored_column(column, row) not in row]
    if missing:
        return f"no {' and '.join(missing)} among {', '.join(row)} (data.image_column=..., data.caption_column=...)"
    return f"image {value_at(row, image_column)}"


def _rows(file: Path, columns: list[str], bad: BadRows) -> Iterator[tuple[int, dict[str, Any]]]:
    if file.suffix.lower() in CSV_SUFFIXES:
        yield from csv_rows(file, columns, bad.reject)
    elif file.suffix.lower() in JSON_SUFFIXES:
        yield from object_rows(file, bad, columns[:1])
    else:
        raise SourceError(
            f"{file} is not a caption file: set data.path to a .jsonl or .json file with one object per row, or to a "
            ".csv, .tsv or .txt table; data=hf reads parquet files"
        )
