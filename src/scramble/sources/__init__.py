"""Reads image folders, COCO, Hugging Face data sets, scene graphs, questions and preference pairs as records."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from scramble.formats.bad_rows import BadRows, SourceError
from scramble.records import ImageRecord, PreferencePair, Question
from scramble.sources import coco, hf, image_folder, preference_data, questions, scene_graphs
from scramble.sources.bundles import Bundle

SOURCES: dict[str, Callable[..., Iterator[ImageRecord]]] = {
    "image_folder": image_folder.read,
    "coco": coco.read,
    "hf": hf.read,
}


class Bundled(NamedTuple):
    """Describes a source whose images come with other records.

    Attributes:
        read: the function that reads the source.
        tables: the types of the other records.
    """

    read: Callable[..., Iterator[Bundle]]
    tables: tuple[type, ...]


BUNDLES: dict[str, Bundled] = {
    "pairs": Bundled(preference_data.bundles, (PreferencePair,)),
    "questions": Bundled(questions.bundles, (Question,)),
    "gqa": Bundled(scene_graphs.bundles, (Question,)),
    "visual_genome": Bundled(scene_graphs.bundles, (Question,)),
}

__all__ = ["BUNDLES", "SOURCES", "BadRows", "SourceError", "read", "read_bundles"]


def read(
    kind: str, path: str | Path, *, bad: BadRows | None = None, limit: int | None = None, **options: Any
) -> Iterator[ImageRecord]:
    """Stream the images and captions of one input. The number of rejected rows is checked at the end.

    Args:
        kind: one of :data:`SOURCES`.
        bad: collects rejected rows; if None, a collector with the default limit is created.
        limit: stop after this many images.
        options: options of the source (see its ``read``), including ``embed`` and ``verify``.

    Raises:
        SourceError: the kind is unknown, the input has no usable row, or too many rows are rejected.
    """
    if kind not in SOURCES:
        raise SourceError(f"unknown source {kind!r}: choose one of {', '.join({**SOURCES, **BUNDLES})}")
    if bad is None:
        bad = BadRows()
    if kind == "hf" and limit is not None:  # hf reads the rows of all images before it yields the first image
        options["limit"] = limit
    yield from islice(SOURCES[kind](path, bad, **options), limit)
    bad.check(path)


def read_bundles(
    kind: str, path: str | Path | None, bad: BadRows, *, limit: int | None = None, **options: Any
) -> Iterator[Bundle]:
    """Stream one input as bundles of records, like :func:`read`. ``kind`` is one of :data:`SOURCES` or :data:`BUNDLES`.

    Each image of a source in :data:`SOURCES` is a separate bundle. ``path`` is None for a mix of preference data.
    """
    if kind in BUNDLES:
        yield from islice(BUNDLES[kind].read(path, bad, **options), limit)
        bad.check(path or "data.mix")
        return
    for image in read(kind, path or "", bad=bad, limit=limit, **options):
        yield Bundle(image.image_id, (image,))
