"""Images that the rows of a benchmark's file contain as base64 text, or name as paths."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from scramble.evaluation.benchmarks.image_files import FolderImages
from scramble.evaluation.benchmarks.tsv_rows import decoded
from scramble.evaluation.items import EvaluationError
from scramble.records import ImageFile

MAX_PATH = 512
"""A longer text is an image, not a path."""


class RowImages:
    """The images of a file's rows, in memory. ``add`` registers them, ``find`` returns all of them."""

    def __init__(self) -> None:
        self._encoded: dict[str, ImageFile] = {}
        self._paths: list[str] = []

    def add(self, name: str, where: str, key: str, value: object) -> str:
        """Return the id of a row's image: ``key`` for base64 text, the path for a path.

        Raises:
            EvaluationError: ``value`` is neither, or another image has the same key.
        """
        if not isinstance(value, str) or not value.strip():
            raise EvaluationError(f"{name}: {where}: image is {value!r:.60}, neither base64 text nor a path")
        if len(value) <= MAX_PATH and re.search(r"\.\w{3,4}$", value):
            self._paths.append(value)
            return value
        try:
            image = ImageFile(bytes=decoded(where, value))
        except EvaluationError as error:
            raise EvaluationError(f"{name}: {error}") from error
        if self._encoded.setdefault(key, image) != image:
            raise EvaluationError(f"{name}: {where}: image {key} differs from image {key} in an earlier row")
        return key

    def find(self, name: str, folder: Path) -> Mapping[str, ImageFile]:
        """Return all images by id; those given as paths are below ``folder``."""
        if not self._paths:
            return self._encoded
        return {**FolderImages(name, folder, self._paths), **self._encoded}
