"""Reads the image files of a table by id, directly from the parquet file."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from scramble.records import ImageFile, ImageRecord, RecordError
from scramble.storage.files import StoreError
from scramble.storage.tables import TABLE_NAMES, table_path


class ImageTable(Mapping[str, ImageFile]):
    """Maps ids to the images of a data set folder. An image is read from the parquet file on access.

    Nothing is copied to the ``datasets`` library's cache, which may be read-only or on a small disk. Recently used
    decoded row groups remain in memory, up to ``GROUP_CACHE`` bytes. Processes and threads can share a table.

    Attributes:
        path: the parquet file.
    """

    GROUP_CACHE = 64 << 20  # bytes; enough for a small data set or a few row groups of photographs

    def __init__(self, folder: str | Path) -> None:
        self.path = table_path(folder, ImageRecord)
        if not self.path.exists():
            raise StoreError(f"{self.path} is missing: first run scripts/generate.py, which writes it")
        self._open()
        self._index: dict[str, tuple[int, int]] = {}  # id -> (row group, row in the group)
        with self._reading():
            for group in range(self._file.num_row_groups):
                names = self._file.read_row_group(group, columns=["image_id"], use_threads=False)
                self._index |= {name: (group, row) for row, name in enumerate(names["image_id"].to_pylist())}

    def _open(self) -> None:
        import pyarrow.parquet as pq

        self._lock = threading.Lock()
        self._groups: OrderedDict[int, Any] = OrderedDict()
        with self._reading():
            self._file = pq.ParquetFile(self.path, memory_map=True)  # so that processes do not share a file position

    @contextmanager
    def _reading(self) -> Iterator[None]:
        import pyarrow as pa

        try:
            yield
        except (pa.ArrowException, OSError, KeyError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            fault = f"cannot be read as a table of {TABLE_NAMES[ImageRecord]} ({reason})"
            raise StoreError(f"{self.path} {fault}: delete it and run scripts/generate.py again") from error

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_index": self._index}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __getitem__(self, image_id: str) -> ImageFile:
        group, row = self._index[image_id]
        images = self._group(group)
        try:
            image = images[row].as_py()
            return ImageFile(image["bytes"], image["path"])
        except (IndexError, KeyError, TypeError) as error:  # the file is damaged but can be opened
            raise StoreError(
                f"{self.path} is damaged at image {image_id!r}: delete the file and run scripts/generate.py again"
            ) from error

    def _group(self, group: int) -> Any:
        with self._lock:
            if group in self._groups:
                self._groups.move_to_end(group)
                return self._groups[group]
            with self._reading():
                images = self._file.read_row_group(group, columns=["image"], use_threads=False)["image"]
            self._groups[group] = images
            while len(self._groups) > 1 and sum(cached.nbytes for cached in self._groups.values()) > self.GROUP_CACHE:
                self._groups.popitem(last=False)
            return images

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)


def replace_image(images: Mapping[str, ImageFile], image_id: str) -> str:
    """Return the end of an error message, which says how to replace an image that cannot be decoded."""
    with suppress(RecordError):  # a crop of a damaged image
        if images[image_id].bytes is None:
            return "replace the file and repeat the command"
    if isinstance(images, ImageTable):
        return (
            f"its bytes are stored in {images.path}: generate the data in another run folder (name=...) with "
            "data.verify=true, which leaves out damaged images"
        )
    return "replace the data that contain the bytes of this image, and repeat the command"
