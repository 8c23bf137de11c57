"""The stages as the scripts call them: plain values in, a finished folder out, finished work reused.

A run folder holds ``data/`` (``train/ val/ test/`` tables), ``train/<arm>/``, ``evaluation/<arm>/`` and ``report/``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scramble.console import say, track
from scramble.records import ImageRecord, PreferencePair
from scramble.store import StoreError, content_key, file_key, open_table, read_table, run_stage, table_path, write_json

SPLITS = ("train", "val", "test")


class PipelineError(ValueError):
    """Stages or settings that do not fit together. The message says which and the way out."""


# ---------------------------------------------------------------------------------------------------------- generate


def generate(folder: str | Path, *, data: Mapping[str, Any], negatives: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Make a data set folder: images, captions, questions and 2x2 items by split, and preference pairs.

    Args:
        folder: where ``train/``, ``val/`` and ``test/`` go.
        data: ``kind`` (``world`` or a source of :mod:`scramble.sources`) and its options.
        negatives: ``method`` and its options, see :mod:`scramble.negatives`.
        seed: of scenes, splits and the choice of negatives.
    Returns:
        The stage's summary: counts per split, skipped captions by reason, rejected rows, the audit's headline.
    """
    config = {"data": dict(data), "negatives": dict(negatives), "seed": seed, "inputs": _inputs(data)}

    def work(folder: Path) -> dict[str, Any]:
        given = _images(folder, dict(data), seed)
        summary = {"rejected_rows": given.pop("rejected_rows", 0), "splits": given}
        for split in SPLITS:
            if not table_path(folder / split, ImageRecord).exists():
                continue
            if negatives["method"] != "given":
                summary["splits"][split] |= _pairs(folder / split, dict(negatives), seed)
        _check_not_empty(folder, summary)
        summary["audit"] = _audit(folder, seed)
        return summary

    summary, how = run_stage(folder, config, work)
    _tell_data(Path(folder), summary, how)
    return summary


def _inputs(data: Mapping[str, Any]) -> dict[str, str]:
    """Content keys of the files that the data comes from: a changed caption file is a changed input."""
    paths = {key: data[key] for key in ("path", "captions") if data.get(key)}
    files = {key: Path(path) for key, path in paths.items() if Path(path).is_file()}
    folders = {key: Path(path) for key, path in paths.items() if Path(path).is_dir()}
    listed = {
        key: content_key([(str(f.relative_to(path)), f.stat().st_size) for f in sorted(path.rglob("*")) if f.is_file()])
        for key, path in folders.items()
    }
    texts = {
        f"{key}/{f.name}": file_key(f)
        for key, path in folders.items()
        for f in sorted(path.iterdir())
        if f.suffix in (".jsonl", ".json", ".csv")
    }
    return {key: file_key(path) for key, path in files.items()} | listed | texts


def _images(folder: Path, data: dict[str, Any], seed: int) -> dict[str, Any]:
    kind = data.pop("kind")
    if kind == "world":
        from scramble import world

        return world.generate(folder, seed=seed, **data)
    return _import(folder, kind, data, seed)


def _import(folder: Path, kind: str, data: dict[str, Any], seed: int) -> dict[str, Any]:
    """Real images into splits. The split of an image follows from its id and the seed, so that adding images moves none."""
    from contextlib import ExitStack

    from scramble import sources
    from scramble.sources import scramble_release

    fractions = {"val": data.pop("val_fraction"), "test": data.pop("test_fraction")}
    path, allowed = data.pop("path"), data.pop("max_rejected")
    with sources.BadRows(folder / "rejected_rows.jsonl", allowed) as bad, ExitStack() as stack:
        images = {s: stack.enter_context(open_table(folder / s, ImageRecord)) for s in SPLITS}
        if kind == "scramble_release":  # its pairs come with it
            pairs = {s: stack.enter_context(open_table(folder / s, PreferencePair)) for s in SPLITS}
            for record, its_pairs in scramble_release.read_with_pairs(path, bad, **data):
                split = _split(record.image_id, fractions, seed)
                images[split].write(record)
                for pair in its_pairs:
                    pairs[split].write(pair)
            bad.check(path)
        else:
            pairs = {}
            for record in track(sources.read(kind, path, bad=bad, **data), "reading images"):
                images[_split(record.image_id, fractions, seed)].write(record)
        counts: dict[str, Any] = {s: {"images": images[s].count} for s in SPLITS}
        for split, table in pairs.items():
            counts[split]["pairs"] = table.count
    return counts | {"rejected_rows": bad.rejected}


def _split(image_id: str, fractions: Mapping[str, float], seed: int) -> str:
    digest = hashlib.sha256(f"{seed}/{image_id}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < fractions["test"]:
        return "test"
    return "val" if place < fractions["test"] + fractions["val"] else "train"


def _pairs(folder: Path, negatives: dict[str, Any], seed: int) -> dict[str, Any]:
    from scramble.negatives import build_pairs, make_generator
    from scramble.negatives.pairs import Skipped

    method, prompt, count = negatives.pop("method"), negatives.pop("prompt"), negatives.pop("per_caption")
    chosen = negatives.pop("captions_per_image", "all")
    generator = make_generator(method, **negatives)
    skipped = Skipped(folder / "skipped_captions.jsonl")
    images = track(read_table(folder, ImageRecord), f"negatives for {folder.name}")
    with skipped, open_table(folder, PreferencePair) as table:
        for pair in build_pairs(
            images, generator, prompt=prompt, per_caption=count, seed=seed, captions_per_image=chosen, skipped=skipped
        ):
            table.write(pair)
    return {"pairs": table.count, "skipped": dict(skipped.reasons)}
