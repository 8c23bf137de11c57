"""Reference log-probabilities on disk: two numbers a pair, computed once, shared by every run that may use them.

A cache is a folder named by the content of everything that the numbers depend on: weights, adapter, processor and
template, precision, pairs and images. It fills in parts (one file a process, a line every few images), so that a
killed run goes on where it stopped; ``complete.json`` closes it.
"""

from __future__ import annotations

import fcntl
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch.distributed as dist

from scramble.preference.batches import Encoder, trie_items
from scramble.preference.examples import Example, group_by_image
from scramble.records import ImageFile
from scramble.store import JsonLines, StoreError, content_key, read_json, read_jsonl, write_json
from scramble.trie.backbone import Backbone
from scramble.trie.score import iter_scores

ITEMS_A_LINE = 32


class ReferenceError(StoreError):
    """A reference cache that does not belong to this run or is damaged. The message says which and what to do."""


def cache_parts(
    *,
    weights: str,
    adapter: str | None,
    processor: str,
    precision: str,
    examples: Sequence[Example],
    images: Mapping[str, ImageFile],
) -> dict[str, str]:
    """Digests of all that the reference log-probabilities depend on, by name."""
    image_ids = sorted({image_id for example in examples for image_id in example.image_ids})
    return {
        "weights": weights,
        "adapter": adapter or "none",
        "processor": processor,
        "precision": precision,
        "pairs": content_key([[e.example_id, e.image_ids, e.prompt, e.chosen, e.rejected] for e in examples]),
        "images": content_key([[image_id, images[image_id].sha256] for image_id in image_ids]),
    }


def reference_logps(
    folder: str | Path,
    parts: Mapping[str, str],
    examples: Sequence[Example],
    encoder: Encoder,
    backbone: Backbone,
    *,
    batch_tokens: int = 4096,
) -> dict[str, tuple[float, float]]:
    """Log-probabilities (nats) of chosen and rejected under the model as it is now, from the cache or computed into it.

    Every process of a distributed run must call it; each computes its share of what is missing.

    Args:
        folder: where caches live; this one takes ``folder/<key of parts>``.
        parts: from :func:`cache_parts`.
        examples: all pairs of the data set.
        encoder, backbone: what computes the missing ones, in evaluation mode and without gradient.
        batch_tokens: positions a batch.

    Raises:
        ReferenceError: the folder holds another cache (copied or renamed), or a closed cache was altered.
    """
    folder = Path(folder) / content_key(dict(parts))
    wanted = [example.example_id for example in examples]
    with _main_process_lock(folder):
        if _rank() == 0:
            _check_parts(folder, parts)
        _barrier()
        known = _read(folder)
        missing = [example for example in examples if example.example_id not in known]
        if (folder / "complete.json").exists():
            _check_complete(folder, known, missing)
        else:
            _fill(folder, missing, encoder, backbone, batch_tokens)
            _barrier()
            known = _read(folder)
            if _rank() == 0:
                _close(folder, known, wanted)
            _barrier()
    return {name: known[name] for name in wanted}


def _fill(folder: Path, missing: list[Example], encoder: Encoder, backbone: Backbone, batch_tokens: int) -> None:
    groups = group_by_image(missing)[_rank() :: _world_size()]
    if not groups:
        return
    training = {module: module.training for module in backbone.model.modules()}
    backbone.model.eval()
    try:
        with JsonLines(folder / f"part-{_rank()}.jsonl") as part:
            rows = _score_pairs(encoder, backbone, [[missing[n] for n in group] for group in groups], batch_tokens)
            while chunk := list(islice(rows, ITEMS_A_LINE)):
                part.append({name: values for row in chunk for name, values in row.items()})
    finally:
        for module, mode in training.items():
            module.training = mode


def _score_pairs(
    encoder: Encoder, backbone: Backbone, groups: list[list[Example]], batch_tokens: int
) -> Iterator[dict[str, tuple[float, float]]]:
    """Log-probabilities of chosen and rejected by example id, trie by trie."""
    names: list[list[str]] = []

    def items() -> Iterator[Any]:
        for group in groups:
            group_items, members = trie_items(encoder, backbone, group, with_rejected=True)
            names.extend([group[n].example_id for n in numbers] for numbers in members)
            yield from group_items

    for number, scores in enumerate(iter_scores(backbone, items(), batch_tokens=batch_tokens)):
        sums = [score.sum for score in scores]
        yield dict(zip(names[number], zip(sums[::2], sums[1::2], strict=True), strict=True))


def _read(folder: Path) -> dict[str, tuple[float, float]]:
    known: dict[str, tuple[float, float]] = {}
    for path in sorted(folder.glob("part-*.jsonl")):
        for row in read_jsonl(path):
            for name, (chosen, rejected) in row.items():
                if not (math.isfinite(chosen) and math.isfinite(rejected)):
                    raise ReferenceError(f"{path}: the values of pair {name} are not finite; remove {folder}")
                known[name] = (chosen, rejected)
    return known


def _check_parts(folder: Path, parts: Mapping[str, str]) -> None:
    record = folder / "key.json"
    if record.exists():
        found = read_json(record)
        changed = sorted(name for name in {*found, *parts} if found.get(name) != parts.get(name))
        if changed:
            raise ReferenceError(
                f"the reference cache {folder} was computed for other {', '.join(changed)}: it was copied or renamed; "
                "remove it, and it will be computed again"
            )
    else:
        write_json(record, dict(parts))


def _check_complete(folder: Path, known: Mapping[str, tuple[float, float]], missing: list[Example]) -> None:
    record = read_json(folder / "complete.json")
    if missing or record["digest"] != _rows_digest(known):
        what = f"{len(missing)} of its pairs are gone" if missing else "its numbers changed"
        raise ReferenceError(
            f"the reference cache {folder} was complete and no longer is ({what}): a file was cut or edited; remove "
            "the folder, and it will be computed again"
        )


def _close(folder: Path, known: Mapping[str, tuple[float, float]], wanted: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in known]
    if missing:
        raise ReferenceError(f"the reference cache {folder} lacks {len(missing)} pairs, {missing[0]} first: run again")
    write_json(folder / "complete.json", {"pairs": len(wanted), "digest": _rows_digest(known)})


def _rows_digest(known: Mapping[str, tuple[float, float]]) -> str:
    return content_key(sorted((name, *values) for name, values in known.items()))


@contextmanager
def _main_process_lock(folder: Path) -> Iterator[None]:
    """One run at a time fills a cache; another waits for it and then reads."""
    if _rank() != 0:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / ".lock").open("w")
    except OSError as error:
        raise StoreError(f"cannot write {folder}: {error.strerror or error}") from error
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _barrier() -> None:
    if _world_size() > 1:
        dist.barrier()
