"""Makes the images of a data set: renders the embedded world, or imports images and divides them into splits."""

from __future__ import annotations

import logging
import shutil
from array import array
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from scramble.console import track
from scramble.records import SPLITS, ImageRecord
from scramble.storage.tables import TABLE_NAMES, open_table, read_table

log = logging.getLogger(__name__)


def make_images(folder: Path, data: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Write the images of each split, and the questions, 2x2 items and pairs of the data source.

    Returns:
        Counts per split and, for imported images, the number of ``rejected_rows``.
    """
    data = dict(data)
    kind = data.pop("kind")
    if kind == "world":
        from scramble import world

        return world.build_world(folder, seed=seed, **data)
    return _import(folder, kind, data, seed)


def _import(folder: Path, kind: str, data: dict[str, Any], seed: int) -> dict[str, Any]:
    """Import images into splits. Records that share an image go to the same split; see
    :class:`scramble.sources.splits.Groups`.

    All records are first written to one folder, because the groups are known only after everything has been read.
    """
    from scramble import sources
    from scramble.sources.splits import Groups

    fractions = {"val": data.pop("val_fraction"), "test": data.pop("test_fraction")}
    path, allowed = data.pop("path"), data.pop("max_rejected")
    if kind == "pairs":
        data["seed"] = seed
    tables = [ImageRecord, *(sources.BUNDLES[kind].tables if kind in sources.BUNDLES else ())]
    groups = Groups()
    places: dict[type, array[int]] = {table: array("q") for table in tables}  # the group of each record
    written: set[str] = set()
    incoming = folder / "incoming"
    shutil.rmtree(incoming, ignore_errors=True)  # a killed run may have left the folder
    try:
        with sources.BadRows(folder / "rejected_rows.jsonl", allowed) as bad, ExitStack() as stack:
            writers = {table: stack.enter_context(open_table(incoming, table)) for table in tables}
            for bundle in track(sources.read_bundles(kind, path, bad, **data), "reading rows"):
                group = groups.add(bundle.key, {image.image_id: image.image for image in bundle.images})
                new = {image.image_id: image for image in bundle.images if image.image_id not in written}
                for record in (*new.values(), *bundle.pairs, *bundle.questions):
                    writers[type(record)].write(record)
                    places[type(record)].append(group)
                written.update(new)  # "|=" with the keys of a mapping copies the set
        if duplicates := groups.duplicates():
            log.info(
                "data: equal images are put into the same split; number of images with the same bytes as another "
                f"image: {duplicates:,}"
            )
        split_of = groups.assign(fractions, seed)
        counts: dict[str, Any] = {split: {} for split in SPLITS}
        for table in tables:
            for split, count in _distribute(incoming, folder, table, places[table], split_of).items():
                counts[split]["images" if table is ImageRecord else TABLE_NAMES[table]] = count
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    return counts | {"rejected_rows": bad.rejected}


def _distribute(
    incoming: Path, folder: Path, table: type, places: Sequence[int], split_of: Sequence[str]
) -> dict[str, int]:
    """Write the records of one table to the splits of their groups, in order, and return the count per split."""
    with ExitStack() as stack:
        writers = {split: stack.enter_context(open_table(folder / split, table)) for split in SPLITS}
        records: Iterable[Any] = read_table(incoming, table)
        for record, group in zip(records, places, strict=True):
            writers[split_of[group]].write(record)
        return {split: writer.count for split, writer in writers.items()}
