"""Reads the pairs of data sets in all supported formats without opening images, to audit other projects' data."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from scramble.formats import mmpr
from scramble.formats.bad_rows import FormatError, SourceError
from scramble.formats.checks import exists
from scramble.formats.conversations import ChatMessage
from scramble.formats.data_files import DataFile, OnBadRow, find_data_files, read_rows, refuse, rows_by_key
from scramble.formats.dataset_info import DataSetEntry
from scramble.formats.layout import LOOK_AHEAD, Layout
from scramble.formats.readers import ParsedRow, parsed_pair
from scramble.formats.recognise import READABLE, parse_row
from scramble.records import PreferencePair, RecordError
from scramble.storage.tables import read_table, table_path

SUGARCREPE_KINDS = {"obj": "object", "att": "attribute", "rel": "relation"}


def read_pairs(
    path: str | Path,
    on_bad: OnBadRow = refuse,
    *,
    layout: Layout | None = None,
    names: ImageNames | None = None,
    split: str = "train",
    name: str | None = None,
    revision: str | None = None,
) -> Iterator[PreferencePair]:
    """Yield the pairs of a data set without opening images. The format is detected unless ``layout`` sets it.

    The input can be:

    - a data set of this project: a folder with ``pairs.parquet``, or a data folder, from which ``split`` is read;
    - rows of any format in :data:`scramble.formats.recognise.READABLE`, in any form that
      :func:`scramble.formats.data_files.find_data_files` opens: a file, a folder, a glob pattern, or a hub id;
    - an MMPR ``meta.json``; each row of each set is read once;
    - SugarCrepe's JSON, as a file or as a folder with one file per kind.

    Args:
        on_bad: called for each row that cannot be used; the row is then skipped. By default, FormatError is raised.
        layout: format and column names of data files. If None, the format is detected.
        names: assigns the ids of the images and records where the images are.
        split: the split of a folder or of a hub data set; it is ignored for a single file.
        name: the name of an entry in ``dataset_info.json``, or the configuration of a hub data set.
        revision: the commit of a hub data set.

    Raises:
        FormatError: the data cannot be read. The message names the file and, if possible, the row.
    """
    place, layout, names = Path(path).expanduser(), layout or Layout(), names or ImageNames()
    settings = {"columns": layout.columns, "name": name, "revision": revision}
    try:
        if (folder := own_tables(place, split)) is not None:
            refuse_settings(place, "pair tables of this project", {"format": layout.format, **settings})
            yield from read_table(folder, PreferencePair)
        elif exists(place) and layout.format in (None, "mmpr") and (meta := mmpr.find_meta(place)) is not None:
            refuse_settings(meta, "sets of MMPR", settings)
            yield from _mmpr_pairs(meta, on_bad, names)
        else:
            opened = find_data_files(str(path), name=name, split=split, revision=revision)
            for file in opened.files:
                yield from _file_pairs(file, opened.entry, on_bad, names, layout)
    except SourceError as error:
        # The messages name the keys of data=pairs.
        raise FormatError(re.sub(r"\bdata\.(?=(path|name|split|revision)\b)", "", str(error))) from error


def own_tables(path: Path, split: str) -> Path | None:
    """Return the folder with this project's table of pairs, or None if ``path`` has no such table.

    ``path`` can be this folder, the table itself, or a data folder or run folder, from which ``split`` is selected.
    """
    if not exists(path):
        return None
    folders = [path, path / split, path / "data" / split]
    if path.name == table_path("", PreferencePair).name:
        folders = [path.parent]
    return next((folder for folder in folders if _is_own_table(table_path(folder, PreferencePair))), None)


def refuse_settings(path: Path, content: str, settings: Mapping[str, Any]) -> None:
    """Raise FormatError if one of ``settings`` (values by key) is set, because no setting applies to ``content``."""
    if keys := [key for key, value in settings.items() if value]:
        raise FormatError(f"{path} contains {content}: remove {' and '.join(keys)}")


class PairFile:
    """Reads a file of preference data and detects the format of its rows. The audit and training both use this class.

    Attributes:
        first: the first rows, unchanged.
        format: the format of the first rows; None if the file has no rows.
    """

    def __init__(self, file: DataFile, entry: DataSetEntry | None, layout: Layout) -> None:
        self._file, self._entry, self._layout = file, entry, layout
        rows = file.rows(lambda *_: None, layout.columns)
        self.first = [row for _, row in islice(rows, LOOK_AHEAD)]
        self.format: str | None = None
        if self.first:
            self.format = layout.format_of(file, self.first) if entry is None else "llama-factory"

    def rows(self, on_bad: OnBadRow) -> Iterator[tuple[int, str, Any]]:
        """Yield the number, the format and the content of each row, with columns renamed to those of the format.

        The format of each row is detected, unless a ``dataset_info.json`` or the settings determine the format, or the
        first rows have the format of SCRAMBLe's release.
        """
        for number, row in self._file.rows(on_bad, self._layout.columns):
            yield number, self._format_of(row), self._renamed(row)

    def unused_columns(self) -> list[str]:
        """Return the columns of the first rows that their formats do not use."""
        columns, used = dict[str, None](), set[str]()
        for row in self.first:
            if isinstance(row, Mapping):
                columns |= dict.fromkeys(map(str, row))
                used |= self._used(row)
        return [column for column in columns if column not in used]

    def _renamed(self, row: Any) -> Any:
        return self._layout.renamed(row) if self._entry is None else self._entry.sharegpt(row)

    def _format_of(self, row: Any) -> str:
        assert self.format is not None
        if self._entry is not None or self.format == "scramble":
            return self.format
        return self._layout.format_of_row(self._layout.renamed(row), self.format)

    def _used(self, row: Any) -> set[str]:
        if self._entry is not None:
            return set(self._entry.names.values())
        names = self._layout.columns
        return {names.get(column, column) for column in READABLE[self._format_of(row)].columns}


def _file_pairs(
    file: DataFile, entry: DataSetEntry | None, on_bad: OnBadRow, names: ImageNames, layout: Layout
) -> Iterator[PreferencePair]:
    if file.path is not None and (content := rows_by_key(file.path, layout.columns)) is not None:
        refuse_settings(file.path, "rows by key", {"format": layout.format, "columns": layout.columns})
        yield from _sugarcrepe_pairs(content, file.path, on_bad, names)
        return
    for number, name, row in PairFile(file, entry, layout).rows(on_bad):
        try:
            pairs = [_pair(parsed, names, file.folder, file.root) for parsed in parse_row(name, row)]
        except ROW_ERRORS as error:
            on_bad(str(file), number, layout.reason(reason_of(error)), "")
            continue
        yield from pairs


def _pair(parsed: ParsedRow, names: ImageNames, folder: Path | None, root: str = "") -> PreferencePair:
    """Return the pair of a row without opening the row's images."""
    return parsed_pair(parsed, names.of_all(parsed.images, root, folder))


