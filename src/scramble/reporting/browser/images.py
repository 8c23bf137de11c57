"""The images of a site: one file per distinct image, named by its content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from scramble.records import ImageFile, RecordError
from scramble.reporting import pages
from scramble.storage.files import StoreError, atomic_path

SUFFIXES = ("png", "jpg")


class SiteImages:
    """Writes images of at most ``pixels`` per side into ``folder``.

    A file that an earlier call wrote is reused, so that writing the site again is fast.
    """

    def __init__(self, folder: Path, pixels: int) -> None:
        self.folder, self.pixels = folder, pixels
        self._used: set[str] = set()

    def add(self, images: Mapping[str, ImageFile], image_id: str) -> str:
        """Write an image and return its file name; "" for an image that is missing or cannot be decoded."""
        try:
            image = images[image_id]
            key = hashlib.sha256(image.read() + str(self.pixels).encode()).hexdigest()[:16]
            name = next((n for n in (f"{key}.{s}" for s in SUFFIXES) if (self.folder / n).exists()), "")
            data, kind = (b"", "") if name else pages.encoded(image.open(), self.pixels)
        except (KeyError, RecordError, StoreError):  # the page shows an empty frame instead
            return ""
        if not name:
            name = f"{key}.{'jpg' if kind == 'jpeg' else kind}"
            with atomic_path(self.folder / name) as temporary:
                temporary.write_bytes(data)
        self._used.add(name)
        return name

    def remove_unused(self) -> None:
        """Remove files of an earlier call that the site no longer uses."""
        for path in self.folder.glob("*.*"):
            if path.suffix[1:] in SUFFIXES and path.name not in self._used:
                path.unlink()
