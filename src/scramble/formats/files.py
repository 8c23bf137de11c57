"""Writes and reads pair data sets in the file formats of other projects, with image files or embedded images."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from scramble.formats import mmpr, rows
from scramble.formats.images import names_of, write_images
from scramble.formats.provenance import COLUMN, FormatError
from scramble.formats.readers import ANSWERS
from scramble.records import ImageRecord, PreferencePair
from scramble.storage.files import StoreError, atomic_path, read_json, write_json
from scramble.storage.jsonl import json_lines, json_values
from scramble.storage.tables import ROW_GROUP

# For each format, the name of the file and the function that converts a pair to a row.
FORMATS: dict[str, tuple[str, Callable[..., dict[str, Any]]]] = {
    "trl": ("pairs.jsonl", rows.to_trl),
    "trl-parquet": ("pairs.parquet", rows.to_trl),
    "scramble": ("scramble.json", rows.to_scramble_release),
    "llama-factory": ("llama_factory.json", rows.to_llama_factory),
    "ms-swift": ("ms_swift.jsonl", rows.to_ms_swift),
    "mmpr": ("mmpr.jsonl", rows.to_mmpr),
}


def write(
    name: str, images: Iterable[ImageRecord], pairs: Iterable[PreferencePair], folder: str | Path
) -> tuple[Path, int]:
    """Write a pair data set in the format of another project.

    Images are written with unchanged bytes to ``folder/images/``, and rows contain the paths relative to ``folder``.
    For ``trl-parquet``, the parquet file contains the images instead. For ``llama-factory``, ``dataset_info.json`` is
    also written, and for ``mmpr``, ``meta.json``.

    Returns:
        The file of rows, and the number of rows.
    Raises:
        FormatError: the format is unknown, a pair's image is missing, or the format cannot represent a pair.
    """
    if name not in FORMATS:
        raise FormatError(f"unknown format {name!r}: choose one of {', '.join(FORMATS)}")
    file, to_row = FORMATS[name]
    folder = Path(folder)
    files = write_images(images, folder / "images")
    names = {image_id: path.relative_to(folder).as_posix() for image_id, path in files.items()}
    stream = (to_row(pair, names_of(pair, names)) for pair in pairs)
    if name == "trl-parquet":
        count = _write_parquet(folder / file, stream, folder)
        for path in files.values():
            path.unlink()
        (folder / "images").rmdir()
    else:
        count = _write_lines(folder / file, stream, array=file.endswith(".json"))
    if name == "llama-factory":
        write_json(folder / "dataset_info.json", {"scramble_pairs": {"file_name": file, **rows.DATASET_INFO}})
    if name == "mmpr":
        mmpr.write_meta(folder / mmpr.META, [mmpr.MmprSet("scramble", ".", file, length=count)])
    return folder / file, count


def _write_lines(path: Path, stream: Iterable[dict[str, Any]], array: bool) -> int:
    """Write one JSON object per line. With ``array``, the file is one JSON array, still with one row per line."""
    count = 0
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in stream:
            if array:
                file.write("[\n" if count == 0 else ",\n")
            file.write(json.dumps(row, ensure_ascii=False))
            if not array:
                file.write("\n")
            count += 1
        if array:
            file.write("\n]\n" if count else "[]\n")
    return count


def _write_parquet(path: Path, stream: Iterable[dict[str, Any]], folder: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Features, Image, List, Value

    part = {"type": Value("string"), "text": Value("string")}
    messages = List({"role": Value("string"), "content": List(part)})
    schema = Features(
        {"prompt": messages, "chosen": messages, "rejected": messages, "images": List(Image()), COLUMN: Value("string")}
    ).arrow_schema
    count, batch = 0, []
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for row in stream:
            row["images"] = [{"bytes": (folder / name).read_bytes(), "path": Path(name).name} for name in row["images"]]
            row[COLUMN] = json.dumps(row[COLUMN], ensure_ascii=False)
            batch.append(row)
            count += 1
            if len(batch) == ROW_GROUP:
                writer.write_table(pa.Table.from_pylist(batch, schema))
                batch = []
        writer.write_table(pa.Table.from_pylist(batch, schema))
    return count


LINES = (".jsonl", ".ndjson", ".json")
TABLES = (".csv", ".tsv")
ROW_FILES = (*LINES, *TABLES, ".parquet")
IMAGE_COLUMNS = ("image", "images", "filename", "image_path")


def read_rows(path: Path, on_bad: OnBadRow | None = None) -> Iterator[tuple[int, Any]]:
    """Yield the number (from 1) and content of each row of a JSON, JSONL, CSV or parquet file.

    ``on_bad`` is called for bad rows. JSON files contain a list of rows or one row per line, independently of their
    suffix. For a CSV file, the number is the number of the line.

    Raises:
        FormatError: the file cannot be read, or a row cannot be read and ``on_bad`` is None.
    """
    if not path.is_file():
        raise FormatError(f"{path} does not exist: set the path to the file of rows or its folder")
    on_bad = on_bad or refuse
    try:
        if path.suffix.lower() == ".parquet":
            yield from enumerate(_parquet_rows(path), 1)
        elif path.suffix.lower() in TABLES:
            yield from _table_rows(path, on_bad)
        else:
            yield from _json_rows(path, on_bad)
    except StoreError as error:
        raise FormatError(str(error)) from error
    except UnicodeDecodeError as error:  # raised by Arrow
        raise FormatError(f"cannot read {path}: not valid UTF-8 ({error})") from error


OnBadRow = Callable[[Path, int | str, str], None]
"""A function that is called with the file, the row's number or key, and the reason why the row cannot be used."""


