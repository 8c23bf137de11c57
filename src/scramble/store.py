"""Files between stages: record tables, run folders, content keys, atomic and resumable writes.

A *data set* is a folder of parquet tables (``images``, ``pairs``, ``questions``, ``quads``), each a list of one kind
of record from :mod:`scramble.records`. A *stage* writes into its own folder and finishes by writing ``stage.json``
with the content key of its inputs; a folder that holds the right key is finished work and is not done again.
"""

from __future__ import annotations

import codecs
import dataclasses
import fcntl
import hashlib
import io
import json
import os
import tempfile
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from scramble.records import Edit, ImageFile, ImageRecord, PreferencePair, Quad, Question

Record = TypeVar("Record", ImageRecord, PreferencePair, Question, Quad)

TABLES: dict[type, str] = {ImageRecord: "images", PreferencePair: "pairs", Question: "questions", Quad: "quads"}
LOCK_FILE = ".lock"
ROW_GROUP = 100  # rows: small groups keep memory flat when rows hold images


class StoreError(RuntimeError):
    """A file or folder that cannot be used. The message names it and the way out."""


# ---------------------------------------------------------------------------------------------- atomic writes, keys


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that replaces it when the block ends without an error.

    Raises StoreError when the folder cannot be written or the disk is full; ``path`` keeps its old content then.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` to ``path`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


# UTF-32's little-endian mark begins with UTF-16's, so it is looked for first.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
_BLANK = codecs.BOM_UTF8 + b" \t\r\n"


def read_text(path: str | Path) -> str:
    """The text of a file in UTF-8, or in the encoding of its byte-order mark; line ends stay as they are.

    Raises StoreError naming the file if it is missing, or is text in no such encoding.
    """
    try:
        return _decoded(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {path}: {error}") from error


def _decoded(data: bytes) -> str:
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"not text in {encoding.removesuffix('-sig').upper()} from line {row} on; save it as UTF-8"
        ) from error


def read_json(path: str | Path) -> Any:
    """The value in a JSON file; a byte-order mark and raw control characters in its strings are accepted.

    Raises StoreError naming the file if it is missing or broken.
    """
    try:
        return json.loads(read_text(path), strict=False)
    except RecursionError as error:
        raise StoreError(f"cannot read {path}: nested too deeply") from error
    except ValueError as error:
        raise StoreError(f"cannot read {path}: {error}") from error


def content_key(*parts: Any) -> str:
    """Hex digest (16 digits) of JSON-like values; the same content gives the same key on every machine."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_key(path: str | Path) -> str:
    """Hex digest (16 digits) of a file's bytes, or of the names and bytes of all files below a folder."""
    path = Path(path)
    digest = hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        if path.is_dir():
            digest.update(str(file.relative_to(path)).encode() + b"\0")
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()[:16]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"no content key for {type(value).__name__}")


# ------------------------------------------------------------------------------------------------------- JSON lines


