"""Reads SCRAMBLe's released preference pairs over COCO images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from scramble.formats.bad_rows import BadRows, FormatError
from scramble.formats.checks import exists, find_image, image_fault, image_name, load_image
from scramble.formats.data_files import read_rows
from scramble.formats.pair_files import reason_of
from scramble.formats.recognise import renamed
from scramble.formats.scramble import image_ids, row_to_pair
from scramble.records import ImageRecord, PreferencePair, RecordError
from scramble.sources.bundles import Bundle


def bundles(
    path: str | Path,
    bad: BadRows,
    *,
    columns: Mapping[str, str] | None = None,
    images: str | Path | None = None,
    embed: bool = True,
    verify: bool = True,
) -> Iterator[Bundle]:
    """Stream each image of a release file with its pairs, in the order of the images' first rows.

    Args:
        path: the data file, which is loaded into memory (58,000 pairs need about 40 MB). Images are read one at a
            time.
        columns: the file's column name for each name that the format expects.
        images: the folder of COCO images. An image is looked up by its path, and then by its file name if no other
            image has the same file name.

    Raises:
        SourceError: the file cannot be read.
    """
    folder = Path(path).parent if images is None else Path(images).expanduser()
    grouped: dict[str, tuple[int, list[PreferencePair]]] = {}  # image path -> first row, pairs
    for number, row in read_rows(Path(path), bad.reject, columns):
        try:
            name, pair = row_to_pair(renamed(row, columns or {}), number)
            image_name(name)
        except (FormatError, RecordError) as error:
            bad.reject(path, number, reason_of(error))
            continue
        grouped.setdefault(name, (number, []))[1].append(pair)
    ids = image_ids(grouped)
    files = Counter(_base(name) for name in grouped)
    for name, (number, pairs) in grouped.items():
        image_id, file = ids[name], find_image(folder, name)
        base = _base(name)
        if not exists(file) and files[base] == 1:  # a repeated name could belong to the image of another row
            file = find_image(folder, base)
        try:
            image = load_image(file, embed=embed, verify=verify)
        except RecordError as error:
            bad.reject(path, number, image_fault(file), str(error), rows=len(pairs))
            continue
        bad.use(len(pairs))
        captions = dict.fromkeys(pair.chosen for pair in pairs if pair.kind != "yes-no")
        record = ImageRecord(image_id, image, tuple(captions), source="scramble_release")
        yield Bundle(image_id, (record,), tuple(replace(pair, image_ids=(image_id,)) for pair in pairs))


def _base(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).name
