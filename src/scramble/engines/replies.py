"""Every reply on disk once, under the content key of its request, so that a killed run goes on where it was."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from scramble.engines.request import Reply, reply_to_row, row_to_reply
from scramble.store import JsonLines, StoreError, atomic_path

PATTERN = "replies*.jsonl"


class ReplyStore:
    """The replies in a folder: all ``replies*.jsonl`` are read, one of them is written to.

    A shard of a split job writes its own file and still sees what the others have finished before it started. Only
    the keys are held in memory (about 200 bytes a reply), the replies stay on disk. Use as a context manager.
    """

    def __init__(self, folder: str | Path, shard: tuple[int, int] = (0, 1)) -> None:
        self.folder = Path(folder)
        index, count = shard
        name = "replies.jsonl" if count == 1 else f"replies-{index:04d}-of-{count:04d}.jsonl"
        self.path = self.folder / name
        self._lines = JsonLines(self.path)
        # key -> file, byte offset, lines to pass over from there
        self._places: dict[str, tuple[Path, int, int]] = {}
        for file in sorted(self.folder.glob(PATTERN)):
            for key, offset in _index(file):
                self._places.setdefault(key, (file, offset, 0))
        self._end = self.path.stat().st_size
        self._queue: list[tuple[str, str, Reply, Future[None]]] = []
        self._lock = threading.Lock()
        # One thread writes: whoever waits for the network is not held up by the disk.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="replies")

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def get(self, key: str) -> Reply:
        """The stored reply. Raises KeyError if there is none."""
        file, offset, skip = self._places[key]
        with file.open("rb") as stream:
            stream.seek(offset)
            for _ in range(skip):
                stream.readline()
            return row_to_reply(json.loads(stream.readline()))

    def add(self, key: str, model: str, reply: Reply) -> Future[None]:
        """Put a reply on disk (in the writer thread); the future is done when it is there.

        A key that is stored already is left as it is. Replies with an error are not stored.
        """
        written: Future[None] = Future()
        written.set_running_or_notify_cancel()  # whoever stops waiting does not stop the write
        with self._lock:
            self._queue.append((key, model, reply, written))
            if len(self._queue) == 1:
                self._writer.submit(self._write)
        return written

    def _write(self) -> None:
        """Write all that has gathered, so that one wait for the disk serves many replies."""
        with self._lock:
            queue, self._queue = self._queue, []
        rows: dict[str, dict[str, Any]] = {}
        for key, model, reply, _ in queue:
            if not reply.error and key not in self._places:
                rows.setdefault(key, reply_to_row(key, model, reply))
        failure: StoreError | None = None
        try:
            self._lines.extend(rows.values())
            self._places |= {key: (self.path, self._end, skip) for skip, key in enumerate(rows)}
            self._end = self.path.stat().st_size
        except (StoreError, OSError) as error:
            failure = StoreError(str(error))
        for *_, written in queue:
            if failure is None:
                written.set_result(None)
            else:
                written.set_exception(failure)

    def close(self) -> None:
        """Wait for the last write and close the file."""
        self._writer.shutdown(wait=True)
        self._lines.close()

    def __enter__(self) -> ReplyStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def in_shard(item_id: str, shard: tuple[int, int]) -> bool:
    """Whether an item (an image id, say) belongs to shard ``i`` of ``n``: by its hash, so every item is in one.

    Raises:
        ValueError: unless ``0 <= i < n``.
    """
    index, count = shard
    if not 0 <= index < count:
        raise ValueError(f"shard {index}/{count}: the index must be from 0 to {count - 1}")
    return int.from_bytes(hashlib.sha256(item_id.encode()).digest()[:8], "big") % count == index


def merge(files: Iterable[str | Path], out: str | Path) -> int:
    """Merge reply files into one, each key once, sorted by key; returns how many replies it holds.

    Idempotent: merging again, in another order, or the merged file with its parts gives the same bytes. Where two
    files hold different replies of one key (two shards asked the same), the smaller text wins, in any order.
    """
    best: dict[str, tuple[str, Path, int]] = {}
    for file in map(Path, files):
        with file.open("rb") as stream:
            for key, offset in _index(file):
                stream.seek(offset)
                text = _canonical(json.loads(stream.readline()))
                if key not in best or text < best[key][0]:
                    best[key] = (text, file, offset)
    with atomic_path(out) as temporary, temporary.open("w", encoding="utf-8") as stream_out:
        stream_out.writelines(best[key][0] + "\n" for key in sorted(best))
    return len(best)


def _canonical(row: dict[str, Any]) -> str:
    return json.dumps(row, sort_keys=True, ensure_ascii=False)


def _index(file: Path) -> Iterator[tuple[str, int]]:
    """Key and byte offset of each line; a torn last line (left by a kill) is passed over."""
    offset = 0
    with file.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield json.loads(line)["key"], offset
            except (ValueError, KeyError, TypeError) as error:
                raise StoreError(f"{file}, line {number}: not a stored reply ({error}); remove the line") from error
            offset += len(line)
