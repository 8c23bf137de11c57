"""Recognises misspelt paths of local files, before they are looked up on the hub as ``owner/name``."""

from __future__ import annotations

from difflib import get_close_matches
from itertools import islice
from pathlib import Path

MAX_NAMES = 5000  # of a folder are compared


def looks_local(path: str | Path) -> bool:
    """Return whether a path that does not exist is in an existing folder, and is therefore not a hub id."""
    parent = Path(path).expanduser().parent
    return parent != Path() and parent.is_dir()


def did_you_mean(path: str | Path) -> str:
    """Return a hint such as ``; did you mean data/pairs?``, or "" if the path exists or no existing path is similar."""
    wanted = Path(path).expanduser()
    if wanted.exists():
        return ""
    place = Path(wanted.anchor)
    for part in wanted.parts[len(place.parts) :]:
        if not (place / part).exists():
            names = [file.name for file in islice(place.iterdir(), MAX_NAMES)] if place.is_dir() else []
            close = get_close_matches(part, names, n=1, cutoff=0.75)
            if not close:
                return ""
            part = close[0]
        place /= part
    return f"; did you mean {place}?"
