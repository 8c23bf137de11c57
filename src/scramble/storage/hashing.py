"""Computes content keys. The same content has the same key on every machine."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def content_key(*parts: Any) -> str:
    """Return a hex digest (16 digits) of JSON-like values. Equal values have the same digest on every machine."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=json_value)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_key(path: str | Path) -> str:
    """Return the hex digest (16 digits) of a file's bytes, or of the names and bytes of all files in a folder."""
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


def json_value(value: Any) -> Any:
    """Convert a value that JSON does not support to one that it supports (the ``default`` of ``json.dumps``).

    Raises TypeError if the value is not a path, a set or an instance of a dataclass.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"a content key cannot contain a value of type {type(value).__name__}")


def differing_keys(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "", defaults: Mapping[str, Any] | None = None
) -> list[str]:
    """Return the dotted keys whose values differ between two nested configurations, as ``key (old -> new)``.

    If a key is missing from one configuration, its value is taken from ``defaults``, which is nested in the same way.
    """
    defaults, differences = defaults or {}, []
    for key in sorted({*old, *new}, key=str):
        a, b = (side[key] if key in side else defaults.get(key) for side in (old, new))
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            inner = defaults.get(key)
            differences += differing_keys(a, b, f"{prefix}{key}.", inner if isinstance(inner, Mapping) else None)
        elif a != b:
            differences.append(f"{prefix}{key} ({a} -> {b})")
    return differences
