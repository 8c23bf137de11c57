"""Writes the images of a site: one file per distinct image, named by a hash of the image."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from scramble.records import ImageFile, RecordError
from scramble.reporting import pages
from scramble.storage.files import StoreError, writing

SUFFIXES = ("png", "jpg")
OWN_NAME = re.compile(r"[0-9a-f]{16}\.(png|jpg)(\.part)?")


class SiteImages:
    """Writes images of at most ``pixels`` pixels per side to ``folder``.

    Files of an earlier site in the same folder are reused, so that writing the site again is fast.
    """

    def __init__(self, folder: Path, pixels: int) -> None:
        self.folder, self.pixels = folder, pixels
        self._used: set[str] = set()

    def add(self, images: Mapping[str, ImageFile], image_id: str) -> str:
        """Write an image and return its file name, or "" if the image is missing or cannot be decoded."""
        try:
            image = images[image_id]
            key = hashlib.sha256(image.read() + str(self.pixels).encode()).hexdigest()[:16]
            name = next((n for n in (f"{key}.{s}" for s in SUFFIXES) if self._has(n)), "")
            data, kind = (b"", "") if name else pages.encoded(image.open(), self.pixels)
        except (KeyError, RecordError, StoreError):  # the page shows an empty frame instead
            return ""
        if not name:
            name = f"{key}.{'jpg' if kind == 'jpeg' else kind}"
            self._write(name, data)
        self._used.add(name)
        return name

    def _has(self, name: str) -> bool:
        """Return whether the file exists and is not empty. A crash can leave an empty file."""
        file = self.folder / name
        return file.exists() and file.stat().st_size > 0

    def _write(self, name: str, data: bytes) -> None:
        """Write a temporary file and rename it.

        Unlike :func:`~scramble.storage.files.atomic_path`, this function does not wait until the file is on the disk.
        Waiting would take 6 ms per file, which is ten times as long as writing. A file that is lost in a crash is
        written again the next time the site is written.
        """
        with writing(self.folder / name):
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = self.folder / f"{name}.part"
            temporary.write_bytes(data)
            temporary.replace(self.folder / name)

    def remove_unused(self) -> None:
        """Remove images of an earlier site that the site no longer uses. Files that were not written by this class are
        kept."""
        for path in self.folder.glob("*"):
            if OWN_NAME.fullmatch(path.name) and path.name not in self._used:
                path.unlink()
