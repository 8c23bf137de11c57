"""Read rows from a JSON lines file that names image files, or from a hub data set that contains the images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scramble.evaluation.benchmarks.data import HubImages, columns, find_file, hub_rows, json_rows, text_rows, texts
from scramble.evaluation.benchmarks.image_files import item_images
from scramble.evaluation.items import Item
from scramble.records import ImageFile


class FileOrHub:
    """The rows of a benchmark, and the images of these rows.

    Args:
        name: name of the benchmark.
        hub_id, split: id and split of the hub data set.
        root: a JSON lines file, a folder that contains ``file``, or a copy of the hub data set (default: the hub).
        file: name of the JSON lines file. Each of its rows contains the path of an image in ``image``.
        required: columns of the hub data set.
        image: column of the images in the hub data set.
    """

    def __init__(
        self,
        name: str,
        hub_id: str,
        split: str,
        root: str | Path | None,
        *,
        file: str,
        required: Sequence[str],
        image: str,
    ) -> None:
        self._name, self._column = name, image
        self._path: Path | None = None
        self._hub: HubImages | None = None
        if root is not None and (Path(root).is_file() or any(Path(root).rglob(file))):
            self._path = find_file(name, root, file)
            self.source = str(self._path)
            self.rows: list[dict[str, Any]] = json_rows(name, self._path)
            return
        data = hub_rows(name, hub_id, split, root)
        columns(name, data, (*required, image))
        self.source = str(root or hub_id)
        self.rows, self._hub = text_rows(name, data), HubImages(data)

    def image_id(self, number: int, where: str) -> str:
        """Return the id of the image of row ``number``. Raises EvaluationError if a row of a JSON lines file does not
        name an image.
        """
        if self._hub is not None:
            return self._hub.add(str(number), number, self._column)
        (path,) = texts(self._name, self.rows[number], where, "image")
        return path

    def images(self, items: Iterable[Item], folder: str | Path | None) -> Mapping[str, ImageFile]:
        """Return the images of the items by id. ``folder`` is the folder of the images that a JSON lines file names
        (default: the folder of this file).
        """
        if self._hub is not None:
            return self._hub
        assert self._path is not None
        return item_images(self._name, folder or self._path.parent, items)