def _mmpr_pairs(meta: Path, on_bad: OnBadRow, names: ImageNames) -> Iterator[PreferencePair]:
    """Yield the pairs of all sets of an MMPR ``meta.json``, each row once.

    A pair's kind is the name of its set, unless the row contains the pair's provenance.
    """
    for one in mmpr.read_meta(meta):
        file, folder = mmpr.resolve(one.annotation, meta), None
        with suppress(FormatError):  # the images are optional
            folder = mmpr.resolve(one.root, meta)
        for number, row in read_rows(file, on_bad):
            try:
                (parsed,) = parse_row("mmpr", row)
                pair = _pair(parsed, names, folder, one.root)
            except ROW_ERRORS as error:
                on_bad(file, number, reason_of(error), "")
                continue
            if not parsed.provenance:
                pair = replace(pair, pair_id=f"{one.name}/{number:07d}", kind=one.name, source="mmpr")
            yield pair


ROW_ERRORS = (FormatError, RecordError, KeyError, TypeError, ValueError, AttributeError, IndexError)


def reason_of(error: Exception) -> str:
    """Return one line that describes the fault of a row.

    Rows with the same fault get the same line, so that faults can be counted.
    """
    if isinstance(error, KeyError):
        return f"no {error.args[0]}"
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, RecordError):
        return text.partition(": ")[2] or text if text.startswith("pair ") else text
    return text if isinstance(error, FormatError) else f"not a row of a known format ({type(error).__name__}: {text})"


