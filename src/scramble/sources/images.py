"""Checks that every source shares: is this image readable, is this caption a caption."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scramble.records import ImageFile, RecordError


def load_image(path: str | Path, *, embed: bool = True, verify: bool = True) -> ImageFile:
    """The image file at ``path``, as bytes (``embed``) or as an absolute path.

    Args:
        embed: keep the encoded bytes, so that the data set does not depend on the folder; else keep the path.
        verify: decode the image once, so that a truncated file is found now and not in the middle of training.

    Raises:
        RecordError: the file is missing, empty or cannot be decoded.
    """
    image = ImageFile(path=str(Path(path).absolute()))
    if verify:
        image = ImageFile(bytes=image.read(), path=image.path)
        verify_image(image)
    if not embed:
        return ImageFile(path=image.path)
    return ImageFile(bytes=image.read(), path=Path(path).name)


def verify_image(image: ImageFile) -> None:
    """Decode an image to its end. Raises RecordError naming it if that fails."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(image.read())) as decoded:
            # A JPEG is decoded at an eighth of its size: the whole stream is read, in a fraction of the time.
            decoded.draft("RGB", (max(1, decoded.width // 8), max(1, decoded.height // 8)))
            decoded.load()
    except RecordError:
        raise
    except Exception as error:  # Pillow raises many types for broken files
        raise RecordError(f"image {image.path or '<bytes>'}: cannot be decoded ({error})") from error


def clean_caption(value: Any) -> str:
    """The caption with runs of white space (line breaks, tabs) made one space.

    Raises:
        RecordError: it is absent, not text, or empty.
    """
    if value is None:
        raise RecordError("row without caption")
    if not isinstance(value, str):
        raise RecordError(f"caption is not text but {type(value).__name__}")
    text = " ".join(value.split())
    if not text:
        raise RecordError("empty caption")
    return text


def clean_captions(values: Any) -> list[str]:
    """The captions of a row that holds one text or a list of texts. Raises RecordError as :func:`clean_caption`."""
    if isinstance(values, Iterable) and not isinstance(values, str | bytes | dict):
        captions = [clean_caption(value) for value in values]
        if not captions:
            raise RecordError("row without caption")
        return list(dict.fromkeys(captions))
    return [clean_caption(values)]
