"""Collect the images of a benchmark's file. Each row contains its image as base64 text or as a path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from scramble.evaluation.benchmarks.image_files import folder_images
from scramble.evaluation.benchmarks.tsv_rows import decoded
from scramble.evaluation.items import EvaluationError
from scramble.records import ImageFile

MAX_PATH = 512
"""Maximum number of characters of a path. A longer value is treated as an image."""


class RowImages:
    """The images of a file's rows, in memory. ``add`` registers an image, and ``find`` returns all images."""

    def __init__(self) -> None:
        self._encoded: dict[str, ImageFile] = {}
        self._paths: list[str] = []

    def add(self, name: str, where: str, key: str, value: object) -> str:
        """Return the id of a row's image, which is ``key`` if ``value`` is base64 text, or the path if ``value`` is a
        path.

        Raises:
            EvaluationError: ``value`` is neither base64 text nor a path, or a different image has the same key.
        """
        if not isinstance(value, str) or not value.strip():
            raise EvaluationError(
                f"{name}: {where}: image is {value!r:.60}, which is neither base64 text nor a path: correct this row"
            )
        if len(value) <= MAX_PATH and re.search(r"\.\w{3,4}$", value):
            self._paths.append(value)
            return value
        try:
            image = ImageFile(bytes=decoded(where, value))
        except EvaluationError as error:
            raise EvaluationError(f"{name}: {error}") from error
        if self._encoded.setdefault(key, image) != image:
            raise EvaluationError(
                f"{name}: {where}: the image {key} differs from the image {key} in an earlier row: download the data "
                "again"
            )
        return key

    def find(self, name: str, folder: Path) -> Mapping[str, ImageFile]:
        """Return all images by id. Paths are looked up below ``folder``."""
        if not self._paths:
            return self._encoded
        return folder_images(name, folder, self._paths) | self._encoded
