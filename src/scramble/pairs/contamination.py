"""Detect training images that occur in a benchmark, by COCO id or file hash.

SugarCrepe, POPE and ConMe use COCO images. COLA and GQA use images of Visual Genome, about half of which are COCO
images. Training on the images of a benchmark would bias the scores on this benchmark.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scramble.evaluation.benchmarks import BENCHMARKS, load_benchmark
from scramble.evaluation.items import EvaluationError
from scramble.formats.checks import PHOTO_SUFFIXES
from scramble.records import ImageFile, ImageRecord
from scramble.storage.files import StoreError, read_json, read_text

# COCO's file names have twelve digits. A number alone counts as a COCO id only in the range of COCO's ids (the largest
# is 581929), because file names of other data sets (TextVQA, Flickr30k) also consist of digits or end in digits.
_COCO = re.compile(r"(?:COCO_(?:train|val|test)\d{4}_)?(\d{12})(?:\.(?:jpg|jpeg|png))?|([1-9]\d{0,5})", re.IGNORECASE)
_LARGEST = 999_999
_NAME = re.compile(r"(?<![\w.-])(?:COCO_(?:train|val|test)\d{4}_\d{12}(?!\d)|\d{12}\.jpg)", re.IGNORECASE)
_ID_FIELD = re.compile(r'"(?:image_id|coco_id|cocoid)"\s*:\s*(\d+)')  # ids that rows contain as numbers
_GENOME = re.compile(r"(?:VG_100K(?:_2)?|vg_gqa_images)/(\d+)\.jpg")  # COLA's images are from Visual Genome
GENOME_FILE = "image_data.json"  # Visual Genome's table, which contains the COCO ids of about half of its images
_TEXTS = (".json", ".jsonl", ".csv")


@dataclass(frozen=True, slots=True)
class BenchmarkImages:
    """The COCO ids and the SHA-256 digests of benchmark images. Both are mapped to the name of the benchmark."""

    coco: dict[int, str]
    hashes: dict[str, str]

    def benchmark(self, image: ImageRecord) -> str:
        """Return the name of a benchmark that contains an image, or "" if there is none."""
        for name in (image.image_id, Path(image.image.path or "").name):
            number = coco_id(name)
            if number is not None and number in self.coco:
                return self.coco[number]
        return self.hashes.get(image.image.sha256, "") if self.hashes else ""


def coco_id(name: str) -> int | None:
    """Return the COCO id in a file name or image id (``COCO_val2014_000000000139.jpg``, ``139``), or None."""
    match = _COCO.fullmatch(Path(name).name)
    number = int(match[1] or match[2]) if match else 0
    return number if 0 < number <= _LARGEST else None


def find_benchmark_images(benchmarks: Mapping[str, str | Path | None]) -> BenchmarkImages:
    """Find the images of benchmarks.

    ``benchmarks`` maps the name of each benchmark to its file or folder, or to None to read the benchmark from the hub.
    JSON, JSONL and CSV files are searched for COCO file names (SugarCrepe's ``filename``, POPE's and ConMe's
    ``image``), and for Visual Genome's file names (COLA). The COCO ids of Visual Genome's images are read from
    ``image_data.json``, if this file is in the same folder. Images in folders and in parquet files are hashed. If an
    image has a COCO file name, its COCO id is also used.

    Raises:
        StoreError: a path does not exist or contains no image, or a benchmark cannot be downloaded from the hub.
    """
    images = BenchmarkImages({}, {})
    for name, place in benchmarks.items():
        own = BenchmarkImages({}, {})
        if place is not None:
            _read_place(own, name, Path(place))
        if not own.coco and not own.hashes and name in BENCHMARKS:  # the loader reads other layouts
            _read_benchmark(own, name, place)
        images.coco.update(own.coco)
        images.hashes.update(own.hashes)
        if not own.coco and not own.hashes:
            raise StoreError(
                f"benchmark {name}: {place} contains no image and no COCO file name: set "
                f"pairs.exclude_benchmarks.{name} to the folder with the images (for COLA, Visual Genome's "
                f"{GENOME_FILE} next to the benchmark's file is sufficient)"
            )
    return images


def _read_benchmark(images: BenchmarkImages, name: str, root: str | Path | None) -> None:
    try:
        files = load_benchmark(name, root, partial=True).images
    except EvaluationError as error:
        if root is not None:
            return  # the caller reports that the path contains no image
        raise StoreError(
            f"benchmark {name}: {error}. If you have the benchmark's file or folder, set "
            f"pairs.exclude_benchmarks={{{name}: <path>}}"
        ) from error
    for image_id, file in files.items():
        _add(images, name, {coco_id(image_id)} if _NAME.search(image_id) else set(), file)


def _read_place(images: BenchmarkImages, name: str, place: Path) -> None:
    if not place.exists():
        raise StoreError(f"benchmark {name}: {place} does not exist: correct pairs.exclude_benchmarks.{name}")
    files = sorted(file for file in place.rglob("*") if file.is_file()) if place.is_dir() else [place]
    genome = _genome_ids(place if place.is_dir() else place.parent)
    for file in files:
        suffix = file.suffix.lower()
        if suffix in PHOTO_SUFFIXES:
            ids = {coco_id(file.name)} if _NAME.match(file.name) else set()
            _add(images, name, ids, ImageFile(path=str(file)))
        elif suffix == ".parquet":
            _read_parquet(images, name, file)
        elif suffix in _TEXTS and file.name != GENOME_FILE:
            text = _text(file, name)
            ids = {coco_id(match) for match in _NAME.findall(text)} | _number_ids(text)
            _add(images, name, ids | {genome.get(int(number)) for number in _GENOME.findall(text)})


def _number_ids(text: str) -> set[int | None]:
    """Return the COCO ids in fields such as ``"image_id": 139``.

    If one of the ids is too large for COCO, all ids are taken to be Visual Genome ids, and the result is empty.
    """
    numbers = _ID_FIELD.findall(text)
    return set(map(coco_id, numbers)) if all(int(number) <= _LARGEST for number in numbers) else set()


def _add(images: BenchmarkImages, name: str, ids: set[int | None], file: ImageFile | None = None) -> None:
    images.coco.update({number: name for number in ids if number is not None})
    if file is not None:
        images.hashes[file.sha256] = name


def _read_parquet(images: BenchmarkImages, name: str, file: Path) -> None:
    """Read the images (``bytes`` and ``path``, as in ``datasets``) and the COCO file names in a parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=100):
            for row in batch.to_pylist():
                for value in row.values():
                    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
                        _add(images, name, set(), ImageFile(bytes=value["bytes"]))
                        value = value.get("path")
                    if isinstance(value, str):
                        _add(images, name, {coco_id(match) for match in _NAME.findall(value)})
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise StoreError(f"benchmark {name}: {file} cannot be read ({reason}): download the file again") from error


def _genome_ids(folder: Path) -> dict[int, int]:
    """Return a mapping from Visual Genome's image ids to COCO ids, or {} if there is no ``image_data.json``."""
    path = folder / GENOME_FILE
    rows = read_json(path) if path.is_file() else []
    return {int(row["image_id"]): int(row["coco_id"]) for row in rows if row.get("coco_id")}


def _text(path: Path, name: str) -> str:
    try:
        return read_text(path)
    except StoreError as error:
        raise StoreError(f"benchmark {name}: {error}") from error