class JsonLines:
    """An append-only JSONL file: each row is flushed to disk as it is written.

    Opening repairs a torn last line (left by a kill); use as a context manager.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._cut_torn_line()
            self._file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            raise StoreError(f"cannot write {self.path}: {error.strerror or error}") from error

    def _cut_torn_line(self) -> None:
        if not self.path.exists():
            return
        data = self.path.read_bytes()
        if data and not data.endswith(b"\n"):
            with self.path.open("r+b") as file:
                file.truncate(data.rfind(b"\n") + 1)

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row and force it to disk. Raises StoreError (disk full, say); earlier rows stay."""
        self.extend([row])

    def extend(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows and force them to disk together. Raises StoreError (disk full, say); earlier rows stay."""
        try:
            self._file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StoreError(f"cannot write {self.path}: {error.strerror or error}") from error

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_jsonl(path: str | Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file; a torn last line (left by a kill) is passed over. A missing file has no rows.

    Raises StoreError naming the line that is not JSON.
    """
    path = Path(path)
    if not path.exists():
        return
    for number, line in json_lines(path):
        try:
            yield from json_values(line)
        except ValueError as error:
            if not line.endswith(b"\n"):
                return
            raise StoreError(f"{path}, line {number}: not JSON ({error})") from error


def json_lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """Number (from 1) and bytes of each line of a JSONL file that is not blank.

    Lines end at line feeds alone: U+2028, U+0085 and carriage returns can be part of a row's text. A file with
    the byte-order mark of UTF-16 or UTF-32 (Windows' shells write these) is decoded whole.

    Raises StoreError if the file cannot be read.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(4)
            file.seek(0)
            wide = any(head.startswith(mark) and name != "utf-8-sig" for mark, name in _MARKS.items())
            lines = io.BytesIO(_decoded(file.read()).encode()) if wide else file
            yield from ((number, line) for number, line in enumerate(lines, 1) if line.strip(_BLANK))
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {path}: {error}") from error


def json_values(line: bytes) -> list[Any]:
    """The JSON values on a line: one, or several between which carriage returns stand (old line ends).

    A byte-order mark before it and raw control characters within strings are accepted. Raises ValueError if the line
    is anything else.
    """
    try:
        text = line.removeprefix(codecs.BOM_UTF8).decode("utf-8").strip(" \t\r\n")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"not text in UTF-8 from byte {error.start + 1} of the line on; save the file as UTF-8"
        ) from error
    decoder = json.JSONDecoder(strict=False)
    values: list[Any] = []
    end = 0
    try:
        while end < len(text):
            value, stop = decoder.raw_decode(text, end)
            values.append(value)
            end = stop
            while text[end : end + 1] in (" ", "\t", "\r"):
                end += 1
            if end < len(text) and "\r" not in text[stop:end]:
                raise ValueError(f"more text after column {stop}")
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return values


# ----------------------------------------------------------------------------------------------------------- locks


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Hold ``folder`` against other jobs within the block; wait while one has it. A killed job's hold ends with it.

    Raises StoreError if the folder cannot be written. On a file system without locks the block runs unprotected, with
    a warning.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / LOCK_FILE).open("w")
    except OSError as error:
        raise StoreError(f"cannot write {folder}: {error.strerror or error}") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            warnings.warn(f"{folder} cannot be locked ({error.strerror}): start one job on it at a time", stacklevel=3)
        yield


# ----------------------------------------------------------------------------------------------------- record tables


def _features(record_type: type) -> Any:
    from datasets import Features, Image, List, Value

    text, texts, span = Value("string"), List(Value("string")), List(Value("int32"))
    if record_type is ImageRecord:
        return Features(image_id=text, image=Image(), captions=texts, source=text, graph=text)
    if record_type is PreferencePair:
        edits = List({"chosen": span, "rejected": span})
        return Features(
            pair_id=text, image_ids=texts, prompt=text, chosen=text, rejected=text, kind=text, rule=text,
            edits=edits, seed=Value("int64"), source=text, scores=text, details=text,
        )  # fmt: skip
    if record_type is Question:
        return Features(
            question_id=text, image_ids=texts, question=text, answer=text, kind=text,
            answers=texts, choices=texts, rationale=texts,
        )  # fmt: skip
    return Features(item_id=text, image_ids=texts, captions=texts, kind=text, tags=texts)


def _to_row(record: Any) -> dict[str, Any]:
    row = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
    if isinstance(record, ImageRecord):
        row["image"] = {"bytes": record.image.bytes, "path": record.image.path}
        row["graph"] = None if record.graph is None else json.dumps(record.graph, ensure_ascii=False)
    if isinstance(record, PreferencePair):
        row["edits"] = [{"chosen": e.chosen, "rejected": e.rejected} for e in record.edits]
        row["scores"] = json.dumps(record.scores)
        row["details"] = json.dumps(record.details, ensure_ascii=False)
    return row


def _from_row(record_type: type, row: dict[str, Any]) -> Any:
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    if record_type is ImageRecord:
        values["image"] = ImageFile(**row["image"])
        values["graph"] = None if row["graph"] is None else json.loads(row["graph"])
    if record_type is PreferencePair:
        values["edits"] = tuple(Edit(tuple(e["chosen"]), tuple(e["rejected"])) for e in row["edits"])
        values["scores"] = json.loads(row["scores"])
        values["details"] = json.loads(row.get("details") or "{}")
    return record_type(**values)


class TableWriter:
    """Writes records one by one into a parquet table; see :func:`open_table`. ``count`` is how many so far."""

    def __init__(self, path: Path, record_type: type) -> None:
        import pyarrow.parquet as pq

        self.count = 0
        self._rows: list[dict[str, Any]] = []
        self._schema = _features(record_type).arrow_schema
        self._parquet = pq.ParquetWriter(path, self._schema, compression="zstd")

    def write(self, record: Any) -> None:
        self._rows.append(_to_row(record))
        self.count += 1
        if len(self._rows) == ROW_GROUP:
            self._write_group()

    def close(self) -> None:
        self._write_group()
        self._parquet.close()

    def _write_group(self) -> None:
        import pyarrow as pa

        self._parquet.write_table(pa.Table.from_pylist(self._rows, self._schema))
        self._rows = []


@contextmanager
def open_table(folder: str | Path, record_type: type[Record]) -> Iterator[TableWriter]:
    """A writer for ``folder/<table>.parquet``; the table appears when the block ends without an error.

    What a killed run left half-written goes: a table has one writer, whose stage holds the folder.
    """
    path = table_path(folder, record_type)
    for leftover in path.parent.glob(f".{path.name}.*"):
        leftover.unlink(missing_ok=True)
    with atomic_path(path) as temporary:
        writer = TableWriter(temporary, record_type)
        try:
            yield writer
        finally:
            writer.close()


def write_table(folder: str | Path, record_type: type[Record], records: Iterable[Record]) -> int:
    """Stream records into ``folder/<table>.parquet`` (atomic); returns how many. ``datasets`` opens the file."""
    with open_table(folder, record_type) as table:
        for record in records:
            table.write(record)
        return table.count


def read_table(folder: str | Path, record_type: type[Record]) -> Iterator[Record]:
    """Stream the records of ``folder/<table>.parquet``. Raises StoreError if the table is missing or broken."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = table_path(folder, record_type)
    if not path.exists():
        raise StoreError(f"{path} is missing: run the stage that writes it (scripts/generate.py) first")
    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=ROW_GROUP):
            for row in batch.to_pylist():
                yield _from_row(record_type, row)
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]  # Arrow's can have several lines
        raise StoreError(f"{path} cannot be read as {TABLES[record_type]}: {why}") from error


