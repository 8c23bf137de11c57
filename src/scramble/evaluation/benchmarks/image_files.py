"""Provide the images of benchmarks: files below a folder (found by the names in a benchmark's file), crops of these
images, or the images of a data set folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from scramble.evaluation.items import EvaluationError, Item
from scramble.formats.checks import PHOTO_SUFFIXES
from scramble.pixels import png_bytes
from scramble.records import ImageFile
from scramble.storage.image_table import ImageTable


def folder_images(name: str, folder: str | Path, names: Iterable[str], setting: str = "images") -> dict[str, ImageFile]:
    """Return the images below a folder, by the names in a benchmark's file. A name without a suffix matches files with
    any suffix.

    The file whose path equals the name is used, if it exists. Otherwise the only file whose path ends with the name is
    used ("val2017/1.jpg" for "1.jpg") or, if ``folder`` is a sub-folder, the file whose path is the end of the name
    ("1.jpg" for "val2017/1.jpg"). A file with the same base name in a different folder is never used.

    Args:
        name: name of the benchmark.
        folder: folder with the images.
        names: paths or base names, as written in the benchmark's file.
        setting: the benchmark's configuration key for this folder. Error messages name this key.

    Raises:
        EvaluationError: the folder or an image is missing, a name matches several files, or a file matches several
            names.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise EvaluationError(
            f"{name}: {folder} is not a folder: set benchmark.{name}.{setting} to the folder of the images"
        )
    index = _Files(folder)
    matches = {n: index.find(n) for n in dict.fromkeys(names)}
    hint = f"set benchmark.{name}.{setting} to the folder to which the names are relative"
    for n, files in matches.items():
        if len(files) > 1:
            listed = ", ".join(str(file.relative_to(folder)) for file in sorted(files)[:3])
            raise EvaluationError(
                f"{name}: the image {n!r} matches {len(files)} files below {folder} ({listed}): {hint}"
            )
    if missing := [n for n, files in matches.items() if not files]:
        raise EvaluationError(
            f"{name}: {len(missing)} of {len(matches)} images are missing below {folder} "
            f"(first: {', '.join(n[:100] for n in missing[:3])}): finish the download, or {hint}"
        )
    paths = {n: files[0] for n, files in matches.items()}
    _check_names(name, paths, hint)
    return {n: ImageFile(path=str(path)) for n, path in paths.items()}


def item_images(name: str, folder: str | Path, items: Iterable[Item]) -> dict[str, ImageFile]:
    """Return the images of items by id. The images are files below a folder."""
    return folder_images(name, folder, [image_id for item in items for image_id in item.image_ids])


class _Files:
    """The image files below a folder, indexed by all ends of their paths, with and without the file extension."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._by_end: dict[tuple[str, ...], list[Path]] = {}
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in PHOTO_SUFFIXES:
                parts = path.relative_to(folder).parts
                for start in range(len(parts)):
                    for last in (path.name, path.stem):
                        self._by_end.setdefault((*parts[start:-1], last), []).append(path)

    def find(self, name: str) -> list[Path]:
        """Return the files that match a name."""
        parts = _parts(name)
        files = self._by_end.get(parts, [])
        if named := [file for file in files if file.name == parts[-1]]:
            files = named  # "1.jpg" must not match "1.jpg.png", whose stem is also "1.jpg"
        if exact := [file for file in files if len(file.relative_to(self._folder).parts) == len(parts)]:
            return exact
        if files:
            return files
        for start in range(1, len(parts)):
            inner = [
                file
                for file in self._by_end.get(parts[start:], [])
                if len(file.relative_to(self._folder).parts) == len(parts) - start
            ]
            if inner:
                return inner
        return []


def _parts(name: str) -> tuple[str, ...]:
    """Return the parts of a path, which benchmarks write with slashes or backslashes. "./" is dropped."""
    return tuple(part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in (".", "/"))


def _check_names(name: str, paths: Mapping[str, Path], hint: str) -> None:
    """Raise EvaluationError if two names with different folders ("a/1.jpg" and "b/1.jpg") match the same file."""
    first: dict[Path, str] = {}
    for image_id, path in paths.items():
        other = first.setdefault(path, image_id)
        a, b = sorted(((*_parts(n)[:-1], Path(n).stem) for n in (other, image_id)), key=len)
        if b[len(b) - len(a) :] != a:
            raise EvaluationError(f"{name}: the images {other!r} and {image_id!r} both match {path}: {hint}")


def table_images(name: str, folder: str | Path, items: Sequence[Item]) -> ImageTable:
    """Return the images of a data set folder. Raises EvaluationError if an item's image is missing."""
    images = ImageTable(folder)
    if missing := [image for item in items for image in item.image_ids if image not in images]:
        raise EvaluationError(
            f"{name}: {len(missing)} images are missing from {folder} (first: {missing[0]!r}): generate the data again"
        )
    return images


class CroppedImages(Mapping[str, ImageFile]):
    """Maps ids to images and to crops of these images. An image is cropped when its crop is accessed.

    ``crops`` maps the id of a crop to the id of its image and its box (x, y, width, height) in pixels.
    """

    def __init__(
        self, images: Mapping[str, ImageFile], crops: Mapping[str, tuple[str, tuple[int, int, int, int]]]
    ) -> None:
        self._images, self._crops = images, dict(crops)

    def __getitem__(self, image_id: str) -> ImageFile:
        if image_id not in self._crops:
            return self._images[image_id]
        source, (x, y, width, height) = self._crops[image_id]
        image = self._images[source].open()
        inside = x < image.width and y < image.height and x + width > 0 and y + height > 0
        if not inside or width > 2 * image.width or height > 2 * image.height:  # a box may cross the edge slightly
            raise EvaluationError(
                f"the box {(x, y, width, height)} does not fit image {source!r} of {image.width} x {image.height} "
                "pixels: download the data again"
            )
        return ImageFile(bytes=png_bytes(image.crop((x, y, x + width, y + height))))

    def __iter__(self) -> Iterator[str]:
        return iter({**dict.fromkeys(self._images), **self._crops})

    def __len__(self) -> int:
        return len(self._images) + len(self._crops)
