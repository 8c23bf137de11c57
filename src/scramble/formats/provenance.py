"""What a pair is beside its texts, as one JSON value: kept by every export, so that an import gives the same pair."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from scramble.records import Edit, PreferencePair
from scramble.store import content_key

TEXTS = ("prompt", "chosen", "rejected")
COLUMN = "provenance"


class FormatError(ValueError):
    """A file that is not in the format it is read as. The message names file and row."""


def provenance(pair: PreferencePair) -> dict[str, Any]:
    """All fields of a pair but its texts, as plain JSON."""
    values = {f.name: getattr(pair, f.name) for f in dataclasses.fields(pair) if f.name not in TEXTS}
    values["image_ids"] = list(pair.image_ids)
    values["edits"] = [[list(edit.chosen), list(edit.rejected)] for edit in pair.edits]
    return values


def pair_from(
    prompt: str, chosen: str, rejected: str, known: Mapping[str, Any] | str | None, image_ids: tuple[str, ...]
) -> PreferencePair:
    """A pair from its texts and, where there is one, its provenance.

    A row made by other software has none: its id is a content key of images and texts, its kind ``unknown``.
    """
    if isinstance(known, str):
        known = json.loads(known) if known else None
    if not known:
        return PreferencePair(
            content_key(image_ids, prompt, chosen, rejected), image_ids, prompt, chosen, rejected, "unknown"
        )
    values = dict(known)
    values["image_ids"] = tuple(values.get("image_ids") or image_ids)
    values["edits"] = tuple(Edit((c[0], c[1]), (r[0], r[1])) for c, r in values.get("edits") or ())
    return PreferencePair(prompt=prompt, chosen=chosen, rejected=rejected, **values)
