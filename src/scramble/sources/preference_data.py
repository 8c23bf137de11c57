"""Reads preference data of any supported format: pairs with their images, from one input or a weighted mix of
inputs.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from scramble.formats import mmpr as mmpr_meta
from scramble.formats.bad_rows import BadRow, BadRows, SourceError
from scramble.formats.checks import exists, find_image, image_fault, image_name, verify_image
from scramble.formats.data_files import DataFile, find_data_files, log_unused_columns
from scramble.formats.layout import Layout
from scramble.formats.pair_files import ROW_ERRORS, ImageNames, PairFile, own_tables, reason_of, refuse_settings
from scramble.formats.provenance import PROVENANCE_COLUMN
from scramble.formats.readers import ORIGIN, ParsedRow, Row, parsed_pair
from scramble.formats.recognise import parse_row
from scramble.records import ImageFile, ImageRecord, PreferencePair, RecordError
from scramble.sources import mmpr, scramble_release
from scramble.sources.bundles import Bundle
from scramble.sources.image_loader import ImageLoader
from scramble.storage.image_table import ImageTable
from scramble.storage.tables import read_table, table_path

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PairInput:
    """Describes one input of :func:`bundles`. The fields are those of ``configs/data/pairs.yaml``.

    Attributes:
        format: a name in :data:`scramble.formats.recognise.READABLE`; if None, it is detected from the columns.
        columns: the file's column name for each name that the format expects.
        images: folder that image paths are relative to; None means the folder of the data file.
        root, resample: see :func:`scramble.sources.mmpr.bundles`.
        ratings: which pairs of rated answers to use: the best and the worst answer (``best_worst``), or all pairs of
            answers with different ratings (``all``).
        weight: relative weight of this input in the mix.
        place: index of this input in the mix; None without a mix.
    """

    path: str
    format: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    images: str | None = None
    root: str | None = None
    resample: bool = False
    name: str | None = None
    split: str = "train"
    revision: str | None = None
    ratings: Literal["best_worst", "all"] = "best_worst"
    weight: float = 1.0
    place: int | None = None

    @property
    def layout(self) -> Layout:
        """Return the format and the column names of the input."""
        return Layout(self.format, self.columns, "data.")

    def with_keys(self, message: str) -> str:
        """Return a message with the keys of this input. In a mix, ``data.columns`` becomes ``data.mix[0].columns``."""
        if self.place is None:
            return message
        keys = "|".join(field.name for field in fields(self))
        return re.sub(rf"(?<![\w./-])data\.(?=({keys})\b)", f"data.mix[{self.place}].", message)


def bundles(
    path: str | Path | None,
    bad: BadRows,
    *,
    mix: Sequence[Mapping[str, Any]] | None = None,
    seed: int = 0,
    embed: bool = True,
    verify: bool = True,
    **options: Any,
) -> Iterator[Bundle]:
    """Stream pairs, each with its images.

    Args:
        path: see :func:`scramble.formats.data_files.find_data_files`. A data folder of this project and an MMPR
            ``meta.json`` are also supported. ``path`` is None if ``mix`` is given.
        mix: several inputs, each a mapping of :class:`PairInput`'s fields; see :func:`interleave`.
        seed: seed of MMPR's mixture.
        options: fields of :class:`PairInput`.

    Raises:
        SourceError: an input cannot be read, or its columns do not match the format.
    """
    if mix:
        inputs = [PairInput(**one, place=place) for place, one in enumerate(mix)]
    else:
        inputs = [PairInput(str(path), **options)]
    inputs = [one for one in inputs if one.weight > 0]
    reader = _Reader(bad, seed, embed, verify, alone=len(inputs) == 1)
    streams = [reader.bundles(number, one) for number, one in enumerate(inputs)]
    if len(streams) == 1:
        yield from streams[0]
    else:
        yield from interleave(streams, [one.weight for one in inputs], [one.path for one in inputs])


def interleave(streams: Sequence[Iterator[Bundle]], weights: Sequence[float], names: Sequence[str]) -> Iterator[Bundle]:
    """Mix streams in proportion to their weights. The proportion holds at every point of the mix, to within one bundle.

    The mix ends when the stream whose turn it is has no more pairs, so no pair is repeated. Rows are taken in
    order, so a sorted file must be shuffled first.
    """
    total, counts = sum(weights), [0] * len(streams)
    while True:
        due = [weight / total * (sum(counts) + 1) - count for weight, count in zip(weights, counts, strict=True)]
        number = due.index(max(due))
        bundle = next(streams[number], None)
        if bundle is None:
            listed = ", ".join(f"{count:,} of {name}" for name, count in zip(names, counts, strict=True))
            log.info(f"data: the mix ends because {names[number]} has no more pairs. Pairs used: {listed}")
            return
        counts[number] += max(1, len(bundle.pairs))
        yield bundle


class _Reader:
    """Reads several inputs and assigns unique ids to their images and pairs."""

    def __init__(self, bad: BadRows, seed: int, embed: bool, verify: bool, alone: bool) -> None:
        self._bad, self._seed, self._alone = bad, seed, alone
        self._loader = ImageLoader(embed, verify)
        self._image_ids: dict[tuple[str, str], str] = {}  # (scope, id within the scope) -> id
        self._contents: dict[str, str] = {}
        self._pair_ids: Counter[str] = Counter()
        bad.images_key = "images in the entries of data.mix"

    def bundles(self, number: int, one: PairInput) -> Iterator[Bundle]:
        """Yield the bundles of one input. Errors name the keys of this input."""
        try:
            yield from self._bundles(number, one)
        except SourceError as error:
            raise type(error)(one.with_keys(str(error))) from error

    def _bundles(self, number: int, one: PairInput) -> Iterator[Bundle]:
        if self._alone:
            self._bad.images_key = one.with_keys("data.images")
        special = self._special(one)
        if special is not None:
            yield from special if self._alone else self._renamed(str(number), special)
            return
        opened = find_data_files(one.path, name=one.name, split=one.split, revision=one.revision)
        names, by_name = ImageNames(), dict[Path, str]()
        for file in opened.files:
            pairs = PairFile(file, opened.entry, one.layout)
            _log_format(file, pairs)
            is_export = any(isinstance(row, Mapping) and PROVENANCE_COLUMN in row for row in pairs.first)
            if pairs.format == "scramble" and file.path is not None and not is_export:
                given = scramble_release.bundles(
                    file.path, self._bad, columns=one.columns, images=one.images, **self._image_options()
                )
                unique = self._alone and len(opened.files) == 1
                yield from given if unique else self._renamed(f"{number}/{file}", given)
                continue
            for place, name, row in pairs.rows(self._bad.reject):
                yield from self._row(number, one, file, place, row, name, names, by_name)

    def _image_options(self) -> dict[str, Any]:
        return {"embed": self._loader.embed, "verify": self._loader.verify}

    def _special(self, one: PairInput) -> Iterator[Bundle] | None:
        """Return the bundles of MMPR's ``meta.json`` or of this project's tables, or None for any other input."""
        path = Path(one.path).expanduser()
        meta = mmpr_meta.find_meta(path) if exists(path) and one.format in (None, "mmpr") else None
        if meta is not None:
            log.info(f"data: {meta} has the format mmpr (a meta.json that lists data sets)")
            if one.images is not None:
                raise SourceError(f"{meta}: data.images is not used for a meta.json of MMPR: set data.root instead")
            _refuse(meta, "sets of MMPR", one, "columns", "name", "revision")
            if self._alone:
                self._bad.images_key = one.with_keys("data.root")
            options = self._image_options()
            return mmpr.bundles(meta, self._bad, root=one.root, resample=one.resample, seed=self._seed, **options)
        if one.root is not None or one.resample:
            raise SourceError(
                f"{one.path} is not a meta.json of MMPR: remove data.root and data.resample, which apply only to MMPR"
            )
        folder = own_tables(path, one.split)
        if folder is None:
            return None
        _refuse(folder, "pair tables of this project", one, "format", "columns", "images", "name", "revision")
        log.info(f"data: {folder} contains pair tables that SCRAMBLe wrote")
        return self._own_tables(folder)

    def _own_tables(self, folder: Path) -> Iterator[Bundle]:
        images = ImageTable(folder)
        for number, pair in enumerate(read_table(folder, PreferencePair), 1):
            try:
                missing = [image_id for image_id in pair.image_ids if image_id not in images]
                if missing:
                    raise RecordError(f"missing image: {missing[0]}")
                records = tuple(ImageRecord(name, images[name], source=pair.source) for name in pair.image_ids)
            except RecordError as error:
                self._bad.reject(table_path(folder, PreferencePair), number, "missing image", str(error))
                continue
            self._bad.use()
            yield Bundle(pair.image_ids[0] if records else pair.pair_id, records, (self._numbered(pair),))

    # ------------------------------------------------------------------------------------------------------------ rows

    def _row(
        self,
        number: int,
        one: PairInput,
        file: DataFile,
        place: int,
        row: Any,
        name: str,
        names: ImageNames,
        by_name: dict[Path, str],
    ) -> Iterator[Bundle]:
        """Yield the bundles of a row. A row that cannot be used is recorded as rejected."""
        try:
            source = f"{name}:{Path(one.path).stem}"
            bundles = []
            for parsed in parse_row(name, row, all_pairs=one.ratings == "all"):
                if not parsed.messages or not any(m.text or m.num_places for m in parsed.messages):
                    raise BadRow("no prompt", "name its column: data.columns.prompt=<name>")
                own_ids = names.of_all(parsed.images, file.root if one.images is None else "")
                pair = parsed_pair(parsed, own_ids)
                images = [self._image(value, one, file, by_name) for value in parsed.images]
                bundles.append(self._bundle(number, own_ids, images, _described(pair, parsed, row, source), source))
        except BadRow as error:
            self._bad.reject(str(file), place, error.kind, one.with_keys(error.detail))
        except ROW_ERRORS as error:
            self._bad.reject(str(file), place, one.layout.reason(reason_of(error)))
        else:
            self._bad.use()
            yield from bundles

    def _image(self, value: Any, one: PairInput, file: DataFile, by_name: dict[Path, str]) -> ImageFile:
        """Return the image of a row's field. Raises BadRow if the image cannot be found or decoded."""
        data = value if isinstance(value, bytes) else value.get("bytes") if isinstance(value, Mapping) else None
        path = value.get("path") if isinstance(value, Mapping) else value
        try:
            if isinstance(data, bytes) and data:
                image = ImageFile(data, path if isinstance(path, str) else None)
                if self._loader.verify:
                    verify_image(image)
                return image
            path = image_name(path)
        except RecordError as error:
            kind = "unreadable image" if data else str(error)
            raise BadRow(kind, str(error) if data else "") from error
        folder = file.folder if one.images is None else Path(one.images).expanduser()
        if folder is None:
            raise BadRow("missing image", f"{path}: the rows on the hub contain only paths; set data.images=<folder>")
        image_path = find_image(folder, path)
        if not exists(image_path):
            flat = find_image(folder, Path(path.replace("\\", "/")).name)
            if exists(flat) and (other := by_name.setdefault(flat, path)) != path:
                raise BadRow("missing image", f"{path} is not in {folder}, and {flat.name} is already used for {other}")
            image_path = flat if exists(flat) else image_path
        try:
            return self._loader.load(image_path)
        except RecordError as error:
            raise BadRow(image_fault(image_path), str(error)) from error

    # ------------------------------------------------------------------------------------------------------------- ids

    def _bundle(
        self, number: int, own_ids: Sequence[str], images: Sequence[ImageFile], pair: PreferencePair, source: str
    ) -> Bundle:
        image_ids = pair.image_ids if len(pair.image_ids) == len(own_ids) else own_ids
        ids = [self._image_id(str(number), *three) for three in zip(own_ids, image_ids, images, strict=True)]
        records = {name: ImageRecord(name, image, source=source) for name, image in zip(ids, images, strict=True)}
        pair = self._numbered(replace(pair, image_ids=tuple(ids)))
        return Bundle(ids[0] if ids else pair.pair_id, tuple(records.values()), (pair,))

    def _renamed(self, scope: str, bundles: Iterator[Bundle]) -> Iterator[Bundle]:
        """Replace the ids of bundles, which are unique within ``scope``, with ids that are unique in the data set."""
        for bundle in bundles:
            ids = {one.image_id: self._image_id(scope, one.image_id, one.image_id, one.image) for one in bundle.images}
            images = tuple(replace(one, image_id=ids[one.image_id]) for one in bundle.images)
            pairs = (replace(pair, image_ids=tuple(ids[name] for name in pair.image_ids)) for pair in bundle.pairs)
            key = ids.get(bundle.key, f"{scope}/{bundle.key}")
            yield Bundle(key, images, tuple(self._numbered(pair) for pair in pairs))

    def _image_id(self, scope: str, own: str, preferred: str, image: ImageFile) -> str:
        """Return the id of an image: ``preferred`` (for an export, the recorded id) unless another image has it.

        ``own`` is the image's id within ``scope``, which is an input or one of its files.
        """
        key = (scope, own)
        if key not in self._image_ids:
            content = image.sha256
            for name in (preferred, own, f"{own}#{content[:8]}"):
                if self._contents.setdefault(name, content) == content:
                    self._image_ids[key] = name
                    break
        return self._image_ids[key]

    def _numbered(self, pair: PreferencePair) -> PreferencePair:
        """Append ``#2`` to the id of the second pair with the same id, and so on."""
        self._pair_ids[pair.pair_id] += 1
        time = self._pair_ids[pair.pair_id]
        return pair if time == 1 else replace(pair, pair_id=f"{pair.pair_id}#{time}")


def _log_format(file: DataFile, pairs: PairFile) -> None:
    if pairs.format is not None:
        log.info(f"data: {file} has the format {pairs.format}")
    log_unused_columns(file, pairs.unused_columns())


def _described(pair: PreferencePair, parsed: ParsedRow, row: Row, source: str) -> PreferencePair:
    """Set the pair's source. If the row names its data set, set the pair's kind to this name. A pair that this project
    exported keeps its source and kind.
    """
    if parsed.provenance:
        return pair
    kind = next((row[key] for key in ORIGIN if isinstance(row.get(key), str)), pair.kind)
    return replace(pair, kind=kind or pair.kind, source=source)


def _refuse(place: Path, what: str, one: PairInput, *keys: str) -> None:
    """Raise FormatError if one of ``keys`` is set, because they do not apply to the content of the input (``what``)."""
    refuse_settings(place, what, {f"data.{key}": getattr(one, key) for key in keys})