def table_path(folder: str | Path, record_type: type) -> Path:
    """Where a data set folder keeps the table of one record type."""
    return Path(folder) / f"{TABLES[record_type]}.parquet"


class ImageTable(Mapping[str, ImageFile]):
    """The images of a data set folder by id, read from the parquet file when asked for.

    Nothing is copied to the ``datasets`` library's cache, which can be read-only or on a small disk. The decoded row
    groups that were read last stay in memory, up to ``GROUP_CACHE`` bytes. Processes and threads can share a table.
    """

    GROUP_CACHE = 64 << 20  # bytes: a whole small data set, or a few row groups of photographs

    def __init__(self, folder: str | Path) -> None:
        self._path = table_path(folder, ImageRecord)
        if not self._path.exists():
            raise StoreError(f"{self._path} is missing: run the stage that writes it (scripts/generate.py) first")
        self._open()
        self._index: dict[str, tuple[int, int]] = {}  # id -> row group, row in it
        with self._reading():
            for group in range(self._file.num_row_groups):
                names = self._file.read_row_group(group, columns=["image_id"], use_threads=False)
                self._index |= {name: (group, row) for row, name in enumerate(names["image_id"].to_pylist())}

    def _open(self) -> None:
        import pyarrow.parquet as pq

        self._lock = threading.Lock()
        self._groups: OrderedDict[int, Any] = OrderedDict()
        with self._reading():
            self._file = pq.ParquetFile(self._path, memory_map=True)  # no file position to share after a fork

    @contextmanager
    def _reading(self) -> Iterator[None]:
        import pyarrow as pa

        try:
            yield
        except (pa.ArrowException, OSError, KeyError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            raise StoreError(f"{self._path} cannot be read as {TABLES[ImageRecord]}: {reason}") from error

    def __getstate__(self) -> dict[str, Any]:
        return {"_path": self._path, "_index": self._index}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __getitem__(self, image_id: str) -> ImageFile:
        group, row = self._index[image_id]
        images = self._group(group)
        try:
            image = images[row].as_py()
            return ImageFile(image["bytes"], image["path"])
        except (IndexError, KeyError, TypeError) as error:  # a damaged file that opens nevertheless
            raise StoreError(f"{self._path} is damaged at image {image_id!r}: generate the data again") from error

    def _group(self, group: int) -> Any:
        with self._lock:
            if group in self._groups:
                self._groups.move_to_end(group)
                return self._groups[group]
            with self._reading():
                images = self._file.read_row_group(group, columns=["image"], use_threads=False)["image"]
            self._groups[group] = images
            while len(self._groups) > 1 and sum(kept.nbytes for kept in self._groups.values()) > self.GROUP_CACHE:
                self._groups.popitem(last=False)
            return images

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)


