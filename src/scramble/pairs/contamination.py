"""Detect training images that occur in a benchmark, by COCO id and file hash; count them, and optionally drop them.

SugarCrepe, POPE and ConMe use COCO images; Winoground-style sets and GQA use others. Training on a benchmark's images
would bias its scores.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from scramble.records import ImageRecord
from scramble.storage.files import StoreError, read_text

# COCO's file names have twelve digits. A number alone counts as a COCO id only in the range of COCO's ids (the largest
# is 581929): file names of other data sets (TextVQA, Flickr30k) also consist of digits or end in digits.
_COCO = re.compile(r"(?:COCO_(?:train|val|test)\d{4}_)?(\d{12})(?:\.(?:jpg|jpeg|png))?|([1-9]\d{0,5})", re.IGNORECASE)
_LARGEST = 999_999
_NAME = re.compile(r"(?:COCO_(?:train|val|test)\d{4}_)?\d{12}\.jpg", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class BenchmarkImages:
    """The images of benchmarks: COCO ids and SHA-256 digests of files, each with the name of its benchmark."""

    coco: dict[int, str]
    hashes: dict[str, str]

    def benchmark(self, image: ImageRecord, *, hashed: bool = True) -> str:
        """The benchmark that contains an image, or "". ``hashed`` also compares the hash of the image file."""
        for name in (image.image_id, Path(image.image.path or "").name):
            number = coco_id(name)
            if number is not None and number in self.coco:
                return self.coco[number]
        if hashed and self.hashes:
            return self.hashes.get(image.image.sha256, "")
        return ""


def coco_id(name: str) -> int | None:
    """The COCO id in a file name or image id (``COCO_val2014_000000000139.jpg``, ``139``); None if there is none."""
    match = _COCO.fullmatch(Path(name).name)
    number = int(match[1] or match[2]) if match else 0
    return number if 0 < number <= _LARGEST else None


def find_benchmark_images(benchmarks: dict[str, str | Path]) -> BenchmarkImages:
    """The images of benchmark files or image folders, by benchmark name.

    JSON, JSONL and CSV files are searched for COCO file names (SugarCrepe's ``filename``, POPE's and ConMe's
    ``image``). Images in a folder are hashed, and their names are parsed as COCO ids if they have that form.
    Raises StoreError if a path is missing or has no image.
    """
    coco: dict[int, str] = {}
    hashes: dict[str, str] = {}
    for name, place in benchmarks.items():
        path = Path(place)
        if path.is_dir():
            count = _read_folder(path, name, coco, hashes)
        else:
            text = _text(path, name)
            ids = {coco_id(match) for match in _NAME.findall(text)} | _json_ids(text)
            count = len(ids - {None})
            coco |= {number: name for number in ids if number is not None}
        if not count:
            raise StoreError(f"benchmark {name}: no image and no COCO file name in {path}")
    return BenchmarkImages(coco, hashes)


def _read_folder(path: Path, name: str, coco: dict[int, str], hashes: dict[str, str]) -> int:
    from scramble.records import ImageFile

    count = 0
    for file in sorted(path.rglob("*")):
        if file.suffix.lower() in (".jpg", ".jpeg", ".png"):
            count += 1
            hashes[ImageFile(path=str(file)).sha256] = name
            number = coco_id(file.name) if _NAME.fullmatch(file.name) else None
            if number is not None:
                coco[number] = name
        elif file.suffix.lower() in (".json", ".jsonl", ".csv"):
            ids = {coco_id(match) for match in _NAME.findall(_text(file, name))} - {None}
            count += len(ids)
            coco.update({number: name for number in ids if number is not None})
    return count


def _text(path: Path, name: str) -> str:
    try:
        return read_text(path)
    except StoreError as error:
        raise StoreError(f"benchmark {name}: {error}") from error


def _json_ids(text: str) -> set[int | None]:
    """Ids in rows that have them as numbers (``"image_id": 139``)."""
    return {coco_id(n) for n in re.findall(r'"(?:image_id|coco_id|cocoid)"\s*:\s*(\d+)', text)}


def check(
    images: Iterable[ImageRecord],
    benchmark_images: BenchmarkImages,
    *,
    drop: bool = False,
    hashed: bool = True,
    on_found: Callable[[ImageRecord, str], None] | None = None,
) -> Iterator[ImageRecord]:
    """Stream the images. Call ``on_found`` for each image in a benchmark, and omit this image if ``drop`` is set."""
    for image in images:
        benchmark = benchmark_images.benchmark(image, hashed=hashed)
        if benchmark and on_found is not None:
            on_found(image, benchmark)
        if not (benchmark and drop):
            yield image


def count_contamination(
    images: Iterable[ImageRecord], benchmark_images: BenchmarkImages, *, hashed: bool = True
) -> dict[str, int]:
    """The number of training images that occur in each benchmark."""
    counts: Counter[str] = Counter()
    for _ in check(images, benchmark_images, hashed=hashed, on_found=lambda image, name: counts.update([name])):
        pass
    return dict(counts)
