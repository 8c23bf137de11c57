"""Reads pairs without their images from any pair file, to audit data sets of other projects."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import Any

from scramble.formats import mmpr
from scramble.formats.conversations import Message
from scramble.formats.files import ROW_FILES, OnBadRow, read_rows, refuse
from scramble.formats.layout import LOOK_AHEAD, Layout
from scramble.formats.provenance import FormatError
from scramble.formats.readers import ANSWERS, ParsedRow, parsed_pair
from scramble.formats.recognise import parse, recognise
from scramble.records import PreferencePair, RecordError
from scramble.storage.files import StoreError, read_json
from scramble.storage.tables import read_table, table_path

SUGARCREPE_KINDS = {"obj": "object", "att": "attribute", "rel": "relation"}


def read_pairs(
    path: str | Path,
    on_bad: OnBadRow | None = None,
    *,
    layout: Layout | None = None,
    names: ImageNames | None = None,
) -> Iterator[PreferencePair]:
    """Yield the pairs of a data set folder or file. The format is detected from the content.

    The input can be:

    - a data set of this project, which is a folder with ``pairs.parquet``, or a data folder, of which the training
      split is read;
    - rows of any format in :data:`scramble.formats.recognise.READABLE`, as JSON, JSONL, CSV or parquet;
    - an MMPR ``meta.json``, of which each row of each set is read once;
    - SugarCrepe's JSON, as a file or as a folder with one file per kind.

    All JSON files of a folder are read. If a folder has no JSON file, all its files of rows are read.

    Args:
        on_bad: called for each row that cannot be used; the row is then skipped. Without ``on_bad``, such a row is an
            error.
        layout: format and column names of files of rows. None detects the format of each row.
        names: assigns the ids of the images and records their paths.

    Raises:
        FormatError: the data cannot be read. The message names the file and, if possible, the row.
    """
    path, on_bad, layout = training_split(Path(path)), on_bad or refuse, layout or Layout()
    if path.is_dir() and table_path(path, PreferencePair).exists():
        path = table_path(path, PreferencePair)
    if path.is_dir() and (path / mmpr.META).exists():
        path = path / mmpr.META
    names = names or ImageNames()
    if not path.is_dir():
        yield from _file_pairs(path, on_bad, names, layout)
        return
    row_files = sorted(f for f in path.iterdir() if f.suffix.lower() in ROW_FILES and f.name not in NO_ROWS)
    files = [file for file in row_files if file.suffix.lower() == ".json"] or row_files
    if not files:
        raise FormatError(
            f"{path} has neither pairs.parquet nor files of rows ({', '.join(ROW_FILES)}): use the pair file itself"
        )
    for file in files:
        yield from _file_pairs(file, on_bad, names, layout)


def training_split(path: Path) -> Path:
    """Return the folder of the training split of a data folder or run folder of this project; otherwise ``path``."""
    if table_path(path, PreferencePair).exists():
        return path
    for split in (path / "train", path / "data" / "train"):
        if is_own_table(table_path(split, PreferencePair)):
            return split
    return path


NO_ROWS = ("dataset_info.json",)  # LLaMA-Factory's description of the other files


def _file_pairs(path: Path, on_bad: OnBadRow, names: ImageNames, layout: Layout) -> Iterator[PreferencePair]:
    content = _json(path) if path.suffix.lower() == ".json" and path.is_file() else None
    is_table = path.name == table_path("", PreferencePair).name and is_own_table(path)
    if isinstance(content, dict) and _is_row(layout.renamed(content)):  # a JSONL file with only one row
        yield from _row_pairs([(1, content)], path, on_bad, names, layout)
    elif layout and (is_table or isinstance(content, dict)):
        raise FormatError(f"{path} is not a file of rows: remove the keys format and columns")
    elif isinstance(content, dict) and mmpr.is_meta(content):
        yield from mmpr_pairs(path, on_bad)
    elif isinstance(content, dict):
        yield from sugarcrepe_pairs(content, path, on_bad, names)
    elif is_table:
        yield from read_table(path.parent, PreferencePair)
    else:
        yield from _row_pairs(read_rows(path, on_bad), path, on_bad, names, layout)


def _is_row(content: Mapping[str, Any]) -> bool:
    """Return whether a JSON object is a single row, and not rows by key or values by column. In a single row, an answer
    is a string or a message.
    """
    answers = {name for pair in ANSWERS for name in pair} | {"rejected_conversations", "rejected_messages"}
    values = [content[name] for name in answers & set(content)]
    return any(isinstance(value, str) or _is_message(value) for value in values)


def _is_message(value: Any) -> bool:
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, Mapping) and bool({"role", "from"} & set(first))


def _row_pairs(
    numbered: Iterable[tuple[int, Any]], path: Path, on_bad: OnBadRow, names: ImageNames, layout: Layout
) -> Iterator[PreferencePair]:
    numbered = iter(numbered)
    first = list(islice(numbered, LOOK_AHEAD)) if layout else []
    name = layout.format_of(path, [row for _, row in first]) if first else None
    for number, row in chain(first, numbered):
        try:
            row = layout.renamed(row)
            pairs = [audited_pair(parsed, names) for parsed in parse(name or recognise(row), row)]
        except ROW_ERRORS as error:
            on_bad(path, number, layout.reason(reason_of(error)))
            continue
        yield from pairs


def audited_pair(parsed: ParsedRow, names: ImageNames, root: str = "") -> PreferencePair:
    """Return the pair of a row without opening the row's images."""
    return parsed_pair(parsed, names.of_all(parsed.images, root), check_images=False)


