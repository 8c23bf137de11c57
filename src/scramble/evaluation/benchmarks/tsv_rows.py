"""Read TSV files in VLMEvalKit's format: an ``index`` column, texts, and images as base64 text or paths.

An image cell contains one of the following: an image in base64, a Python list of several images (``['...', '...']``),
or the index (at most 64 characters) of the row that contains the image. Files can be several gigabytes in size, so only
the texts are kept in memory. When an image is needed, it is read from the file again. An image that occurs in several
rows has one id.
"""

from __future__ import annotations

import ast
import binascii
import csv
import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from scramble.evaluation.benchmarks.image_files import folder_images
from scramble.evaluation.benchmarks.rejected import RejectedRows
from scramble.evaluation.items import EvaluationError
from scramble.formats.checks import PHOTO_SUFFIXES
from scramble.records import ImageFile, decoding_fault

POINTER_LENGTH = 64  # VLMEvalKit's limit in characters: a longer cell is an image
_CELL_LIMIT = 1 << 30  # characters; csv's default of 131,072 is less than a small image in base64
# Cells that pandas.read_csv, and therefore VLMEvalKit, treats as missing.
_PANDAS_MISSING = frozenset(
    {
        "#N/A N/A",
        "#N/A",
        "#NA",
        "-1.#IND",
        "-1.#QNAN",
        "-NaN",
        "-nan",
        "1.#IND",
        "1.#QNAN",
        "<NA>",
        "N/A",
        "NA",
        "NULL",
        "NaN",
        "None",
        "n/a",
        "nan",
        "null",
    }
)


@dataclass
class TsvRow:
    """One row: its index, its texts by column, and the ids of its images."""

    index: str
    cells: dict[str, str]
    image_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class TsvFile:
    """The usable rows of a file. ``digest`` is the SHA-256 hash of the file. ``without_image`` is the number of rows
    that were skipped because they have no image.
    """

    path: Path
    columns: tuple[str, ...]
    rows: list[TsvRow]
    images: Mapping[str, ImageFile]
    digest: str
    without_image: int


def read_tsv(name: str, path: Path, folder: Path, bad: RejectedRows) -> TsvFile:
    """Read a file once, and check the encoding of every image.

    Args:
        folder: folder of the images, if the file contains paths.
        bad: receives the rows that cannot be used.

    Raises:
        EvaluationError: the file is not a TSV file with the columns ``index``, ``question``, and ``image`` or
            ``image_path``.
    """
    reader = _Reader(name, path)
    images = TsvImages(path, reader.columns, folder)
    rows: list[TsvRow] = []
    pointers: list[tuple[TsvRow, str]] = []
    seen: set[str] = set()
    without = 0
    for number, (span, cells) in enumerate(reader, 1):
        with bad.row(number):
            if len(cells) != len(reader.columns):
                raise EvaluationError(
                    f"row {number} has {len(cells)} fields, but the header has {len(reader.columns)}: correct this row"
                )
            values = dict(zip(reader.columns, cells, strict=True))
            row = TsvRow(values.pop("index").strip(), values)
            if not row.index or row.index in seen:
                fault = f"index {row.index!r} appears twice" if row.index else f"row {number} has no index"
                raise EvaluationError(f"{fault}: correct this row")
            seen.add(row.index)
            cell = values.pop("image", "").strip()
            path_cell = values.pop("image_path", "").strip()
            if not cell and not path_cell:
                without += 1
                continue
            if cell and len(cell) <= POINTER_LENGTH and not cell.startswith("["):
                pointers.append((row, cell))
            else:
                row.image_ids = images.add(row.index, span, cell) if cell else images.add_paths(row.index, path_cell)
            rows.append(row)
    _resolve(rows, pointers, images, bad)
    images.find_files(name, rows, bad)
    return TsvFile(path, reader.columns, rows, images, reader.lines.digest.hexdigest(), without)


