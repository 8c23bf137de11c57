"""Loads image files by path and checks each file only once."""

from __future__ import annotations

from pathlib import Path

from scramble.formats.checks import exists, load_image
from scramble.records import ImageFile, RecordError


class ImageLoader:
    """Loads image files for rows that share images.

    Args:
        embed, verify: see :func:`scramble.formats.checks.load_image`.
    """

    def __init__(self, embed: bool, verify: bool) -> None:
        self.embed, self.verify = embed, verify
        self._faults: dict[Path, str] = {}

    def load(self, file: Path) -> ImageFile:
        """Return the image in a file. Raises RecordError if the file cannot be read; later calls raise the same error
        again.
        """
        if self._faults.get(file):
            raise RecordError(self._faults[file])
        try:
            image = load_image(file, embed=self.embed, verify=self.verify and file not in self._faults)
        except RecordError as error:
            self._faults[file] = str(error)
            raise
        if not exists(file):
            self._faults[file] = f"image {file}: no such file"
            raise RecordError(self._faults[file])
        self._faults[file] = ""
        return image