def mmpr_pairs(path: str | Path, on_bad: OnBadRow | None = None) -> Iterator[PreferencePair]:
    """Yield the pairs of all sets of an MMPR ``meta.json``, each row once. A pair's kind is the name of its set."""
    on_bad = on_bad or refuse
    names = ImageNames()
    for one in mmpr.read_meta(path):
        file = mmpr.resolve(one.annotation, path)
        for number, row in read_rows(file, on_bad):
            try:
                (parsed,) = parse("mmpr", row)
                pair = audited_pair(parsed, names, one.root)
            except ROW_ERRORS as error:
                on_bad(file, number, reason_of(error))
                continue
            if not parsed.provenance:
                pair = replace(pair, pair_id=f"{one.name}/{number:07d}", kind=one.name, source="mmpr")
            yield pair


ROW_ERRORS = (FormatError, RecordError, KeyError, TypeError, ValueError, AttributeError, IndexError)


def reason_of(error: Exception) -> str:
    """Return the fault of a row as one line.

    Rows with the same fault have the same line, so that faults can be counted.
    """
    if isinstance(error, KeyError):
        return f"no {error.args[0]}"
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, RecordError):
        return text.partition(": ")[2] or text if text.startswith("pair ") else text
    return text if isinstance(error, FormatError) else f"not a row of a known format ({type(error).__name__}: {text})"


def sugarcrepe_pairs(
    content: Mapping[str, Any], path: str | Path, on_bad: OnBadRow | None = None, names: ImageNames | None = None
) -> Iterator[PreferencePair]:
    """Yield the pairs of a SugarCrepe file: ``{key: {filename, caption, negative_caption}}``.

    The kind is the file's name (``swap_obj.json`` is ``swap-object``), and the pair's id is the kind and the key.
    Source: Hsieh et al., SugarCrepe, arXiv 2306.14610.
    """
    path, on_bad, names = Path(path), on_bad or refuse, names or ImageNames()
    if content and not any(isinstance(row, Mapping) for row in content.values()):
        columns = "; they are columns: write a list of rows" if {"chosen", "rejected"} <= set(content) else ""
        raise FormatError(f"{path}: the keys ({', '.join(content):.200}) are not those of a pair file{columns}")
    operation, _, what = path.stem.partition("_")
    kind = f"{operation}-{SUGARCREPE_KINDS.get(what, what)}".strip("-")
    for key, row in content.items():
        try:
            texts = (row["caption"], (row["negative_caption"],))
            pair = audited_pair(ParsedRow([Message("user", "caption:")], *texts, [row["filename"]]), names)
        except ROW_ERRORS as error:
            on_bad(path, key, f"not a SugarCrepe row (filename, caption, negative_caption): {reason_of(error)}")
            continue
        yield replace(pair, pair_id=f"{path.stem}-{key}", kind=kind, rule="sugarcrepe", source="sugarcrepe")


class ImageNames:
    """Assigns ids to the images of rows without opening them.

    The id of the first image with a base name is this base name. The id of another image with the same base name (all
    images of ScienceQA are ``image.png``) is its path, without or with suffix. Embedded images with equal bytes are the
    same image. An image without name and bytes is invalid.
    """

    def __init__(self) -> None:
        self._ids: dict[str, str] = {}
        self._owner: dict[str, str] = {}
        self.paths: dict[str, str] = {}  # id -> path of the image in the rows, with the root

    def of_all(self, images: Sequence[Any], root: str = "") -> tuple[str, ...]:
        """Return the ids of a row's images. ``root`` distinguishes images of the same name in several folders.

        Raises FormatError for a value that is not an image.
        """
        ids = (self._of(image, root) for image in images)
        return tuple(name for name in ids if name)

    def _of(self, image: Any, root: str) -> str:
        image = {"bytes": image} if isinstance(image, bytes) else image
        data = image.get("bytes") if isinstance(image, Mapping) else None
        name = image.get("path") if isinstance(image, Mapping) else image
        name = "" if name is None else name
        if not isinstance(name, str | int) or (data is not None and not isinstance(data, bytes | str)):
            raise FormatError("an image is neither a path nor bytes")
        path = PurePosixPath(str(name))
        key = _digest(data) if data else f"{root}\0{path}"
        if not data and name == "":
            return ""
        if key not in self._ids:
            self._ids[key] = self._free(key, path, root)
            if not data and len(str(path)) <= LONGEST:
                self.paths[self._ids[key]] = str(PurePosixPath(root) / path)
        return self._ids[key]

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


def _json(path: Path) -> Any:
    """Return the value in a JSON file; None for a JSONL file, or on an error, which the reader of the rows reports."""
    try:
        return read_json(path)
    except StoreError:
        return None


def is_own_table(path: Path) -> bool:
    """Return whether a file is this project's table of pairs, and not an export with the same name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return path.is_file() and "pair_id" in pq.read_schema(path).names
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        return False  # the reader of the rows reports the error