def _resolve(rows: list[TsvRow], pointers: list[tuple[TsvRow, str]], images: TsvImages, bad: RejectedRows) -> None:
    """Replace each image cell that is the index of another row with the images of that row. Reject the row if the other
    row does not exist or has no image.
    """
    ids = {row.index: row.image_ids for row in rows}
    for row, cell in pointers:
        if ids.get(cell):
            row.image_ids = ids[cell]
        elif cell.lower().endswith(PHOTO_SUFFIXES):
            row.image_ids = images.add_paths(row.index, cell)
        else:
            reason = (
                f"index {row.index}: the image cell {cell!r} is neither an image nor the index of a row with an image: "
                "correct this row"
            )
            bad.reject(bad.source, row.index, reason)
    rows[:] = [row for row in rows if row.image_ids]


def as_pandas(rows: list[TsvRow]) -> None:
    """Change cells as ``pandas.read_csv`` does, so that prompts equal VLMEvalKit's. ``NA``, ``None``, ``null`` and
    similar values become empty. The numbers in a column with missing values or fractions become floats (``1`` becomes
    ``1.0``).
    """
    for column in rows[0].cells if rows else ():
        values = [row.cells[column] for row in rows]
        values = ["" if value in _PANDAS_MISSING else value for value in values]
        numbers = [_number(value) for value in values if value]
        if numbers and None not in numbers:
            whole = all(isinstance(number, int) for number in numbers) and all(values)
            values = [str(_number(v) if whole else float(_number(v) or 0)) if v else "" for v in values]
        for row, value in zip(rows, values, strict=True):
            row.cells[column] = value


def _number(text: str) -> int | float | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None


# ---------------------------------------------------------------------------------------------------------- the file


