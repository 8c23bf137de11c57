"""Any data set that the ``datasets`` library opens: a hub id, a saved folder, local parquet or arrow files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from scramble.records import ImageFile, ImageRecord, RecordError
from scramble.sources.bad_rows import BadRows, SourceError
from scramble.sources.images import clean_captions, load_image, verify_image


def read(
    path: str | Path,
    bad: BadRows,
    *,
    image_column: str = "image",
    caption_column: str = "caption",
    id_column: str | None = None,
    split: str = "train",
    name: str | None = None,
    revision: str | None = None,
    embed: bool = True,
    verify: bool = True,
) -> Iterator[ImageRecord]:
    """Stream the rows of a data set, one image a row.

    The caption column holds a text or a list of texts; the image column a ``datasets`` image, encoded bytes, or a
    path. With ``id_column``, neighbouring rows of one id are one image with several captions; without it, the id is
    the row's number.

    Args:
        path: hub id, folder written by ``save_to_disk``, parquet or arrow file, or a folder of parquet files.
        name: the configuration of a hub data set.
        revision: its commit; name it, and the run can be repeated.

    Raises:
        SourceError: the data set cannot be opened or lacks a column.
    """
    rows = _open(path, split, name, revision)
    columns = [image_column, caption_column] + ([id_column] if id_column else [])
    _require(path, columns, rows)
    source = f"hf:{Path(path).name if Path(path).exists() else path}"
    seen: set[str] = set()
    current: ImageRecord | None = None
    merged = 0
    for number, row in enumerate(_encoded(rows, image_column), 1):
        image_id = str(row[id_column]) if id_column and row[id_column] is not None else f"{number:08d}"
        try:
            captions = clean_captions(row[caption_column])
        except RecordError as error:
            bad.reject(path, number, str(error))
            continue
        if current is not None and image_id == current.image_id:
            merged += 1
            texts = dict.fromkeys((*current.captions, *captions))
            current = ImageRecord(image_id, current.image, tuple(texts), source)
            continue
        if image_id in seen:
            bad.reject(path, number, "duplicate id", image_id)
            continue
        try:
            image = _image(row[image_column], Path(path), embed, verify)
        except RecordError as error:
            bad.reject(path, number, "unreadable image", str(error))
            continue
        if current is not None:
            bad.use(merged)
            yield current
        seen.add(image_id)
        current, merged = ImageRecord(image_id, image, tuple(captions), source), 1
    if current is not None:
        bad.use(merged)
        yield current


def _open(path: str | Path, split: str, name: str | None, revision: str | None) -> Any:
    import datasets

    local = Path(path)
    try:
        if local.is_dir() and ((local / "dataset_info.json").exists() or (local / "dataset_dict.json").exists()):
            loaded = datasets.load_from_disk(str(local))
            return loaded[split] if isinstance(loaded, datasets.DatasetDict) else loaded
        if local.is_file() and local.suffix == ".arrow":
            return datasets.Dataset.from_file(str(local))
        if local.exists():
            files = [str(local)] if local.is_file() else sorted(str(file) for file in local.rglob("*.parquet"))
            if not files:
                raise SourceError(f"{path} holds no parquet file and was not written by save_to_disk")
            return datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
        return datasets.load_dataset(str(path), name, split=split, revision=revision, streaming=True)
    except SourceError:
        raise
    except Exception as error:  # the hub, the file system and pyarrow raise many types
        raise SourceError(
            f"{path} cannot be opened as a data set ({type(error).__name__}: {error}). It must be a local parquet or "
            "arrow file, a folder, or a hub id that this machine can reach (HF_TOKEN set for gated ones)"
        ) from error


def _require(path: str | Path, columns: list[str], rows: Any) -> None:
    found = list(rows.column_names or (rows.features or {}))
    missing = [column for column in columns if column not in found]
    if missing and found:
        raise SourceError(
            f"{path}: no column {', '.join(missing)}; it has {', '.join(found)}. Name the columns "
            "(data.image_column=..., data.caption_column=...)"
        )


def _encoded(rows: Any, image_column: str) -> Iterable[dict[str, Any]]:
    """The rows with the image left encoded: decoding is the reader's business, once."""
    import datasets

    if isinstance((rows.features or {}).get(image_column), datasets.Image):
        return rows.cast_column(image_column, datasets.Image(decode=False))
    return rows


def _image(value: Any, path: Path, embed: bool, verify: bool) -> ImageFile:
    if isinstance(value, bytes):
        value = {"bytes": value, "path": None}
    if isinstance(value, str):
        value = {"bytes": None, "path": value}
    if not isinstance(value, dict) or not (value.get("bytes") or value.get("path")):
        raise RecordError("row without image")
    if value.get("bytes"):
        image = ImageFile(bytes=value["bytes"], path=value.get("path"))
        if verify:
            verify_image(image)
        return image
    name = Path(value["path"])
    beside = path if path.is_dir() else path.parent
    return load_image(name if name.is_absolute() or name.exists() else beside / name, embed=embed, verify=verify)
