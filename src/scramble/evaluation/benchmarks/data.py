"""Read benchmark data from hub data sets, local copies, JSON files and CSV files, and check values and item counts."""

from __future__ import annotations

import ast
import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from scramble.evaluation.items import EvaluationError
from scramble.records import ImageFile
from scramble.storage.files import StoreError, read_json, read_text
from scramble.storage.jsonl import json_lines, json_values

Content = TypeVar("Content")


def hub_rows(name: str, hub_id: str, split: str, root: str | Path | None, config: str | None = None) -> Any:
    """Return a split of a hub data set, or of a local folder with the same layout (parquet files). Images are not
    decoded. ``config`` is the configuration of the hub data set.

    Raises:
        EvaluationError: the data set is gated, missing or damaged; the message explains how to get the data.
    """
    from datasets import Image, List, load_dataset

    source = hub_id if root is None else str(root)
    if root is not None and not Path(root).exists():
        raise EvaluationError(f"{name}: {root} does not exist: set benchmark.{name}.root to a copy of {hub_id}")
    # The datasets library would look for a data set with the name of the file on the hub.
    if root is not None and not Path(root).is_dir():
        raise EvaluationError(
            f"{name}: {root} is a file: set benchmark.{name}.root to a folder with the parquet files of {hub_id}, or "
            "use benchmark=[tsv] for your own questions"
        )
    try:
        rows = load_dataset(source, None if root is not None else config, split=split)
    except Exception as error:  # datasets and huggingface_hub raise exceptions of many types
        raise EvaluationError(
            f"{name}: {source} cannot be read ({type(error).__name__}: {_first_line(error)}): "
            f"{_how_to_get(name, hub_id)}"
        ) from error
    for column, feature in rows.features.items():
        is_image, is_list = _image_types(feature)
        if is_image or is_list:
            rows = rows.cast_column(column, List(Image(decode=False)) if is_list else Image(decode=False))
    return rows


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]


def _how_to_get(name: str, hub_id: str) -> str:
    return (
        f"if the data set is gated, accept the terms at https://huggingface.co/datasets/{hub_id} and run "
        f"`hf auth login`; without network access, set benchmark.{name}.root to a downloaded copy"
    )


