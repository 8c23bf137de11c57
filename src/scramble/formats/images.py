"""Writes the images of an exported data set to files that are named by image id."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from scramble.formats.bad_rows import FormatError
from scramble.records import ImageRecord, PreferencePair
from scramble.storage.files import atomic_path

SUFFIXES = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"GIF8": ".gif", b"RIFF": ".webp", b"BM": ".bmp"}


def write_images(images: Iterable[ImageRecord], folder: str | Path) -> dict[str, Path]:
    """Write each image's encoded bytes unchanged to ``folder``, and return the files by image id.

    Only one image is in memory at a time. Ids that are not valid file names are converted to unique valid names.
    """
    files: dict[str, Path] = {}
    for record in images:
        data = record.image.read()
        name = file_name(record.image_id, data)
        files[record.image_id] = Path(folder) / name
        with atomic_path(files[record.image_id]) as temporary:
            temporary.write_bytes(data)
    return files


def file_name(image_id: str, data: bytes) -> str:
    """Return a valid file name for an image, made from its id and the suffix of its format."""
    suffix = next((s for magic, s in SUFFIXES.items() if data.startswith(magic)), "")
    stem = image_id.removesuffix(suffix) if suffix else image_id
    safe = re.sub(r"[^\w.\-]+", "_", stem).lstrip(".")
    if safe != stem or len(safe) > 150:
        safe = f"{safe[:150]}-{hashlib.sha256(image_id.encode()).hexdigest()[:8]}"
    return safe + suffix


def names_of(pair: PreferencePair, names: Mapping[str, str]) -> list[str]:
    """Return the file names of a pair's images. Raises FormatError if an image is missing from ``names``."""
    missing = [image_id for image_id in pair.image_ids if image_id not in names]
    if missing:
        raise FormatError(
            f"the image {missing[0]} of pair {pair.pair_id} is missing from the data set's images: add the image, or "
            "remove the pair"
        )
    return [names[image_id] for image_id in pair.image_ids]
