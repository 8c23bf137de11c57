"""Stores the fields of a pair that other formats lack as one JSON value, so that an import can restore the pair."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

from scramble.formats.bad_rows import FormatError
from scramble.records import Edit, PreferencePair, Turn
from scramble.storage.hashing import content_key

TEXTS = ("prompt", "chosen", "rejected", "history")
PROVENANCE_COLUMN = "provenance"


def provenance(pair: PreferencePair) -> dict[str, Any]:
    """Return all fields of a pair except those in :data:`TEXTS`, as JSON values by name."""
    values = {f.name: getattr(pair, f.name) for f in dataclasses.fields(pair) if f.name not in TEXTS}
    values["image_ids"] = list(pair.image_ids)
    values["edits"] = [[list(edit.chosen), list(edit.rejected)] for edit in pair.edits]
    values["other_rejected"] = list(pair.other_rejected)
    return values if pair.other_rejected else {key: value for key, value in values.items() if key != "other_rejected"}


def pair_from(
    texts: tuple[str, str, str],
    record: Mapping[str, Any] | str | None,
    image_ids: tuple[str, ...],
    history: tuple[Turn, ...] = (),
    other_rejected: tuple[str, ...] = (),
) -> PreferencePair:
    """Create a pair from its texts (prompt, chosen, rejected) and its provenance, if any.

    A row from other software has no provenance. The id of its pair is a content key of the image ids and texts, and
    the kind is ``unknown``.

    Raises:
        FormatError: ``record`` is not valid provenance.
    """
    if isinstance(record, str):
        record = json.loads(record) if record else None
    if record is not None and not isinstance(record, Mapping):
        raise FormatError(
            f"the column {PROVENANCE_COLUMN} is not a JSON object: rename the column, because this project reserves "
            "the name"
        )
    prompt, chosen, rejected = texts
    if not record:
        more = [part for part in (history, other_rejected) if part]
        pair_id = content_key(image_ids, prompt, chosen, rejected, *more)
        return PreferencePair(pair_id, image_ids, *texts, "unknown", history=history, other_rejected=other_rejected)
    values = _validated(record, len(chosen), len(rejected))
    values["image_ids"] = tuple(values.get("image_ids") or image_ids)
    values["edits"] = tuple(Edit((c[0], c[1]), (r[0], r[1])) for c, r in values.get("edits") or ())
    values["other_rejected"] = tuple(values.get("other_rejected") or other_rejected)
    return PreferencePair(prompt=prompt, chosen=chosen, rejected=rejected, history=history, **values)


def _validated(record: Mapping[str, Any], chosen: int, rejected: int) -> dict[str, Any]:
    """Return the provenance as a dictionary.

    Raises FormatError if a field is missing, unknown or of the wrong type, or if an edit is outside the texts, whose
    lengths are ``chosen`` and ``rejected``.
    """

    def number(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool)

    def span(value: Any, length: int) -> bool:
        return len(value) == 2 and all(isinstance(v, int) for v in value) and 0 <= value[0] <= value[1] <= length

    checks: dict[str, Callable[[Any], bool]] = {
        **dict.fromkeys(("pair_id", "kind", "rule", "source"), lambda v: isinstance(v, str)),
        **dict.fromkeys(
            ("image_ids", "other_rejected"), lambda v: isinstance(v, list) and all(isinstance(name, str) for name in v)
        ),
        "edits": lambda v: v is None or all(span(c, chosen) and span(r, rejected) for c, r in v),
        "seed": lambda v: isinstance(v, int),
        "scores": lambda v: isinstance(v, Mapping) and all(map(number, v.values())),
        "details": lambda v: isinstance(v, Mapping),
    }
    for field in ("pair_id", "kind"):
        if field not in record:
            raise FormatError(f"the column {PROVENANCE_COLUMN} has no {field}")
    for field, value in record.items():
        if field not in checks:
            raise FormatError(f"the column {PROVENANCE_COLUMN} has the unknown field {field!r}")
        if not checks[field](value):
            raise FormatError(f"the column {PROVENANCE_COLUMN} has the invalid value {value!r:.80} for {field}")
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise FormatError(
            f"the column {PROVENANCE_COLUMN} contains a lone surrogate, which is not valid Unicode"
        ) from error
    return dict(record)
