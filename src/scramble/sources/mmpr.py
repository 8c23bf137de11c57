"""Reads MMPR, which consists of sets of preference pairs with any number of images. The sets are mixed as in InternVL's
trainer.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scramble.console import counted
from scramble.formats import mmpr
from scramble.formats.bad_rows import BadRow, BadRows, FormatError, SourceError
from scramble.formats.checks import find_image, image_fault, image_name
from scramble.formats.pair_files import ROW_ERRORS, reason_of
from scramble.formats.readers import ParsedRow, from_mmpr, parsed_pair
from scramble.records import ImageRecord, PreferencePair, RecordError
from scramble.sources.bundles import Bundle
from scramble.sources.image_loader import ImageLoader
from scramble.storage.jsonl import json_values
from scramble.storage.similar_paths import did_you_mean

log = logging.getLogger(__name__)


def bundles(
    path: str | Path,
    bad: BadRows,
    *,
    root: str | Path | None = None,
    resample: bool = False,
    seed: int = 0,
    embed: bool = False,
    verify: bool = True,
) -> Iterator[Bundle]:
    """Stream the pairs of a ``meta.json``, each with its images, in the order of the mixture.

    A row that is used several times produces pairs with different ids. A row is unusable if it is not a single JSON
    object, lacks the question or an answer, has the wrong number of image placeholders, or has a missing or broken
    image. An unusable row is added to ``bad`` only once.

    Args:
        path: the ``meta.json``, or its folder.
        root: the folder that the paths in ``meta.json`` are relative to; if None, several folders are tried
            (:func:`scramble.formats.mmpr.resolve`).
        resample: whether the set of each pair is drawn at random, weighted by the square root of the set's number of
            used rows (:func:`scramble.formats.mmpr.mixture`).
        seed: seed for drawing sets; the rows of a set are shuffled with the set's index as seed.

    Raises:
        SourceError: there is no ``meta.json``, or the files of its sets do not exist.
    """
    path = Path(path) / mmpr.META if Path(path).is_dir() else Path(path)
    if not path.is_file():
        raise SourceError(f"{path} does not exist: set data.path to the meta.json or its folder{did_you_mean(path)}")
    with ExitStack() as stack:
        sets = [_open(one, index, path, root, stack) for index, one in enumerate(mmpr.read_meta(path))]
        _log_ignored_settings(sets)
        order = mmpr.mixture([one.used for one in sets], resample=resample, seed=seed)
        images = ImageLoader(embed, verify)
        yield from _bundles(sets, order, images, bad)


@dataclass(frozen=True)
class _Set:
    """Contains a set's entry in ``meta.json``, its open data file, its folder of images, and its used rows in order."""

    entry: mmpr.MmprSet
    lines: mmpr.LineFile
    folder: Path
    used: Any


def _open(entry: mmpr.MmprSet, index: int, path: Path, root: str | Path | None, stack: ExitStack) -> _Set:
    lines = mmpr.LineFile(mmpr.resolve(entry.annotation, path, root))
    stack.callback(lines.close)
    if len(lines) and re.match(rb"\s*\[\s*(\{|$)", lines[0]):
        raise FormatError(f"{lines.path} is a JSON list, but the sets of MMPR are JSONL files: write one row per line")
    folder = mmpr.resolve(entry.root, path, root) if entry.root else lines.path.parent
    return _Set(entry, lines, folder, mmpr.used_rows(len(lines), entry.repeat_time, index))


def _log_ignored_settings(sets: list[_Set]) -> None:
    for one in sets:
        entry = one.entry
        if entry.length is not None and entry.length != len(one.lines):
            log.info(
                f"mmpr: the set {entry.name} has {counted(len(one.lines), 'rows')}, but its length in meta.json is "
                f"{entry.length}"
            )
        if entry.data_augment:
            log.info(f"mmpr: data_augment=true of the set {entry.name} is ignored, because it is not supported")
    patches = {one.entry.max_dynamic_patch for one in sets} - {None}
    if patches:
        log.info(f"mmpr: max_dynamic_patch={sorted(patches)} is ignored, because model.max_tiles applies to all sets")  # type: ignore[type-var]


def _bundles(sets: list[_Set], order: Iterator[tuple[int, int]], images: ImageLoader, bad: BadRows) -> Iterator[Bundle]:
    times: Counter[tuple[int, int]] = Counter()
    refused: set[tuple[int, int]] = set()
    for place in order:
        one = sets[place[0]]
        if place in refused:
            continue
        times[place] += 1
        try:
            bundle = _parsed(one, place[1], times[place], images)
        except BadRow as error:
            bad.reject(one.lines.path, place[1] + 1, error.kind, error.detail)
            refused.add(place)
            continue
        bad.use()
        yield bundle


def _parsed(one: _Set, row: int, time: int, images: ImageLoader) -> Bundle:
    try:
        values = json_values(one.lines[row])
    except ValueError as error:
        raise BadRow("not JSON", str(error)) from error
    if len(values) != 1:
        raise BadRow("several rows on a line", "end each row with a line feed instead of a carriage return")
    content = values[0]
    if not isinstance(content, dict):
        raise BadRow("not a JSON object")
    try:
        parsed = from_mmpr(content)
        names = [_name(value) for value in parsed.images]
        ids = tuple(f"{one.entry.root}/{name}".removeprefix("./") for name in names)
        pair = parsed_pair(parsed, ids)
    except ROW_ERRORS as error:
        raise BadRow(reason_of(error)) from error
    records = []
    for image_id, name in zip(ids, names, strict=True):
        file = find_image(one.folder, name)
        try:
            records.append(ImageRecord(image_id, images.load(file), source=f"mmpr:{one.entry.name}"))
        except RecordError as error:
            raise BadRow(image_fault(file), str(error)) from error
    key = ids[0] if ids else f"{one.entry.name}/{row}"
    return Bundle(key, tuple(records), (_named(pair, parsed, ids, one, row, time),))


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise FormatError("an image is not a path")
    try:
        return image_name(value)
    except RecordError as error:
        raise FormatError("an image is not a path") from error


def _named(
    pair: PreferencePair, parsed: ParsedRow, ids: tuple[str, ...], one: _Set, row: int, time: int
) -> PreferencePair:
    """Return the pair with a unique id, and with ``ids`` as the ids of its images."""
    again = f"#{time}" if time > 1 else ""
    name = one.entry.name
    if parsed.provenance:  # an export of this project: all other fields are kept
        return replace(pair, pair_id=f"{name}/{pair.pair_id}{again}", image_ids=ids)
    return replace(
        pair, pair_id=f"{name}/{row + 1:07d}{again}", image_ids=ids, kind=name, rule="mmpr", source=f"mmpr:{name}"
    )