def download(name: str, hub_id: str, repo_type: str = "dataset") -> Path:
    """Download a hub repository and return its folder. Raises EvaluationError if the download fails; the message
    explains how to get the data.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, repo_type=repo_type))
    except Exception as error:  # huggingface_hub raises exceptions of many types
        raise EvaluationError(
            f"{name}: {hub_id} cannot be downloaded ({type(error).__name__}: {_first_line(error)}): "
            f"{_how_to_get(name, hub_id)}"
        ) from error


def columns(name: str, rows: Any, required: Sequence[str]) -> None:
    """Raise EvaluationError if a data set lacks a required column. The message names the missing columns."""
    if missing := [column for column in required if column not in rows.column_names]:
        raise EvaluationError(
            f"{name}: the data set has no column {', '.join(missing)}, only {', '.join(rows.column_names)}: "
            f"check benchmark.{name}.root"
        )


class HubImages(Mapping[str, ImageFile]):
    """Images of a hub data set by id. An image is read from its row when it is accessed."""

    def __init__(self, rows: Any) -> None:
        self._rows = rows
        self._places: dict[str, tuple[int, str]] = {}

    def add(self, image_id: str, row: int, column: str) -> str:
        """Register the row and column of an image and return its id."""
        self._places.setdefault(image_id, (row, column))
        return image_id

    def __getitem__(self, image_id: str) -> ImageFile:
        row, column = self._places[image_id]
        value = self._rows[row][column]
        if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
            value = value[0] if value else None
        if not isinstance(value, Mapping) or not (value.get("bytes") or value.get("path")):
            raise EvaluationError(
                f"image {image_id!r} is missing, because row {row} of the data set has no image in column {column}: "
                "download the data again"
            )
        return ImageFile(bytes=value.get("bytes"), path=value.get("path"))

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def hub_rows_and_images(
    name: str, hub_id: str, split: str, root: str | Path | None, required: Sequence[str], image_id: str
) -> tuple[list[dict[str, Any]], HubImages]:
    """Return the rows of a hub data set without the column ``image``, and the images, which are read on demand. Each
    row contains the id of its image in ``image_name``.

    Args:
        required: columns that the data set must have.
        image_id: column with the id of the image. If a row has no value in this column, its ``question_id`` is used.
    """
    data = hub_rows(name, hub_id, split, root)
    columns(name, data, required)
    images = HubImages(data)
    rows = []
    for number, row in enumerate(text_rows(name, data)):
        column = image_id if row.get(image_id) is not None else "question_id"
        image, _ = ids(name, row, f"row {number}", column, "question_id")
        rows.append({**row, "image_name": images.add(image, number, "image")})
    return rows, images


def text_rows(name: str, data: Any) -> list[dict[str, Any]]:
    """Return the rows of a hub data set without their image columns, so that no images are read.

    Raises EvaluationError if a row is damaged. The message names the row.
    """
    images = [column for column, feature in data.features.items() if any(_image_types(feature))]
    rows: list[dict[str, Any]] = []
    try:
        rows.extend(data.remove_columns(images))
    except Exception as error:  # datasets raises exceptions of many types, for invalid UTF-8 or broken pages
        raise EvaluationError(
            f"{name}: row {len(rows)} cannot be read ({type(error).__name__}: {_first_line(error)}): download the data "
            "again"
        ) from error
    return rows


def _image_types(feature: Any) -> tuple[bool, bool]:
    """Return whether a column contains images, and whether it contains lists of images."""
    from datasets import Image

    return isinstance(feature, Image), isinstance(getattr(feature, "feature", None), Image)


def find_file(name: str, root: str | Path, *patterns: str) -> Path:
    """Return ``root`` if it is a file, else the first file below ``root`` that matches a pattern. Raises
    EvaluationError if no file matches.
    """
    root = Path(root)
    if root.is_file():
        return root
    for pattern in patterns:
        if files := sorted(root.rglob(pattern)):
            return files[0]
    raise EvaluationError(f"{name}: there is no {' or '.join(patterns)} below {root}: check benchmark.{name}.root")


def load_json(name: str, path: Path) -> Any:
    """Return the content of a JSON file, or the rows of a JSON lines file, regardless of the file's suffix.

    Raises EvaluationError if the file is empty, truncated or damaged. The message names the file and, for a JSON lines
    file, the damaged line.
    """
    try:
        return read_json(path)
    except StoreError as error:
        rows: list[Any] = []
        try:
            for number, line in json_lines(path):
                try:
                    rows.extend(json_values(line))
                except ValueError as broken:
                    if not rows:  # no line was valid, so the file is not in JSON lines format
                        raise EvaluationError(f"{name}: {error}: download the file again") from error
                    raise EvaluationError(
                        f"{name}: {path}, line {number} is not JSON ({broken}): download the file again"
                    ) from broken
        except StoreError as unreadable:
            raise EvaluationError(f"{name}: {unreadable}") from unreadable
        if not rows:
            raise EvaluationError(f"{name}: {path} is empty: download the file again") from error
        return rows


def json_rows(name: str, path: Path, rows: Any = None) -> list[dict[str, Any]]:
    """Return the objects in a file that contains a JSON list or JSON lines. ``rows`` is the content of the file if the
    file has been read already.

    Raises EvaluationError if an entry is not an object. The message names the entry.
    """
    rows = load_json(name, path) if rows is None else rows
    if isinstance(rows, dict) and not all(isinstance(row, dict) for row in rows.values()):
        rows = [rows]  # JSON lines with one line
    if not isinstance(rows, list):
        raise EvaluationError(
            f"{name}: {path} contains {_kind(rows)}, not a list of entries: check benchmark.{name}.root"
        )
    return [_object(name, row, f"entry {number} of {path}") for number, row in enumerate(rows)]


def json_entries(name: str, path: Path) -> dict[str, dict[str, Any]]:
    """Return the objects in a file that contains a JSON object, by key. Raises EvaluationError for any other
    content.
    """
    entries = load_json(name, path)
    if not isinstance(entries, dict):
        raise EvaluationError(
            f"{name}: {path} contains {_kind(entries)}, not an object that maps keys to entries: "
            f"check benchmark.{name}.root"
        )
    return {key: _object(name, entry, f"entry {key} of {path}") for key, entry in entries.items()}


def _object(name: str, row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise EvaluationError(f"{name}: {where} is {_kind(row)}, not an object: download the file again")
    return row


def _kind(value: Any) -> str:
    names = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def benchmark_csv_rows(name: str, path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file with a header. The file is parsed strictly. White space around the column names is
    removed.

    Raises EvaluationError if a row has too few or too many fields, or if a quote is not closed. The message names the
    line.
    """
    try:
        lines = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    except StoreError as error:
        raise EvaluationError(f"{name}: {error}") from error
    rows: list[dict[str, str]] = []
    header: list[str] = []
    start = 0
    try:
        for row in lines:
            start, line = lines.line_num, start + 1
            if not row:
                continue
            if not header:
                header = [column.strip() for column in row]
                if len(set(header)) < len(header):
                    raise EvaluationError(f"{name}: {path} has two columns with the same name: download the file again")
            elif len(row) != len(header):
                raise EvaluationError(
                    f"{name}: {path}, line {line} has {len(row)} fields, but the header has {len(header)}: download "
                    "the file again"
                )
            else:
                rows.append(dict(zip(header, row, strict=True)))
    except csv.Error as error:
        raise EvaluationError(
            f"{name}: {path}, line {start + 1} is not valid CSV ({error}): download the file again"
        ) from error
    return rows


