"""Writes pair data sets in the file formats of other projects, with image files or embedded images."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from scramble.formats import mmpr, rows
from scramble.formats.bad_rows import FormatError
from scramble.formats.images import names_of, write_images
from scramble.formats.provenance import PROVENANCE_COLUMN
from scramble.records import ImageRecord, PreferencePair
from scramble.storage.files import atomic_path, write_json
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
    """Write a pair data set in the format ``name``, which is a key of :data:`FORMATS`.

    Images are written with unchanged bytes to ``folder/images/``, and rows contain the paths relative to ``folder``.
    For ``trl-parquet``, the parquet file contains the images instead. For ``llama-factory``, a
    ``dataset_info.json`` is also written, and for ``mmpr``, a ``meta.json``.

    Returns:
        The path of the data file, and the number of rows.
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
    """Write one row per line, and return the number of rows. With ``array``, the file is a single JSON array."""
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
        {
            "prompt": messages,
            "chosen": messages,
            "rejected": messages,
            "images": List(Image()),
            PROVENANCE_COLUMN: Value("string"),
        }
    ).arrow_schema
    count, batch = 0, []
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for row in stream:
            row["images"] = [{"bytes": (folder / name).read_bytes(), "path": Path(name).name} for name in row["images"]]
            row[PROVENANCE_COLUMN] = json.dumps(row[PROVENANCE_COLUMN], ensure_ascii=False)
            batch.append(row)
            count += 1
            if len(batch) == ROW_GROUP:
                writer.write_table(pa.Table.from_pylist(batch, schema))
                batch = []
        writer.write_table(pa.Table.from_pylist(batch, schema))
    return count
