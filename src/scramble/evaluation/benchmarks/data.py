"""Where benchmark data comes from: rows of a hub data set or local copies, images read on demand, checked counts."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scramble.evaluation.items import EvaluationError
from scramble.records import ImageFile
from scramble.store import read_json

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def hub_rows(name: str, hub_id: str, split: str, root: str | Path | None, config: str | None = None) -> Any:
    """A split of a hub data set, or of a local folder laid out like it (parquet), images undecoded.

    Raises:
        EvaluationError: the data set is gated, absent or broken; the message says how to get it.
    """
    from datasets import Image, List, load_dataset

    source = hub_id if root is None else str(root)
    if root is not None and not Path(root).exists():
        raise EvaluationError(f"{name}: {root} does not exist; set benchmark.{name}.root to a copy of {hub_id}")
    try:
        rows = load_dataset(source, None if root is not None else config, split=split)
    except Exception as error:  # datasets and huggingface_hub raise a dozen unrelated types here
        raise EvaluationError(f"{name}: cannot read {source} ({type(error).__name__}: {_first_line(error)}); "
            f"{_how_to_get(name, hub_id)}") from error  # fmt: skip
    for column, feature in rows.features.items():
        if isinstance(feature, Image):
            rows = rows.cast_column(column, Image(decode=False))
        elif isinstance(getattr(feature, "feature", None), Image):
            rows = rows.cast_column(column, List(Image(decode=False)))
    return rows


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]


def _how_to_get(name: str, hub_id: str) -> str:
    return (
        f"accept its terms at https://huggingface.co/datasets/{hub_id} if it is gated, run `hf auth login`, or "
        f"download it elsewhere and set benchmark.{name}.root to the folder"
    )


def download(name: str, hub_id: str, repo_type: str = "dataset") -> Path:
    """The folder of a hub repository that is used as files. Raises EvaluationError with the way to get it."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, repo_type=repo_type))
    except Exception as error:  # as above
        raise EvaluationError(
            f"{name}: cannot download {hub_id} ({type(error).__name__}: {_first_line(error)}); "
            f"{_how_to_get(name, hub_id)}"
        ) from error


def columns(name: str, rows: Any, wanted: Sequence[str]) -> None:
    """Raises EvaluationError naming the columns that a data set lacks."""
    if missing := [column for column in wanted if column not in rows.column_names]:
        raise EvaluationError(f"{name}: no column {', '.join(missing)}; it has {', '.join(rows.column_names)}")


class HubImages(Mapping[str, ImageFile]):
    """Images of a hub data set by id, each read from its row when asked for."""

    def __init__(self, rows: Any) -> None:
        self._rows = rows
        self._places: dict[str, tuple[int, str]] = {}

    def add(self, image_id: str, row: int, column: str) -> str:
        """Note where an image lies; returns its id."""
        self._places.setdefault(image_id, (row, column))
        return image_id

    def __getitem__(self, image_id: str) -> ImageFile:
        row, column = self._places[image_id]
        value = self._rows[row][column]
        if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
            value = value[0]
        if not value or not (value.get("bytes") or value.get("path")):
            raise EvaluationError(f"image {image_id!r}: the data set's cell {column} in row {row} is empty")
        return ImageFile(bytes=value.get("bytes"), path=value.get("path"))

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def hub_rows_and_images(
    name: str, hub_id: str, split: str, root: str | Path | None, wanted: Sequence[str], image_id: str
) -> tuple[list[dict[str, Any]], HubImages]:
    """Rows of a hub data set without their column ``image``, which is read on demand by the row's ``image_name``.

    Args:
        wanted: columns that must be there.
        image_id: the column that names a row's image; rows without it go by ``question_id``.
    """
    data = hub_rows(name, hub_id, split, root)
    columns(name, data, wanted)
    images = HubImages(data)
    rows = [
        {**row, "image_name": images.add(str(row.get(image_id, row.get("question_id"))), n, "image")}
        for n, row in enumerate(without_images(data))
    ]
    return rows, images


