"""Read pairs from files made elsewhere, for the audit.

SugarCrepe's JSON (``{"0": {"filename", "caption", "negative_caption"}}``, one file a kind), JSON or JSONL or CSV rows
with ``chosen`` and ``rejected`` (TRL's preference format, plain or as messages), rows with ``caption`` and
``negative_caption``, SCRAMBLe's rows with ``conversations``, and data set folders written here.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from scramble.records import PreferencePair, RecordError
from scramble.store import StoreError, read_jsonl, read_table, table_path

_CHOSEN, _REJECTED = ("chosen", "caption"), ("rejected", "negative_caption")
_IMAGE = ("image_ids", "image_id", "image", "images", "filename", "image_path")


def read_pairs(path: str | Path) -> Iterator[PreferencePair]:
    """The pairs of a file or data set folder. Raises StoreError or RecordError naming file and row."""
    path = Path(path)
    if path.is_dir():
        if table_path(path, PreferencePair).exists():
            yield from read_table(path, PreferencePair)
            return
        files = sorted(path.glob("*.json")) + sorted(path.glob("*.jsonl"))
        if not files:
            raise StoreError(f"{path}: no pairs table and no JSON files; give a file or a data set folder")
        for file in files:
            yield from read_pairs(file)
        return
    count = 0
    for number, row in enumerate(_rows(path)):
        yield _pair(row, number, path)
        count += 1
    if not count:
        raise StoreError(f"{path}: no rows")


def _rows(path: Path) -> Iterable[Any]:
    if path.suffix == ".jsonl":
        if not path.exists():
            raise StoreError(f"{path} is missing")
        return read_jsonl(path)
    try:
        if path.suffix in (".csv", ".tsv"):
            with path.open(encoding="utf-8", newline="") as file:
                return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {path}: {error}") from error
    if isinstance(value, dict):
        return [{"id": key, **row} if isinstance(row, dict) else row for key, row in value.items()]
    return value if isinstance(value, list) else [value]


def _pair(row: Any, number: int, path: Path) -> PreferencePair:
    where = f"{path}, row {number}"
    if not isinstance(row, dict):
        raise RecordError(f"{where}: not an object")
    if "conversations" in row:
        chosen, rejected = _last(row["conversations"]), _last(row.get("rejected_conversations"))
    else:
        chosen, rejected = (_last(next((row[k] for k in keys if k in row), None)) for keys in (_CHOSEN, _REJECTED))
    if not chosen or not rejected:
        raise RecordError(f"{where}: needs texts 'chosen' and 'rejected' (or 'caption' and 'negative_caption')")
    image = next((row[k] for k in _IMAGE if row.get(k)), f"row-{number}")
    images = tuple(map(str, image)) if isinstance(image, list) else (str(image),)
    if chosen == rejected:
        rejected += " "  # an identity is a finding of the audit, not an error
    return PreferencePair(
        pair_id=str(row.get("pair_id") or row.get("id") or number),
        image_ids=images,
        prompt=_last(row.get("prompt")) or "",
        chosen=chosen,
        rejected=rejected,
        kind=str(row.get("kind") or path.stem),
        rule=str(row.get("rule") or path.stem),
        source=path.name,
    )


def _last(value: Any) -> str:
    """A text: itself, or the content of the last of a list of messages (TRL's and LLaVA's keys)."""
    if isinstance(value, list) and value:
        value = value[-1]
    if isinstance(value, dict):
        value = value.get("content", value.get("value", ""))
    if isinstance(value, list):
        value = " ".join(part.get("text") or "" for part in value if isinstance(part, dict))
    return value if isinstance(value, str) else ""
