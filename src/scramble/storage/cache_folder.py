"""Manages cache folders. The name of a folder is a digest of everything that the cached values depend on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch.distributed as dist

from scramble.storage.files import StoreError, read_json, write_json
from scramble.storage.hashing import content_key
from scramble.storage.locks import locked

KEY_FILE, COMPLETE_FILE = "key.json", "complete.json"


class CacheError(StoreError):
    """Raised if a cache is damaged or incomplete, or was computed from different inputs.

    The message names the cache and says how to fix the problem.
    """


@contextmanager
def open_cache(parent: str | Path, parts: Mapping[str, str]) -> Iterator[Path]:
    """Lock and yield the cache folder for ``parts`` (digests by name). Every process of a run must call this function.

    Only one run at a time can fill a folder. Other runs that need the folder wait until that run leaves the
    ``with`` block.

    Raises:
        CacheError: the parts recorded in the folder differ, because the folder was copied or renamed.
        StoreError: the folder cannot be written.
    """
    folder = Path(parent) / content_key(dict(parts))
    with locked(folder) if rank() == 0 else nullcontext():
        if rank() == 0:
            _check_parts(folder, parts)
        barrier()
        yield folder


def _check_parts(folder: Path, parts: Mapping[str, str]) -> None:
    record = folder / KEY_FILE
    if not record.exists():
        write_json(record, dict(parts))
        return
    recorded = read_json(record)
    changed = sorted(name for name in {*recorded, *parts} if recorded.get(name) != parts.get(name))
    if changed:
        raise CacheError(
            f"the cache {folder} does not match the current {', '.join(changed)}, because the folder was copied or "
            "renamed: remove the folder to compute the cache again"
        )


def rank() -> int:
    """Return the rank of this process in a distributed run, or 0 if the run is not distributed."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes of a distributed run, or 1 if the run is not distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def barrier() -> None:
    """Wait until all processes of a distributed run have called this function."""
    if world_size() > 1:
        dist.barrier()
