"""Converts any Pillow image to upright 8-bit RGB.

Transparent images are composited onto white, as in the processors of Idefics3 and SmolVLM (``convert_to_rgb`` in
transformers). Pillow's own conversion drops alpha, so a black drawing on a transparent background can become black on
black.

Pillow's own conversion also clips values above 255 to white. Greyscale images with more than 8 bits are therefore
scaled to 8 bits. The table lists the values that become black and white:

| mode                | black | white                                                                               |
|---------------------|-------|-------------------------------------------------------------------------------------|
| 16 bits (``I;16``)  | 0     | 65535                                                                               |
| 32 bits (``I``)     | 0     | 255 if no value is larger, else 65535 if no value is larger, else the largest value |
| floats (``F``)      | 0     | 1 if no value is larger, else 255 if no value is larger, else the largest value     |

As in browsers, the values of 16-bit images are not stretched to the full range, so that a dark photograph stays dark.
If a 32-bit or float image has negative values, the smallest value becomes black and the largest value becomes white.
NaN and negative infinity become black; infinity becomes white.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

WHITE = (255, 255, 255, 255)


def upright_rgb(image: Image.Image) -> Image.Image:
    """Return the image in mode RGB, rotated according to its EXIF orientation and composited onto white.

    Opaque 8-bit images are converted by Pillow.
    """
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if is_deep_grey(image):
        image = _to_8_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    above = _rgba(image)
    return Image.alpha_composite(Image.new("RGBA", above.size, WHITE), above).convert("RGB")


def _rgba(image: Image.Image) -> Image.Image:
    return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")  # Pillow cannot convert La to RGBA


def png_bytes(image: Image.Image) -> bytes:
    """Return the image encoded as PNG."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def is_plain(image: Image.Image) -> bool:
    """Return whether an image has 8 bits per channel and no transparency. For such an image, all decoders return the
    same pixels.
    """
    if is_deep_grey(image):
        return False
    return not image.has_transparency_data or _rgba(image).getchannel("A").getextrema()[0] == 255


def is_deep_grey(image: Image.Image) -> bool:
    """Return whether an image has one channel with more than 8 bits."""
    return image.mode == "F" or image.mode.startswith("I")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale an image to mode L, or to mode LA if one value is marked as transparent (PNG's tRNS chunk)."""
    import numpy as np
    from PIL import Image

    values = np.asarray(image).astype(np.float64)
    finite = values[np.isfinite(values)]
    black, white = _range(image.mode, float(finite.min(initial=np.inf)), float(finite.max(initial=-np.inf)))
    values = np.nan_to_num(values, nan=black, posinf=white, neginf=black)
    grey = Image.fromarray(np.rint((values - black) * (255 / (white - black))).astype(np.uint8))
    transparent: Any = image.info.get("transparency")
    if isinstance(transparent, int):
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def _range(mode: str, smallest: float, largest: float) -> tuple[float, float]:
    """Return the values that become black and white. ``smallest > largest`` means that no value is finite."""
    if mode.startswith("I;"):
        return 0.0, 65535.0
    if smallest > largest:
        return 0.0, 1.0
    if smallest >= 0:
        for white in (1.0, 255.0) if mode == "F" else (255.0, 65535.0):
            if largest <= white:
                return 0.0, white
    black = min(smallest, 0.0)
    return black, max(largest, black + 1)
