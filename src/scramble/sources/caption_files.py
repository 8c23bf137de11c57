"""Reads captions in text files next to the images (``a.jpg`` and ``a.txt``), the layout of img2dataset and of many
trainers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scramble.formats.bad_rows import BadRows
from scramble.formats.checks import PHOTO_SUFFIXES
from scramble.storage.files import StoreError, read_text

log = logging.getLogger(__name__)


def has_caption_files(folder: Path) -> bool:
    """Return whether an image in the folder or its sub-folders has a text file with the image's name."""
    return any(_caption_file(image).is_file() for image in _images(folder))


def caption_rows(folder: Path, bad: BadRows) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the path and the row (``image``, ``caption``) of each image below a folder, in the order of the paths.

    Each line with text in an image's text file is a caption. ``bad`` collects the images without a text file, and
    the text files that cannot be read.
    """
    images = sorted(_images(folder))
    files = {file for file in folder.rglob("*.txt") if file.is_file()}
    paired = files & {_caption_file(image) for image in images}
    log.info(f"data: {folder}: the captions are read from .txt files next to the images ({len(paired):,} files)")
    if unpaired := sorted(files - paired):
        log.warning(
            f"data: {folder}: .txt files without an image of the same name are not used (number of files: "
            f"{len(unpaired):,}, first: {unpaired[0].relative_to(folder)}): rename the files, or add the images"
        )
    for image in images:
        name = image.relative_to(folder).as_posix()
        file = _caption_file(image)
        if file not in files:
            bad.reject(folder, name, "no caption file", f"{file.name} is missing")
            continue
        try:
            lines = read_text(file).splitlines()
        except StoreError as error:
            bad.reject(folder, name, "unreadable caption file", str(error))
            continue
        yield name, {"image": name, "caption": [line for line in lines if line.strip()]}


def _images(folder: Path) -> Iterator[Path]:
    return (file for file in folder.rglob("*") if file.suffix.lower() in PHOTO_SUFFIXES)


def _caption_file(image: Path) -> Path:
    return image.with_suffix(".txt")
