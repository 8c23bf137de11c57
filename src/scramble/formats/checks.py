"""Checks whether images are readable and captions are valid. All data sources use these checks."""

from __future__ import annotations

import ast
import io
import json
import math
import re
import tokenize
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from scramble.records import ImageFile, RecordError

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic")


def load_image(path: str | Path, *, embed: bool = True, verify: bool = True) -> ImageFile:
    """Return the image file at ``path``, as bytes (``embed``) or as an absolute path.

    Args:
        embed: whether to store the encoded bytes instead of the path, so that the data set does not depend on the image
            folder.
        verify: whether to decode the image once, to detect a truncated file before training.

    Raises:
        RecordError: the file cannot be read or decoded.
    """
    image = ImageFile(path=str(Path(path).absolute()))
    if verify:
        image = ImageFile(bytes=image.read(), path=image.path)
        verify_image(image)
    if not embed:
        return ImageFile(path=image.path)
    return ImageFile(bytes=image.read(), path=Path(path).name)


def exists(file: Path) -> bool:
    """Return whether the file exists. If the operating system rejects the file's name, the result is False."""
    try:
        return file.exists()
    except (OSError, ValueError):
        return False


def find_image(folder: Path, name: str) -> Path:
    """Return the file that a row's image path names. Relative paths are relative to ``folder``.

    The exact path takes precedence. If there is no such file, other spellings of the path are tried: without outer
    white space, with backslashes converted to slashes (paths from Windows), and with accents in the other Unicode
    normal form (archives from macOS). If none of these files exists, the exact path is returned.
    """
    for spelling in dict.fromkeys(_spellings(name)):
        if exists(folder / spelling):
            return folder / spelling
    return folder / name


def _spellings(name: str) -> Iterator[str]:
    for text in (name, name.strip(), name.strip().replace("\\", "/")):
        yield text
        yield from (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))


def image_fault(file: Path) -> str:
    """Return why an image file cannot be used. Equal reasons have equal texts so that they can be counted."""
    return "unreadable image" if exists(file) else "missing image"


def verify_image(image: ImageFile) -> None:
    """Decode an image completely. Raises RecordError if the image cannot be decoded; the message names the image."""
    with image.opened() as opened:
        # Decoding a JPEG at an eighth of its size reads the complete stream in a fraction of the time.
        opened.draft("RGB", (max(1, opened.width // 8), max(1, opened.height // 8)))
        opened.load()


def clean_caption(value: Any) -> str:
    """Return the caption with each run of white space (line breaks, tabs) replaced by one space.

    Raises:
        RecordError: the caption is missing, empty or not a string, or contains invalid characters.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise RecordError("row without caption")
    if not isinstance(value, str):
        raise RecordError(f"caption is of type {type(value).__name__}, not a string")
    if _SURROGATE.search(value):  # half of a surrogate pair, which no encoding can represent
        raise RecordError("caption contains a lone surrogate, which is not valid Unicode")
    if "\0" in value:  # UTF-16 read as UTF-8, or a damaged file
        raise RecordError("caption contains a null character")
    text = " ".join(value.split())
    if not text:
        raise RecordError("empty caption")
    return text


def clean_captions(values: Any) -> list[str]:
    """Return the captions in a row's caption field: one string, a list of strings, or a list stored as a string.

    Tables without a column type for lists store a list as a string in JSON or Python syntax, for example
    ``["A dog.", "A cat."]``.
    Raises RecordError if a caption is invalid (see :func:`clean_caption`), or if a list stored as a string cannot be
    parsed.
    """
    if isinstance(values, str):
        values = parse_list(values, "caption")
    if isinstance(values, Iterable) and not isinstance(values, str | bytes | dict):
        captions = [
            text for value in values for text in (clean_captions if isinstance(value, str) else _single_caption)(value)
        ]
        if not captions:
            raise RecordError("row without caption")
        return list(dict.fromkeys(captions))
    return [clean_caption(values)]


def image_name(value: Any) -> str:
    """Return the path in a row's image field, which may be a list with one path.

    Raises RecordError if there is no path, or if it is invalid, for example a URL.
    """
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        raise RecordError("row without image")
    if not isinstance(value, str):
        raise RecordError(f"image is of type {type(value).__name__}, not a path")
    if not value.strip() or "\0" in value:
        raise RecordError("row without image")
    if _ADDRESS.match(value.strip()):
        raise RecordError("image is a URL, not a path (download the images first)")
    if len(value) > _LONGEST_PATH:
        raise RecordError("image is a string that is too long for a path (write the images to files first)")
    return clean_text(value, "image")


def image_fields(value: Any) -> tuple[bytes | None, str | None]:
    """Return the bytes and path in an image field, which may be a list with one value.

    The value is bytes, a path, or a dictionary with the keys ``bytes`` and ``path``.
    Raises RecordError if a field without bytes has no path or an invalid path.
    """
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, bytes):
        return value or None, None
    if isinstance(value, dict):
        data, path = value.get("bytes"), value.get("path")
        if isinstance(data, bytes) and data:
            return data, path if isinstance(path, str) else None
        value = path
    return None, image_name(value)


def clean_id(value: Any) -> str:
    """Return the id of a row as a string.

    Raises RecordError if the id is missing, empty, or neither a string nor a number.
    """
    if value is None or value == "" or (isinstance(value, float) and not math.isfinite(value)):
        raise RecordError("row without id")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RecordError("id is neither a string nor a number")
    return clean_text(str(value), "id")


def clean_text(value: str, what: str) -> str:
    """Return the text unchanged. Raises RecordError if it contains a lone surrogate, which is not valid Unicode."""
    if _SURROGATE.search(value):
        raise RecordError(f"{what} contains a lone surrogate, which is not valid Unicode")
    return value


_SURROGATE = re.compile(r"[\ud800-\udfff]")
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+://|data:)", re.IGNORECASE)
_LONGEST_PATH = 4096  # characters; Linux's limit is 4,096 bytes, and base64-encoded images are longer
# The possessive quantifiers (*+) keep the time linear in the number of blanks.
_WRITTEN_LIST = re.compile(r"""\[\s*+([bu]?["'].*|.*["']\s*+,?\s*+)?\]|\(\s*+u?(["']).*\2\s*+,.*\)""", re.DOTALL)
_WRITTEN_OTHER = re.compile(r"""\{\s*'[^']*'\s*:.*\}|b(["']).*\1""", re.DOTALL)


def _single_caption(value: Any) -> list[str]:
    return [clean_caption(value)]


def parse_list(text: str, what: str) -> Any:
    """Parse a list (or another JSON value in brackets) that is stored as a string. Return other strings stripped.

    Raises RecordError if the string contains bytes or a dictionary in Python syntax, or a list that cannot be parsed.
    The message refers to the string as ``what``.
    """
    text = text.strip()
    if _WRITTEN_OTHER.fullmatch(text):
        raise RecordError(f"{what} is a dictionary or bytes, stored as a string")
    if (text[:1], text[-1:]) not in (("[", "]"), ("{", "}"), ("(", ")")):
        return text
    with suppress(ValueError, RecursionError):
        return json.loads(text, strict=False)
    if not _WRITTEN_LIST.fullmatch(text):
        return text
    with suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError, tokenize.TokenError):
        value = ast.literal_eval(text)
        # NumPy prints lists without commas, and Python would concatenate the texts of ['A dog.' 'A cat.'].
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        if len(value) == sum(token.type == tokenize.STRING for token in tokens):
            return value
    raise RecordError(f"{what} is a list stored as a string that cannot be parsed")
