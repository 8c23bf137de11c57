"""Upright 8-bit RGB of any Pillow image: the one conversion for training, evaluation, engines, audit and pages.

Transparency is composited onto white, as Idefics3's and SmolVLM's processors do (``convert_to_rgb`` in transformers);
Pillow's own conversion drops alpha, and a black drawing on a transparent ground becomes black on black.

Deep greys are scaled to 8 bits, where Pillow's conversion clips everything above 255 to white:

| mode                | black | white                                                                               |
|---------------------|-------|-------------------------------------------------------------------------------------|
| 16 bits (``I;16``)  | 0     | 65535, as in browsers, whatever the values: a dark photograph stays dark            |
| 32 bits (``I``)     | 0     | 255 if all values fit in 8 bits, else 65535 if they fit in 16, else the largest     |
| floats (``F``)      | 0     | 1 if all values lie in [0, 1], else 255 if they fit, else the largest               |

Negative values (32 bits and floats) move black to the smallest. NaN is black, infinity white.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

WHITE = (255, 255, 255, 255)


def upright_rgb(image: Image.Image) -> Image.Image:
    """The image with EXIF rotation applied, on white, in mode RGB. Opaque 8-bit images: as Pillow converts them."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if is_deep_grey(image):
        image = _to_8_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    above = _rgba(image)
    return Image.alpha_composite(Image.new("RGBA", above.size, WHITE), above).convert("RGB")


def _rgba(image: Image.Image) -> Image.Image:
    return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")  # Pillow has no way from La


def png_bytes(image: Image.Image) -> bytes:
    """The image as a PNG file."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def is_plain(image: Image.Image) -> bool:
    """Whether any decoder makes the same pixels of an image: 8 bits per channel, nothing transparent."""
    if is_deep_grey(image):
        return False
    return not image.has_transparency_data or _rgba(image).getchannel("A").getextrema()[0] == 255


def is_deep_grey(image: Image.Image) -> bool:
    """Whether an image has one channel of more than 8 bits."""
    return image.mode == "F" or image.mode.startswith("I")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Mode L, or LA where one value counts as transparent (PNG's tRNS)."""
    import numpy as np
    from PIL import Image

    values = np.asarray(image).astype(np.float64)
    finite = values[np.isfinite(values)]
    black, white = _range(image.mode, float(finite.min(initial=np.inf)), float(finite.max(initial=-np.inf)))
    values = np.nan_to_num(values, nan=black, posinf=white, neginf=black)
    grey = Image.fromarray(np.rint((values - black) * (255 / (white - black))).astype(np.uint8))
    clear: Any = image.info.get("transparency")
    if isinstance(clear, int):
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def _range(mode: str, smallest: float, largest: float) -> tuple[float, float]:
    """The values that become black and white. Without any finite value the two limits are crossed."""
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
