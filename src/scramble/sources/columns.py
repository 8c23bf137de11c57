"""Finds the image and caption columns of a table if their names are not configured."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from scramble.formats.bad_rows import SourceError

log = logging.getLogger(__name__)

# The first name takes precedence. The other names are used by imagefolder (`file_name`, `text`), Flickr30k
# (`image_name`, `comment`), img2dataset and WebDataset (`jpg`, `txt`), and common captioning data on the hub.
IMAGE_COLUMNS = (
    *("image", "file_name", "image_name", "image_path", "image_file", "img", "img_path", "file", "file_path"),
    *("jpg", "jpeg", "png", "webp"),
)
CAPTION_COLUMNS = ("caption", "captions", "text", "comment", "sentence", "sentences", "description", "alt_text", "txt")
USUAL = {"image": IMAGE_COLUMNS, "caption": CAPTION_COLUMNS}

_JSON = "json"  # the column of dictionaries that img2dataset and WebDataset write
_FIRST_ROWS = 100  # number of rows whose keys are listed

Values = Callable[[str], Iterator[Any]]


def find_columns(
    path: str | Path, names: Collection[str], image: str | None, caption: str | None, values: Values
) -> tuple[str, str]:
    """Return the names of the image column and the caption column.

    If no column has a usual name, the first usual name is returned, and the caller reports that this column is missing.

    Args:
        path: the table, for messages.
        names: the columns of the table.
        image: the configured image column; if None, one of :data:`IMAGE_COLUMNS` is selected.
        caption: the configured caption column; if None, one of :data:`CAPTION_COLUMNS` is selected.
        values: a function that returns the values of a column. Only the first values are read.

    Raises:
        SourceError: several columns have usual names, and none of them has the first usual name; or the
            dictionaries of a column do not contain the configured key.
    """
    found = (
        image or usual_column(path, names, "image", values) or IMAGE_COLUMNS[0],
        caption or usual_column(path, names, "caption", values) or CAPTION_COLUMNS[0],
    )
    stored = {stored_column(column, names) for column in found}
    for column, what in zip(found, USUAL, strict=True):
        _check_keys(path, names, column, what, values)
    if found != (image or IMAGE_COLUMNS[0], caption or CAPTION_COLUMNS[0]) and stored <= set(names):
        log.info(
            f"data: the images are read from the column {found[0]} of {path}, and the captions from the column "
            f"{found[1]}"
        )
    return found


def usual_column(path: str | Path, names: Collection[str], what: str, values: Values) -> str | None:
    """Return the column that has a usual name of ``what`` (a key of :data:`USUAL`), or None.

    The comparison ignores case, blanks, hyphens and underscores. If no column has a usual name for captions, the
    keys of the dictionaries in the column ``json`` are compared in the same way (``json.caption``).

    Raises SourceError if several columns have usual names, and none of them has the first usual name.
    """
    prefix = ""
    present = matching(names, USUAL[what])
    if not present and what == "caption" and _JSON in names:
        prefix = f"{_JSON}."
        names = _keys(values, _JSON)
        present = matching(names, USUAL[what])
    first = USUAL[what][0]
    if first in names:
        return prefix + first
    if len(present) > 1 and _plain(present[0]) != first:
        choices = [prefix + name for name in present]
        raise SourceError(
            f"{path}: the {what} may be in the column {' or '.join(choices)}: choose one of them "
            f"(data.{what}_column={choices[0]})"
        )
    return prefix + present[0] if present else None


def value_at(row: Mapping[str, Any], column: str) -> Any:
    """Return the value of a column, or None. ``json.caption`` is the key ``caption`` of the dictionary in the column
    ``json``, which may be stored as JSON text.
    """
    if column in row:
        return row[column]
    top, _, key = column.partition(".")
    return value_at(_dictionary(row.get(top)), key) if key else None


def stored_column(column: str, names: Collection[str]) -> str:
    """Return the column of the table that contains ``column``, which may be a key of a dictionary."""
    top = column.partition(".")[0]
    return top if column not in names and top in names else column


def _check_keys(path: str | Path, names: Collection[str], column: str, what: str, values: Values) -> None:
    """Raise SourceError if a column that could be a key of dictionaries does not exist. The message lists the keys."""
    top = stored_column(column, names)
    if column == top and (column in names or what != "caption" or _JSON not in names):
        return
    top = top if column != top else _JSON
    keys = _keys(values, top)
    if column.removeprefix(f"{top}.").partition(".")[0] in keys or (not keys and column == top):
        return
    listed = ", ".join(keys) if len(", ".join(keys)) <= 300 else f"{', '.join(keys):.300}..."
    raise SourceError(
        f"{path} has no column {column}, only {', '.join(names)}, and {top} has the keys {listed or '(none)'}: set "
        f"data.{what}_column to a column or to a key ({top}.{next(iter(keys), 'key')})"
    )


def _keys(values: Values, column: str) -> dict[str, None]:
    """Return the keys of the dictionaries in the first rows of a column."""
    return {str(key): None for value in islice(values(column), _FIRST_ROWS) for key in _dictionary(value)}


def _dictionary(value: Any) -> Mapping[str, Any]:
    if isinstance(value, str):
        with suppress(ValueError, RecursionError):
            value = json.loads(value)
    return value if isinstance(value, Mapping) else {}


def matching(names: Collection[str], usual: Collection[str]) -> list[str]:
    """Return the columns that have one of the usual names, in the order of the usual names."""
    places = {_plain(name): place for place, name in enumerate(usual)}
    return sorted((name for name in names if _plain(name) in places), key=lambda name: places[_plain(name)])


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()
