"""Stores each reply on disk under the content key of its request, so that an interrupted run resumes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from scramble.engines.request import Reply, reply_to_row, row_to_reply
from scramble.storage.files import StoreError
from scramble.storage.jsonl import JsonLines

PATTERN = "replies*.jsonl"


class ReplyStore:
    """Reads all files ``replies*.jsonl`` in a folder, and writes new replies to one of them.

    The process of each shard writes its own file and also reads the replies that were stored before it started. Only
    keys and file positions are held in memory (about 200 bytes per reply). Use the store as a context manager.
    """

    def __init__(self, folder: str | Path, shard: tuple[int, int] = (0, 1)) -> None:
        self.folder = Path(folder)
        index, count = shard
        name = "replies.jsonl" if count == 1 else f"replies-{index:04d}-of-{count:04d}.jsonl"
        self.path = self.folder / name
        with JsonLines(self.path):
            pass  # creates the file, or removes an incomplete last line of an interrupted run
        # maps each key to its file and the byte offset of its line
        self._places: dict[str, tuple[Path, int]] = {}
        for file in sorted(self.folder.glob(PATTERN)):
            for key, offset in _index(file):
                self._places.setdefault(key, (file, offset))
        self._file = self.path.open("r+b", buffering=0)
        self._end = self._file.seek(0, os.SEEK_END)
        self._lock = threading.Lock()
        # A reply that was passed to the operating system survives the end of this process. A background thread also
        # syncs the replies to disk, which protects them against power failure.
        self._syncer = ThreadPoolExecutor(1, thread_name_prefix="replies")
        self._synced: Future[None] | None = None

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def get(self, key: str) -> Reply:
        """Return the stored reply. Raises KeyError if no reply is stored under ``key``."""
        file, offset = self._places[key]
        with file.open("rb") as stream:
            stream.seek(offset)
            return row_to_reply(json.loads(stream.readline()))

    def add(self, key: str, model: str, reply: Reply) -> None:
        """Write a reply. Once this method returns, the reply survives an interruption of the process.

        An existing key is not overwritten. Replies with an error are not stored.

        Raises:
            StoreError: the reply cannot be written, for example because the disk is full. Earlier replies remain
                intact.
        """
        if reply.error:
            return
        line = (json.dumps(reply_to_row(key, model, reply), ensure_ascii=False) + "\n").encode()
        with self._lock:
            if key in self._places:
                return
            try:
                if self._file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, "no space left")
            except OSError as error:
                self._file.truncate(self._end)
                self._file.seek(self._end)
                raise StoreError(
                    f"cannot write {self.path} ({error.strerror or error}): free disk space and repeat the command"
                ) from error
            self._places[key] = (self.path, self._end)
            self._end += len(line)
            if self._synced is None or self._synced.done():
                self._synced = self._syncer.submit(os.fsync, self._file.fileno())

    def close(self) -> None:
        """Sync everything to disk and close the file."""
        self._syncer.shutdown(wait=True)
        os.fsync(self._file.fileno())
        self._file.close()

    def __enter__(self) -> ReplyStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def in_shard(item_id: str, shard: tuple[int, int]) -> bool:
    """Return whether the hash of an item's id assigns the item to ``shard``, which is ``(i, n)`` for shard i of n.

    Raises:
        ValueError: ``i`` is negative or not less than ``n``.
    """
    index, count = shard
    if not 0 <= index < count:
        raise ValueError(f"shard {index}/{count}: the index must be from 0 to {count - 1}")
    return int.from_bytes(hashlib.sha256(item_id.encode()).digest()[:8], "big") % count == index


def _index(file: Path) -> Iterator[tuple[str, int]]:
    """Yield the key and byte offset of each line. An incomplete last line (of an interrupted run) is skipped."""
    offset = 0
    with file.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield json.loads(line)["key"], offset
            except (ValueError, KeyError, TypeError) as error:
                raise StoreError(
                    f"{file}, line {number}: the line is not a stored reply ({error}): remove the line"
                ) from error
            offset += len(line)