def refuse(path: Path, row: int | str, reason: str) -> None:
    """Raise FormatError for a row. This is the :data:`OnBadRow` of callers that do not accept bad rows."""
    raise FormatError(f"{path}, {'key' if isinstance(row, str) else 'row'} {row}: {reason}")


def _parquet_rows(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Verify page checksums if the file has checksums. Otherwise a damaged page could be read as a different text.
        for batch in pq.ParquetFile(path, page_checksum_verification=True).iter_batches(batch_size=ROW_GROUP):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise FormatError(
            f"{path} is not a readable parquet file ({str(error).splitlines()[0]}): copy or download it again"
        ) from error


def _json_rows(path: Path, on_bad: OnBadRow) -> Iterator[tuple[int, Any]]:
    if not _holds_lines(path):
        content = read_json(path)
        if not isinstance(content, list):
            raise FormatError(f"{path} does not contain a list of rows")
        yield from enumerate(content, 1)
        return
    number = 0
    for _, line in json_lines(path):
        try:
            values = json_values(line)
        except ValueError as error:
            number += 1
            on_bad(path, number, f"not JSON ({error})")
            continue
        for value in values:
            number += 1
            yield number, value


def _holds_lines(path: Path) -> bool:
    """Return whether a JSON file has one row per line, which is the case if its first line is a JSON object and other
    lines follow.

    A ``.jsonl`` file also counts as having one row per line, unless it starts with ``[``.
    """
    lines = json_lines(path)
    _, first = next(lines, (1, b""))
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return not first.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    try:
        return all(isinstance(value, dict) for value in json_values(first)) and next(lines, None) is not None
    except ValueError:
        return False


def _table_rows(path: Path, on_bad: OnBadRow) -> Iterator[tuple[int, Any]]:
    """Yield the rows of a table with any of :data:`scramble.formats.readers.ANSWERS` as columns.

    The image column is used to find where a row begins.
    """
    from scramble.formats.bad_rows import BadRows, SourceError
    from scramble.formats.csv_file import csv_names, csv_rows

    class Rows(BadRows):
        def reject(self, file: str | Path, row: int | str, kind: str, detail: str = "", rows: int = 1) -> None:
            on_bad(Path(file), row, kind)

    try:
        names = csv_names(path)
        answers = next((pair for pair in ANSWERS if set(pair) <= names), None)
        if answers is None:
            pairs_of_columns = " nor ".join(" and ".join(pair) for pair in ANSWERS)
            raise FormatError(f"{path}: the header has neither {pairs_of_columns}: rename the columns")
        image = next(([name] for name in IMAGE_COLUMNS if name in names), [])
        yield from csv_rows(path, [*image, *answers], Rows())
    except SourceError as error:
        raise FormatError(str(error)) from error
