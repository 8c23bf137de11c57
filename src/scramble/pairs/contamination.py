"""Training images that occur in a benchmark: found by COCO id and by file hash, counted, dropped if asked.

SugarCrepe, POPE and ConMe ask about COCO images, Winoground-like sets and GQA about others; a model tuned on an image
of its own exam has seen more than it should.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from scramble.records import ImageRecord
from scramble.storage.files import StoreError, read_text

# COCO's file names have twelve digits, and a number alone is COCO's only where it can be (the largest id is 581929):
# other data sets have names that are, or end in, digits too (TextVQA, Flickr30k).
_COCO = re.compile(r"(?:COCO_(?:train|val|test)\d{4}_)?(\d{12})(?:\.(?:jpg|jpeg|png))?|([1-9]\d{0,5})", re.IGNORECASE)
_LARGEST = 999_999
_NAME = re.compile(r"(?:COCO_(?:train|val|test)\d{4}_)?\d{12}\.jpg", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Held:
    """The images of benchmarks: COCO ids and SHA-256 digests of files, each with the benchmark that holds it."""

    coco: dict[int, str]
    hashes: dict[str, str]

    def benchmark(self, image: ImageRecord, *, hashed: bool = True) -> str:
        """The benchmark that holds an image, "" if none does. ``hashed`` reads the image file as well."""
        for name in (image.image_id, Path(image.image.path or "").name):
            number = coco_id(name)
            if number is not None and number in self.coco:
                return self.coco[number]
        if hashed and self.hashes:
            return self.hashes.get(image.image.sha256, "")
        return ""


def coco_id(name: str) -> int | None:
    """The COCO id in a file name or image id (``COCO_val2014_000000000139.jpg``, ``139``), or None."""
    match = _COCO.fullmatch(Path(name).name)
    number = int(match[1] or match[2]) if match else 0
    return number if 0 < number <= _LARGEST else None


def held_images(benchmarks: dict[str, str | Path]) -> Held:
    """The images of benchmark files or image folders, by name.

    A JSON, JSONL or CSV file is searched for COCO file names (SugarCrepe's ``filename``, POPE's and ConMe's
    ``image``); the images in a folder are hashed, and their names read as COCO ids where they look like it.
    Raises StoreError for a path that is missing or holds no image.
    """
    coco: dict[int, str] = {}
    hashes: dict[str, str] = {}
    for name, place in benchmarks.items():
        path = Path(place)
        if path.is_dir():
            found = _read_folder(path, name, coco, hashes)
        else:
            text = _text(path, name)
            ids = {coco_id(match) for match in _NAME.findall(text)} | _json_ids(text)
            found = len(ids - {None})
            coco |= {number: name for number in ids if number is not None}
        if not found:
            raise StoreError(f"benchmark {name}: no image and no COCO file name in {path}")
    return Held(coco, hashes)


def _read_folder(path: Path, name: str, coco: dict[int, str], hashes: dict[str, str]) -> int:
    from scramble.records import ImageFile

    found = 0
    for file in sorted(path.rglob("*")):
        if file.suffix.lower() in (".jpg", ".jpeg", ".png"):
            found += 1
            hashes[ImageFile(path=str(file)).sha256] = name
            number = coco_id(file.name) if _NAME.fullmatch(file.name) else None
            if number is not None:
                coco[number] = name
        elif file.suffix.lower() in (".json", ".jsonl", ".csv"):
            ids = {coco_id(match) for match in _NAME.findall(_text(file, name))} - {None}
            found += len(ids)
            coco.update({number: name for number in ids if number is not None})
    return found


def _text(path: Path, name: str) -> str:
    try:
        return read_text(path)
    except StoreError as error:
        raise StoreError(f"benchmark {name}: {error}") from error


def _json_ids(text: str) -> set[int | None]:
    """Ids in rows that give them as numbers (``"image_id": 139``)."""
    return {coco_id(n) for n in re.findall(r'"(?:image_id|coco_id|cocoid)"\s*:\s*(\d+)', text)}


def check(
    images: Iterable[ImageRecord],
    held: Held,
    *,
    drop: bool = False,
    hashed: bool = True,
    on_found: Callable[[ImageRecord, str], None] | None = None,
) -> Iterator[ImageRecord]:
    """The images, streamed; those that a benchmark holds are told to ``on_found`` and, with ``drop``, left out."""
    for image in images:
        benchmark = held.benchmark(image, hashed=hashed)
        if benchmark and on_found is not None:
            on_found(image, benchmark)
        if not (benchmark and drop):
            yield image


def count_contamination(images: Iterable[ImageRecord], held: Held, *, hashed: bool = True) -> dict[str, int]:
    """How many of the images each benchmark holds."""
    counts: Counter[str] = Counter()
    for _ in check(images, held, hashed=hashed, on_found=lambda image, name: counts.update([name])):
        pass
    return dict(counts)