class _Lines:
    """The lines of a UTF-8 file, with the number and the digest of the bytes that have been read."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path = name, path
        self.offset = 0
        self.digest = hashlib.sha256()

    def __iter__(self) -> Iterator[str]:
        try:
            with self.path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    self.offset += len(line)
                    self.digest.update(line)
                    try:
                        yield line.decode("utf-8-sig" if number == 1 else "utf-8")
                    except UnicodeDecodeError as error:
                        raise EvaluationError(
                            f"{self.name}: {self.path}, line {number} is not UTF-8 text: "
                            f"set benchmark.{self.name}.root to the path of a TSV file"
                        ) from error
        except OSError as error:
            raise EvaluationError(
                f"{self.name}: {self.path} cannot be read ({error.strerror or error}): check benchmark.{self.name}.root"
            ) from error


class _Reader:
    """The header of a file, and its rows with their positions in the file (first byte and end)."""

    def __init__(self, name: str, path: Path) -> None:
        csv.field_size_limit(_CELL_LIMIT)
        self.lines = _Lines(name, path)
        self._rows = csv.reader(iter(self.lines), delimiter="\t", strict=True)
        first = self._next()
        if first is None:
            raise EvaluationError(f"{name}: {path} is empty: download the file again")
        self.columns = tuple(column.strip() for column in first)
        _check_columns(name, path, self.columns)

    def __iter__(self) -> Iterator[tuple[tuple[int, int], list[str]]]:
        start = self.lines.offset
        while (row := self._next()) is not None:
            if row:
                yield (start, self.lines.offset), row
            start = self.lines.offset

    def _next(self) -> list[str] | None:
        try:
            return next(self._rows, None)
        except csv.Error as error:
            where = f"{self.lines.path}, line {self._rows.line_num}"
            raise EvaluationError(
                f"{self.lines.name}: {where} is not valid TSV ({error}): download the file again"
            ) from error


def _check_columns(name: str, path: Path, columns: tuple[str, ...]) -> None:
    shown = ", ".join(column[:30] for column in columns[:20])
    if len(set(columns)) < len(columns):
        raise EvaluationError(f"{name}: {path} has two columns with the same name ({shown}): rename one of them")
    missing = [column for column in ("index", "question") if column not in columns]
    if not {"image", "image_path"} & set(columns):
        missing.append("image or image_path")
    if missing:
        is_csv = len(columns) == 1 and shown.count(",") > 1
        fix = "separate the columns with tabs, not commas" if is_csv else f"check benchmark.{name}.root"
        raise EvaluationError(
            f"{name}: {path} has no column {', '.join(missing)}, only {shown or 'an empty header'}: {fix}"
        )


# ---------------------------------------------------------------------------------------------------------- images


class TsvImages(Mapping[str, ImageFile]):
    """Images by id. The id of an image is its path, or the index of the first row that contains it
    (``<index>/<number>`` for an image in a list).
    """

    def __init__(self, path: Path, columns: tuple[str, ...], folder: Path) -> None:
        self._path, self._columns, self._folder = path, columns, folder
        self._places: dict[str, tuple[tuple[int, int], int]] = {}
        self._same: dict[bytes, str] = {}
        self._files: Mapping[str, ImageFile] = {}

    def add(self, index: str, span: tuple[int, int], cell: str) -> tuple[str, ...]:
        """Register the images of a cell and return their ids. Raises EvaluationError for a cell without an image."""
        parts = _parts(index, cell)
        ids = []
        for number, part in enumerate(parts):
            data = decoded(f"index {index}", part)
            key = hashlib.sha256(data).digest()
            image_id = self._same.setdefault(key, index if len(parts) == 1 else f"{index}/{number}")
            self._places.setdefault(image_id, (span, number))
            ids.append(image_id)
        return tuple(ids)

    def add_paths(self, index: str, cell: str) -> tuple[str, ...]:
        """Return the paths in a cell, which are the ids of the images."""
        return tuple(_parts(index, cell))

    def find_files(self, name: str, rows: list[TsvRow], bad: RejectedRows) -> None:
        """Find the files of images that are given as paths, either absolute or below the folder. Reject rows with
        missing files.
        """
        paths = dict.fromkeys(i for row in rows for i in row.image_ids if i not in self._places)
        files: dict[str, ImageFile] = {p: ImageFile(path=p) for p in paths if Path(p).is_absolute()}
        relative = [p for p in paths if p not in files]
        present = [p for p in relative if (self._folder / p).is_file()]
        files |= {p: ImageFile(path=str(self._folder / p)) for p in present}
        if others := [p for p in relative if p not in files]:
            files |= folder_images(name, self._folder, others)
        self._files = files
        absent = {p for p in files if not Path(files[p].path or "").is_file()}
        for row in rows if absent else ():
            if lost := absent & set(row.image_ids):
                reason = f"index {row.index}: the image file {min(lost)} does not exist: finish the download"
                bad.reject(bad.source, row.index, reason)
        rows[:] = [row for row in rows if not absent & set(row.image_ids)]

    def __getitem__(self, image_id: str) -> ImageFile:
        if image_id in self._files:
            return self._files[image_id]
        (start, end), number = self._places[image_id]
        with self._path.open("rb") as file:
            cells = _record(file, start, end)
        cell = cells[self._columns.index("image")].strip()
        return ImageFile(bytes=decoded(f"index {image_id}", _parts(image_id, cell)[number]))

    def __iter__(self) -> Iterator[str]:
        yield from self._places
        yield from self._files

    def __len__(self) -> int:
        return len(self._places) + len(self._files)


def _record(file: IO[bytes], start: int, end: int) -> list[str]:
    file.seek(start)
    text = file.read(end - start).decode("utf-8-sig")
    return next(csv.reader(io.StringIO(text, newline=""), delimiter="\t"))


def _parts(index: str, cell: str) -> list[str]:
    """Return the elements of a list literal, or the cell itself."""
    if not cell.startswith("["):
        return [cell]
    try:
        parts: Any = ast.literal_eval(cell)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise EvaluationError(
            f"index {index}: the image cell is not a list ({cell[:40]!r}...): correct this row"
        ) from error
    if not isinstance(parts, list) or not parts or not all(isinstance(part, str) and part.strip() for part in parts):
        raise EvaluationError(
            f"index {index}: the image cell is not a list of images ({cell[:40]!r}...): correct this row"
        )
    return [part.strip() for part in parts]


def decoded(where: str, text: str) -> bytes:
    """Return the bytes of the image in a base64 text or data URL. The header of the image is decoded to reject data
    that is not an image.
    """
    from PIL import Image

    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        data = binascii.a2b_base64("".join(text.split()), strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise EvaluationError(f"{where}: the image is not valid base64 ({error}): download the data again") from error
    try:
        with Image.open(io.BytesIO(data)):
            return data
    except Exception as error:  # Pillow raises exceptions of many types for broken files
        raise EvaluationError(
            f"{where}: the image cannot be decoded ({decoding_fault(error)}): download the data again"
        ) from error
