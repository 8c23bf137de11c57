"""An audit of pairs made anywhere: what classifiers without the image can tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scramble.console import console, say
from scramble.store import write_json


def audit(pairs: str | Path, out: str | Path, *, seed: int = 0) -> dict[str, Any]:
    """Audit a pair file or data set folder; print the tables, write ``audit.json`` and ``audit.html`` into ``out``."""
    from scramble.formats import read_pairs
    from scramble.negatives.audit import audit as examine
    from scramble.negatives.audit import tables
    from scramble.negatives.audit_page import write_page

    found = list(read_pairs(pairs))
    result = examine(found, seed=seed)
    write_json(Path(out) / "audit.json", result)
    write_page(Path(out) / "audit.html", result, found, title=f"Audit of {Path(pairs).name}", seed=seed)
    for table in tables(result):
        console().print(table)
    say(f"audit: {Path(out) / 'audit.html'}")
    return result