def without_images(rows: Any) -> Any:
    """The rows without their image columns, for a quick pass over the texts."""
    from datasets import Image

    images = [
        c for c, f in rows.features.items() if isinstance(f, Image) or isinstance(getattr(f, "feature", None), Image)
    ]
    return rows.remove_columns(images)


class FolderImages(Mapping[str, ImageFile]):
    """Images by file name somewhere below a folder; a name without a suffix may have any."""

    def __init__(self, name: str, folder: Path, names: Iterable[str]) -> None:
        if not folder.is_dir():
            raise EvaluationError(f"{name}: no image folder {folder}; set benchmark.{name}.images to where they are")
        found = {p.name: p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES}
        found |= {p.stem: p for p in found.values() if p.stem not in found}
        wanted = dict.fromkeys(names)
        missing = [n for n in wanted if Path(n).name not in found]
        if missing:
            raise EvaluationError(
                f"{name}: {len(missing)} of {len(wanted)} images are missing below {folder} "
                f"(first: {', '.join(missing[:3])}); finish the download"
            )
        self._paths = {n: found[Path(n).name] for n in wanted}

    def __getitem__(self, image_id: str) -> ImageFile:
        return ImageFile(path=str(self._paths[image_id]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


class CroppedImages(Mapping[str, ImageFile]):
    """Images and crops of them: crop id -> (image id, (x, y, width, height) in pixels)."""

    def __init__(
        self, images: Mapping[str, ImageFile], crops: Mapping[str, tuple[str, tuple[int, int, int, int]]]
    ) -> None:
        self._images, self._crops = images, dict(crops)

    def __getitem__(self, image_id: str) -> ImageFile:
        if image_id not in self._crops:
            return self._images[image_id]
        source, (x, y, width, height) = self._crops[image_id]
        stream = io.BytesIO()
        self._images[source].open().crop((x, y, x + width, y + height)).save(stream, "PNG")
        return ImageFile(bytes=stream.getvalue())

    def __iter__(self) -> Iterator[str]:
        return iter({**dict.fromkeys(self._images), **self._crops})

    def __len__(self) -> int:
        return len(self._images) + len(self._crops)


def find_file(name: str, root: str | Path, *patterns: str) -> Path:
    """The first file below ``root`` (or ``root`` itself) that matches a pattern. Raises EvaluationError naming them."""
    root = Path(root)
    if root.is_file():
        return root
    for pattern in patterns:
        if found := sorted(root.rglob(pattern)):
            return found[0]
    raise EvaluationError(f"{name}: no {' or '.join(patterns)} below {root}; check benchmark.{name}.root")


def load_json(name: str, path: Path) -> Any:
    """A JSON file, or JSON lines under a .json name. Raises EvaluationError for an empty one."""
    import json

    from scramble.store import StoreError

    try:
        return read_json(path)
    except StoreError:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        try:
            return [json.loads(line) for line in lines]
        except ValueError as error:
            raise EvaluationError(f"{name}: {path} is neither JSON nor JSON lines ({error})") from error


def fields(name: str, row: Mapping[str, Any], where: str, *keys: str) -> list[Any]:
    """Values of required keys. Raises EvaluationError naming the row and what it lacks."""
    if missing := [key for key in keys if row.get(key) is None]:
        raise EvaluationError(f"{name}: {where} has no {', '.join(missing)}; it has {', '.join(map(str, row))}")
    return [row[key] for key in keys]


def check_count(name: str, count: int, known: Mapping[int, str], partial: bool) -> str:
    """The data version that a count belongs to.

    Raises EvaluationError for a count nobody knows, unless ``partial`` says that a part is meant.
    """
    if count in known:
        return known[count]
    if partial or not known:
        return f"partial-{count}" if partial else f"n{count}"
    counts = " or ".join(str(n) for n in known)
    raise EvaluationError(
        f"{name}: {count} items, but the benchmark has {counts}; finish the download, or set "
        f"benchmark.{name}.partial=true if a part is meant"
    )