def _sugarcrepe_pairs(
    content: Mapping[str, Any], path: Path, on_bad: OnBadRow, names: ImageNames
) -> Iterator[PreferencePair]:
    """Yield the pairs of a SugarCrepe file: ``{key: {filename, caption, negative_caption}}``.

    The file name determines the kind (``swap_obj.json`` has the kind ``swap-object``). A pair's id consists of the file
    name without suffix and the row's key.
    Source: Hsieh et al., SugarCrepe, arXiv 2306.14610.
    """
    is_by_column = {"chosen", "rejected"} <= set(
        content
    )  # pandas writes columns as mappings from row numbers to values
    if is_by_column or (content and not any(isinstance(row, Mapping) for row in content.values())):
        columns = ", because the keys are columns" if is_by_column else ""
        raise FormatError(
            f"{path}: the values of the keys ({', '.join(content):.200}) are not rows{columns}: write a list of rows"
        )
    operation, _, what = path.stem.partition("_")
    kind = f"{operation}-{SUGARCREPE_KINDS.get(what, what)}".strip("-")
    for key, row in content.items():
        try:
            texts = (row["caption"], (row["negative_caption"],))
            pair = _pair(ParsedRow([ChatMessage("user", "caption:")], *texts, [row["filename"]]), names, path.parent)
        except ROW_ERRORS as error:
            on_bad(path, key, f"not a SugarCrepe row (filename, caption, negative_caption): {reason_of(error)}", "")
            continue
        yield replace(pair, pair_id=f"{path.stem}-{key}", kind=kind, rule="sugarcrepe", source="sugarcrepe")


class ImageNames:
    """Assigns ids to the images of rows without opening them.

    The id of an image is its file name without suffix, if no earlier image has this id. Otherwise (all images of
    ScienceQA are ``image.png``), the id is the image's path, without suffix if possible. If the path cannot be the id
    either, the id contains a hash. Embedded images with equal bytes have the same id. An image with neither name nor
    bytes is invalid.
    """

    def __init__(self) -> None:
        self._ids: dict[str, str] = {}
        self._owner: dict[str, str] = {}
        self.paths: dict[str, Path] = {}  # id -> path of the image, absolute if the folder is known
        self.embedded: set[str] = set()  # ids of the images that the rows contain as bytes
        self.wanted: Collection[str] = ()  # ids of the embedded images to record in contents
        self.contents: dict[str, bytes] = {}

    def of_all(self, images: Sequence[Any], root: str = "", folder: Path | None = None) -> tuple[str, ...]:
        """Return the ids of a row's images.

        Args:
            images: bytes, paths, mappings with ``bytes`` or ``path``, or ids.
            root: distinguishes equal relative paths in different folders.
            folder: the folder that paths are relative to, if known.

        Raises:
            FormatError: a value is not an image.
        """
        return tuple(self._of(image, root, folder) for image in images)

    def _of(self, image: Any, root: str, folder: Path | None) -> str:
        image = {"bytes": image} if isinstance(image, bytes) else image
        data = image.get("bytes") if isinstance(image, Mapping) else None
        name = image.get("path") if isinstance(image, Mapping) else image
        name = "" if name is None else name
        is_image = isinstance(name, str | int) and (data is None or isinstance(data, bytes | str))
        if not is_image or (not data and name == ""):
            raise FormatError("an image is neither a path nor bytes")
        path = PurePosixPath(str(name))
        root = "" if path.is_absolute() else root
        key = _digest(data) if data else f"{root}\0{path}"
        if key not in self._ids:
            self._ids[key] = self._free(key, path, root)
            if isinstance(data, bytes) and data:
                self.embedded.add(self._ids[key])
            elif not data and len(str(path)) <= LONGEST:
                self.paths[self._ids[key]] = Path(path) if folder is None else folder.absolute() / path
        image_id = self._ids[key]
        if isinstance(data, bytes) and image_id in self.wanted:
            self.contents[image_id] = data
        return image_id

    def _free(self, key: str, path: PurePosixPath, root: str) -> str:
        if not path.name:
            return _digest(key)
        bare = path.parent / path.stem
        candidates = [path.stem, str(bare), str(path), str(PurePosixPath(root) / path), f"{path}#{_digest(key)}"]
        for name in candidates:
            if name and len(name) <= LONGEST and self._owner.setdefault(name, key) == key:
                return name
        return _digest(key)


LONGEST = 300  # maximum number of characters of an id; a longer text is an encoded image


def _digest(data: bytes | str) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()[:16]


def _is_own_table(path: Path) -> bool:
    """Return whether a file is this project's table of pairs, and not an export with the same name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return path.is_file() and "pair_id" in pq.read_schema(path).names
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        return False  # the reader of the rows reports the error
