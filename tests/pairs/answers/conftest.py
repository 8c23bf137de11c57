"""Provides a scripted vision server and small images for the tests of the data engine."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from scramble.records import ImageFile


def picture(color: str, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (48, 48), color).save(buffer, format)
    return buffer.getvalue()


@pytest.fixture
def images() -> dict[str, ImageFile]:
    return {color: ImageFile(picture(color)) for color in ("red", "green", "blue")} | {
        "bmp": ImageFile(picture("white", "BMP")),
        "broken": ImageFile(b"no image"),
    }
