"""Reads COCO captions in the official layout: ``annotations/captions_<split>.json`` and ``<split>/*.jpg``."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from scramble.formats.bad_rows import BadRows, SourceError
from scramble.formats.checks import clean_captions, find_image, image_fault, image_name, load_image
from scramble.records import ImageRecord, RecordError
from scramble.storage.files import StoreError, read_json
from scramble.storage.similar_paths import did_you_mean


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

    An image's id is its number in COCO with twelve digits (``000000000724``). The id is the same in the 2014 and 2017
    releases and in the benchmarks built on COCO, so that overlaps can be detected.

    Args:
        path: COCO's root folder, or the ``captions_*.json`` itself.
        split: the split to read if ``path`` is a root folder.
        images: the folder of image files; if None, it is derived from ``path``.

    Raises:
        SourceError: the file or folder is missing, or the JSON does not have COCO's layout.
    """
    bad.images_key = "data.images"
    file, folder = _layout(Path(path), split, images)
    content = _content(file)
    captions = _captions(file, content, bad)
    yield from _images(file, folder, content["images"], captions, bad, embed, verify)


def _captions(file: Path, content: dict[str, Any], bad: BadRows) -> dict[str, dict[str, None]]:
    """Return the distinct captions of each image, as the keys of a dictionary.

    The annotations are removed from ``content``, because they need more memory than the captions.
    """
    captions: dict[str, dict[str, None]] = {}
    seen_annotations: set[str] = set()
    image_keys = {_key(image.get("id")) for image in content["images"] if isinstance(image, dict)} - {""}
    for number, row in enumerate(content.pop("annotations"), 1):
        if not isinstance(row, dict):
            bad.reject(file, f"annotation {number} of the list", "not a JSON object")
            continue
        key, image_key = _key(row.get("id")), _key(row.get("image_id"))
        where = f"annotation {key}" if key else f"annotation {number} of the list"
        if key and key in seen_annotations:
            bad.reject(file, where, "duplicate id")
            continue
        seen_annotations.add(key)
        if image_key not in image_keys:
            bad.reject(file, where, "missing image", f"no image {row.get('image_id')} in the file")
            continue
        try:
            row_captions = clean_captions(row.get("caption"))
        except RecordError as error:
            bad.reject(file, where, str(error))
            continue
        captions.setdefault(image_key, {}).update(dict.fromkeys(row_captions))
    return captions


def _images(
    file: Path,
    folder: Path,
    rows: list[Any],
    captions: Mapping[str, Collection[str]],
    bad: BadRows,
    embed: bool,
    verify: bool,
) -> Iterator[ImageRecord]:
    seen: set[str] = set()
    for number, row in enumerate(rows, 1):
        key = _key(row.get("id")) if isinstance(row, dict) else ""
        if not key:
            bad.reject(file, f"image {number} of the list", "row without id")
            continue
        if key in seen:
            bad.reject(file, f"image {key}", "duplicate id")
            continue
        seen.add(key)
        try:
            name = image_name(row.get("file_name"))
        except RecordError as error:
            bad.reject(file, f"image {key}", str(error))
            continue
        if key not in captions:
            bad.reject(file, f"image {key}", "row without caption")
            continue
        image_file = find_image(folder, name)
        try:
            image = load_image(image_file, embed=embed, verify=verify)
        except RecordError as error:
            bad.reject(file, f"image {key}", image_fault(image_file), str(error), rows=len(captions[key]))
            continue
        bad.use(len(captions[key]))
        ident = int(row["id"]) if isinstance(row["id"], float) else row["id"]
        image_id = f"{ident:012d}" if isinstance(ident, int) else str(ident)
        yield ImageRecord(image_id, image, tuple(captions[key]), source=f"coco:{file.stem}")


def _key(value: Any) -> str:
    """Return an id as text, so that the ids 7 and "7" are equal. For an invalid id, the text is empty."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        return ""
    text = str(value).strip()
    return text.lstrip("0") or "0" if text.isdecimal() else text


def _layout(path: Path, split: str, images: str | Path | None) -> tuple[Path, Path]:
    file = path / "annotations" / f"captions_{split}.json" if path.is_dir() else path
    if not file.is_file():
        raise SourceError(
            f"{file} does not exist: set data.path to a captions_*.json file, or to COCO's root folder and "
            f"data.split to one of its splits{did_you_mean(file)}"
        )
    if images is None:
        name = file.stem.removeprefix("captions_")
        candidates = [file.parent.parent / name, file.parent / name, file.parent.parent / "images" / name]
        images = next((folder for folder in candidates if folder.is_dir()), None)
        if images is None:
            raise SourceError(f"there is no folder {name} with the images of {file}: set data.images to their folder")
    if not Path(images).is_dir():
        raise SourceError(f"{images} is not a folder: set data.images to the folder of COCO's images")
    return file, Path(images)


def _content(file: Path) -> dict[str, Any]:
    try:
        content = read_json(file)
    except StoreError as error:
        raise SourceError(str(error)) from error
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in ("images", "annotations")):
        raise SourceError(
            f"{file} is not a COCO caption file, which contains the lists 'images' and 'annotations': set data.path to "
            "COCO's root folder or to a captions_*.json file"
        )
    return content
