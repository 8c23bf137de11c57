"""Finds the image and caption columns of a table whose names are not configured."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from scramble.formats.bad_rows import SourceError

log = logging.getLogger(__name__)

# The first name takes precedence. The other names are those of imagefolder (`file_name`, `text`), Flickr30k
# (`image_name`, `comment`), img2dataset and WebDataset (`jpg`, `txt`), and of common captioning data on the hub.
IMAGE_COLUMNS = (
    *("image", "file_name", "image_name", "image_path", "image_file", "img", "img_path", "file", "file_path"),
    *("jpg", "jpeg", "png", "webp"),
)
CAPTION_COLUMNS = ("caption", "captions", "text", "comment", "sentence", "sentences", "description", "alt_text", "txt")


def find_columns(path: str | Path, names: Collection[str], image: str | None, caption: str | None) -> tuple[str, str]:
    """Return the names of the image and the caption column.

    Names are compared without case, blanks, hyphens and underscores. If a table has none of the usual names, the first
    usual name is returned, which the caller's check of the columns reports as missing.

    Args:
        path: the table, for messages.
        names: the columns of the table.
        image: the configured image column; None selects one of :data:`IMAGE_COLUMNS`.
        caption: the configured caption column; None selects one of :data:`CAPTION_COLUMNS`.

    Raises:
        SourceError: several columns have usual names, and none of them has the first usual name.
    """
    found = (
        image or _usual(path, names, IMAGE_COLUMNS, "image"),
        caption or _usual(path, names, CAPTION_COLUMNS, "caption"),
    )
    if found != (image or IMAGE_COLUMNS[0], caption or CAPTION_COLUMNS[0]) and set(found) <= set(names):
        log.info(f"data: {path} has the images in the column {found[0]} and the captions in the column {found[1]}")
    return found


def _usual(path: str | Path, names: Collection[str], usual: Sequence[str], what: str) -> str:
    if usual[0] in names:
        return usual[0]
    present = matching(names, usual)
    if len(present) > 1 and _plain(present[0]) != usual[0]:
        raise SourceError(
            f"{path}: the {what} may be in the column {' or '.join(present)}: choose one of them "
            f"(data.{what}_column={present[0]})"
        )
    return present[0] if present else usual[0]


def matching(names: Collection[str], usual: Sequence[str]) -> list[str]:
    """Return the columns that have one of the usual names, in the order of the usual names."""
    places = {_plain(name): place for place, name in enumerate(usual)}
    return sorted((name for name in names if _plain(name) in places), key=lambda name: places[_plain(name)])


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()
