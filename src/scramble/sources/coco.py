"""COCO captions in their official layout: ``annotations/captions_<split>.json`` and ``<split>/*.jpg``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scramble.records import ImageRecord, RecordError
from scramble.sources.bad_rows import BadRows, SourceError
from scramble.sources.images import clean_caption, load_image
from scramble.store import StoreError, read_json


def read(
    path: str | Path,
    bad: BadRows,
    *,
    split: str = "train2017",
    images: str | Path | None = None,
    embed: bool = True,
    verify: bool = True,
) -> Iterator[ImageRecord]:
    """Stream COCO images with their captions, in the order of the file.

    The image's id is COCO's, twelve digits (``000000000724``): the same in the 2014 and 2017 releases and in the
    benchmarks built on COCO, so overlaps can be found.

    Args:
        path: COCO's root folder, or the ``captions_*.json`` itself.
        split: which split of a root folder.
        images: the folder of image files; found from ``path`` by default.

    Raises:
        SourceError: file or folder are missing, or the JSON is not COCO's.
    """
    file, folder = _layout(Path(path), split, images)
    content = _content(file)
    captions: dict[Any, list[str]] = {}
    seen_annotations: set[Any] = set()
    known = {image.get("id") for image in content["images"]}
    for row in content["annotations"]:
        key = row.get("id")
        if key in seen_annotations:
            bad.reject(file, f"annotation {key}", "duplicate id")
            continue
        seen_annotations.add(key)
        if row.get("image_id") not in known:
            bad.reject(file, f"annotation {key}", "missing image", f"no image {row.get('image_id')} in the file")
            continue
        try:
            caption = clean_caption(row.get("caption"))
        except RecordError as error:
            bad.reject(file, f"annotation {key}", str(error))
            continue
        texts = captions.setdefault(row["image_id"], [])
        if caption not in texts:
            texts.append(caption)
    yield from _images(file, folder, content["images"], captions, bad, embed, verify)


def _images(
    file: Path,
    folder: Path,
    rows: list[dict[str, Any]],
    captions: dict[Any, list[str]],
    bad: BadRows,
    embed: bool,
    verify: bool,
) -> Iterator[ImageRecord]:
    seen: set[str] = set()
    for row in rows:
        name, key = row.get("file_name"), row.get("id")
        image_id = f"{key:012d}" if isinstance(key, int) else str(key)
        if image_id in seen:
            bad.reject(file, f"image {key}", "duplicate id")
            continue
        seen.add(image_id)
        if not name or key not in captions:
            bad.reject(file, f"image {key}", "row without caption" if name else "row without image")
            continue
        try:
            image = load_image(folder / name, embed=embed, verify=verify)
        except RecordError as error:
            kind = "unreadable image" if (folder / name).exists() else "missing image"
            bad.reject(file, f"image {key}", kind, str(error), rows=len(captions[key]))
            continue
        bad.use(len(captions[key]))
        yield ImageRecord(image_id, image, tuple(captions[key]), source=f"coco:{file.stem}")


def _layout(path: Path, split: str, images: str | Path | None) -> tuple[Path, Path]:
    file = path / "annotations" / f"captions_{split}.json" if path.is_dir() else path
    if not file.is_file():
        raise SourceError(f"{file} does not exist: COCO's captions_*.json is needed (data.path=..., data.split=...)")
    if images is None:
        name = file.stem.removeprefix("captions_")
        candidates = [file.parent.parent / name, file.parent / name, file.parent.parent / "images" / name]
        images = next((folder for folder in candidates if folder.is_dir()), None)
        if images is None:
            raise SourceError(f"no folder {name} with the images of {file}: name it (data.images=...)")
    if not Path(images).is_dir():
        raise SourceError(f"{images} is not a folder: give the folder of COCO's images (data.images=...)")
    return file, Path(images)


def _content(file: Path) -> dict[str, Any]:
    try:
        content = read_json(file)
    except StoreError as error:
        raise SourceError(str(error)) from error
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in ("images", "annotations")):
        raise SourceError(f"{file}: not a COCO caption file (it needs the lists images and annotations)")
    return content
