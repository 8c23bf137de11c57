"""Reads the logged rows of a run that is compared with a repetition of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scramble.storage.jsonl import read_jsonl

# Values that depend on the machine and its load.
MEASURED = {
    "seconds",
    "pairs_per_second",
    "pairs_per_second_per_device",
    "tokens_per_second",
    "data_fraction",
    "mfu",
    "memory/resident_gib",
    "memory/gpu_gib",
}


def rows(out: Path) -> list[dict[str, Any]]:
    """Return the rows of ``metrics.jsonl`` without measured values."""
    return [{k: v for k, v in row.items() if k not in MEASURED} for row in read_jsonl(out / "metrics.jsonl")]