def fields(name: str, row: Mapping[str, Any], where: str, *keys: str) -> list[Any]:
    """Return the values of required keys. Raises EvaluationError if a key is missing. The message names the row and the
    missing keys.
    """
    if missing := [key for key in keys if row.get(key) is None]:
        raise EvaluationError(
            f"{name}: {where} has no {', '.join(missing)}, only {', '.join(map(str, row)) or 'an empty object'}: check "
            f"benchmark.{name}.root"
        )
    return [row[key] for key in keys]


def texts(name: str, row: Mapping[str, Any], where: str, *keys: str) -> list[str]:
    """Return the unchanged values of required keys. Raises EvaluationError if a value is not a string or is
    blank.
    """
    values = fields(name, row, where, *keys)
    for key, value in zip(keys, values, strict=True):
        if not isinstance(value, str) or not value.strip():
            what = "empty" if isinstance(value, str) else f"{_kind(value)} ({value!r:.60}), not a string"
            raise EvaluationError(f"{name}: {where}: {key} is {what}: download the data again")
    return values


def ids(name: str, row: Mapping[str, Any], where: str, *keys: str) -> list[str]:
    """Return the values of required keys, which are ids, answers or file names, as text. Raises EvaluationError if
    a value is neither a number nor a non-blank string.
    """
    values = fields(name, row, where, *keys)
    for key, value in zip(keys, values, strict=True):
        if isinstance(value, str) and not value.strip():
            raise EvaluationError(f"{name}: {where}: {key} is empty: download the data again")
        if isinstance(value, bool) or not isinstance(value, (str, int, float)) or value != value:
            raise EvaluationError(
                f"{name}: {where}: {key} is {_kind(value)} ({value!r:.60}), not a string or a number: download the "
                "data again"
            )
    return [str(value) for value in values]


def whole_ids(name: str, row: Mapping[str, Any], where: str, *keys: str) -> list[str]:
    """Return the values of :func:`ids`, but write a float without a fraction as an integer ("3" for 3.0), because tools
    that write tables turn a column of integers with missing values into floats.
    """
    numbers = {key: row.get(key) for key in keys}
    integers = {key: int(n) for key, n in numbers.items() if isinstance(n, float) and n.is_integer()}
    return ids(name, {**row, **integers}, where, *keys)


def by_id(name: str, path: Path, key: str, content: Callable[[dict[str, Any], str], Content]) -> dict[str, Content]:
    """Return a dictionary from the ids of a file's entries to their contents. The id of an entry is its value of
    ``key``.

    Args:
        content: function that returns the content of an entry. Its second argument is the name of the entry for
            messages.

    Raises:
        EvaluationError: two entries have the same id and different contents.
    """
    contents: dict[str, Content] = {}
    for number, row in enumerate(json_rows(name, path)):
        where = f"entry {number} of {path}"
        (row_id,) = whole_ids(name, row, where, key)
        value = content(row, where)
        if contents.setdefault(row_id, value) != value:
            raise EvaluationError(
                f"{name}: {where}: {key} {row_id} has different content in an earlier entry: remove one of the two "
                "entries"
            )
    return contents


def listed_options(name: str, where: str, key: str, listed: str) -> tuple[str, ...]:
    """Parse the options from a Python list literal ("['a cat', 'a dog']"). Raises EvaluationError for any other
    text.
    """
    try:
        options = ast.literal_eval(listed)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise EvaluationError(
            f"{name}: {where}: {key} is {listed!r:.120}, which is not a list: download the data again"
        ) from error
    if not isinstance(options, (list, tuple)):
        raise EvaluationError(
            f"{name}: {where}: {key} is {listed!r:.120}, which is not a list: download the data again"
        )
    return tuple(str(option) for option in options)


def one_of(name: str, where: str, key: str, value: str, allowed: Sequence[str]) -> str:
    """Return ``value`` if it is one of ``allowed``. Otherwise raise EvaluationError with a message that names the row
    and the key.
    """
    if value not in tuple(allowed):  # tuple() splits a string into letters
        raise EvaluationError(
            f"{name}: {where}: {key} is {value!r:.60}, which is not one of {', '.join(allowed)}: download the data "
            "again"
        )
    return value


def check_option(name: str, key: str, value: str, allowed: Sequence[str]) -> None:
    """Raise EvaluationError if the option ``key`` of a benchmark has a value that is not one of ``allowed``."""
    if value not in allowed:
        raise EvaluationError(f"benchmark.{name}.{key}={value!r} must be one of {', '.join(map(repr, allowed))}")


def check_count(name: str, count: int, versions: Mapping[int, str], partial: bool) -> str:
    """Return the version of the data that has this number of items. If no counts are known, or ``partial`` accepts an
    incomplete copy, the returned version contains the number.

    Raises EvaluationError for any other number.
    """
    if count in versions:
        return versions[count]
    if partial or not versions:
        return f"partial-{count}" if partial else f"n{count}"
    counts = " or ".join(str(n) for n in versions)
    raise EvaluationError(
        f"{name}: the data has {count} items, but the benchmark has {counts}: finish the download, or set "
        f"benchmark.{name.partition(':')[0]}.partial=true to evaluate an incomplete copy"
    )