# ------------------------------------------------------------------------------------------------------------ stages

STAGE_FILE = "stage.json"


def run_stage(
    folder: str | Path, config: Mapping[str, Any], work: Callable[[Path], dict[str, Any]], *, main: bool = True
) -> tuple[dict[str, Any], str]:
    """Run ``work(folder)`` unless ``folder`` already holds its finished result for ``config``.

    ``config`` is plain JSON: everything that the result depends on, content keys of the inputs included. It is stored
    in ``stage.json`` before the work starts and with the summary that ``work`` returns when it ends; work that was
    killed in between is called again and picks up what it finds in its folder. The folder of work that failed can be
    taken by another configuration. Of several processes that do one stage together, only the ``main`` one writes
    ``stage.json``. Of several jobs that want one folder at the same time, the first works and the others wait for its
    result.

    Returns:
        The summary, and what happened: ``"done"``, ``"resumed"`` or ``"reused"``.
    Raises:
        StoreError: if the folder belongs to another configuration; the message names the keys that differ.
    """
    folder = Path(folder)
    marker = folder / STAGE_FILE
    if not main or (marker.exists() and read_json(marker)["status"] == "finished"):  # read-only folders can be reused
        return _do_stage(folder, config, work, main=main)
    with locked(folder):
        return _do_stage(folder, config, work, main=True)


def _do_stage(
    folder: Path, config: Mapping[str, Any], work: Callable[[Path], dict[str, Any]], *, main: bool
) -> tuple[dict[str, Any], str]:
    marker = folder / STAGE_FILE
    config = json.loads(json.dumps(config, default=_plain))
    found = read_json(marker) if marker.exists() else None
    if found is not None and found["config"] != config:
        if found["status"] != "failed":
            changed = ", ".join(differing_keys(found["config"], config))
            raise StoreError(
                f"{folder} was made with another configuration: {changed}. "
                "Choose another run folder (name=... or run.dir=...) or remove this one"
            )
        found = None
        if main:  # what failed is being mended: the tables of that attempt go; replies and other people's files stay
            for name in TABLES.values():
                for table in folder.rglob(f"{name}.parquet"):
                    table.unlink()
    if found is not None and found["status"] == "finished":
        return found["summary"], "reused"
    how = "done" if found is None else "resumed"
    if not main:
        return work(folder), how
    write_json(marker, {"status": "running", "config": config})
    try:
        summary = work(folder)
    except Exception:
        with suppress(OSError, StoreError):  # a full disk may be what failed
            write_json(marker, {"status": "failed", "config": config})
        raise
    write_json(marker, {"status": "finished", "config": config, "summary": summary})
    return summary, how


def wait_for(path: str | Path, ready: Callable[[], bool], seconds: float = 24 * 3600) -> None:
    """Wait until ``ready()``: for what another process of the same job makes. Raises StoreError after ``seconds``."""
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise StoreError(f"{path} was not made within {seconds:.0f} s by the first process: see its messages")
        time.sleep(0.5)


def differing_keys(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys whose values differ between two nested configurations, as ``key (old -> new)``."""
    found = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differing_keys(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key} ({a} -> {b})")
    return found
