"""Writes files atomically, and reads files. StoreError is raised if a file or folder cannot be used."""

from __future__ import annotations

import codecs
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STAGE_FILE = "stage.json"
"""Name of the file with the status, the settings and the summary of a stage, in the folder of the stage."""


class StoreError(RuntimeError):
    """Raised if a file or folder cannot be used. The message names the file and states the problem."""


@contextmanager
def writing(what: str | Path) -> Iterator[None]:
    """Convert an OSError that is raised in the ``with`` block to a StoreError.

    The message of the StoreError says that ``what`` cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write {what} ({error.strerror or error}): check the path, its permissions and the free disk space"
        ) from error


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield the path of a temporary file, which replaces ``path`` when the block ends without an error.

    The temporary file is in the same folder as ``path``. Raises StoreError if the folder cannot be written or the disk
    is full; the file at ``path`` then keeps its old content.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        with writing(path):
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: str | Path) -> Iterator[Path]:
    """Yield a path at which the block creates a folder, which is renamed to ``folder`` after the block.

    If the block raises an error, its folder is deleted. ``folder`` must be empty or must not exist. Raises StoreError
    if ``folder`` cannot be written.
    """
    folder = Path(folder)
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as name:
            yield Path(name) / folder.name
            if folder.exists():
                folder.rmdir()
            (Path(name) / folder.name).rename(folder)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` to ``path`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def stage_status(folder: str | Path) -> str | None:
    """Return the status in the record of a stage's folder, or None if there is no record.

    The status is ``running``, ``stopped``, ``failed`` or ``finished``.
    """
    file = Path(folder) / STAGE_FILE
    return str(read_json(file)["status"]) if file.is_file() else None


# The little-endian mark of UTF-32 begins with the mark of UTF-16, so the mark of UTF-32 must be checked first.
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
BLANK = codecs.BOM_UTF8 + b" \t\r\n"


def read_text(path: str | Path) -> str:
    """Return the text of a file, without converting line ends.

    A byte-order mark selects the encoding; the default is UTF-8.

    Raises StoreError, which names the file, if the file cannot be read or decoded.
    """
    try:
        return decode_text(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {path}: {error}") from error


def decode_text(data: bytes) -> str:
    encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"not valid {encoding.removesuffix('-sig').upper()} in line {row}: save the file as UTF-8"
        ) from error


def read_json(path: str | Path) -> Any:
    """Return the value in a JSON file. A byte-order mark and raw control characters in strings are accepted.

    Raises StoreError, which names the file, if the file is missing or invalid.
    """
    try:
        return json.loads(read_text(path), strict=False)
    except RecursionError as error:
        raise StoreError(f"cannot read {path} (the JSON is nested too deeply): correct the file") from error
    except ValueError as error:
        raise StoreError(f"cannot read {path} ({error}): correct the file") from error
