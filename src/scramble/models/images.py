"""Converts images of any Pillow mode and size to upright RGB, before a model's image processor runs.

Sizes are (height, width) in pixels. :meth:`ImageOptions.size` computes the size of :meth:`ImageOptions.apply`'s result
without decoding an image.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from scramble.pixels import upright_rgb

SMALLEST_SIDE = 4  # px; image processors interpret a side of 1 or 3 as colour channels
LARGEST_SQUARE = 4096  # px; a padded square of 20,000 px would need over 1 GB before it is reduced to 336 px
MEAN_COLOUR = (122, 116, 104)  # CLIP's mean, with which LLaVA-1.5 pads images


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """Defines how an image is preprocessed before the family's own preprocessing.

    Attributes:
        resize: stretch to a square with this side in pixels (336 in SCRAMBLe's evaluation), or None.
        square_padding: pad the shorter side with the mean colour to a square, as in LLaVA-1.5's training.

    Raises:
        ValueError: both ``resize`` and ``square_padding`` are set.
    """

    resize: int | None = None
    square_padding: bool = False

    def __post_init__(self) -> None:
        if self.square_padding and self.resize is not None:
            raise ValueError(
                f"square_padding=true and resize={self.resize} exclude each other, because a resized image is already "
                "square: remove one of the two settings"
            )

    def apply(self, image: Image.Image) -> Image.Image:
        """Convert an image to upright RGB (:mod:`scramble.pixels`), apply the options, and enlarge sides below 4 px."""
        image = upright_rgb(image)
        if self.resize is not None:
            image = image.resize((self.resize, self.resize), Image.Resampling.BICUBIC)
        elif self.square_padding:
            image.thumbnail((LARGEST_SQUARE, LARGEST_SQUARE), Image.Resampling.BICUBIC)
            side = max(image.size)
            canvas = Image.new("RGB", (side, side), MEAN_COLOUR)
            canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
            image = canvas
        factor = _enlargement(image.height, image.width)
        if factor > 1:
            image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
        return image

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width) of :meth:`apply`'s result for an upright image of ``size``."""
        height, width = size
        if self.resize is not None:
            height = width = self.resize
        elif self.square_padding:
            height = width = min(max(size), LARGEST_SQUARE)
        factor = _enlargement(height, width)
        return height * factor, width * factor


def _enlargement(height: int, width: int) -> int:
    return -(-SMALLEST_SIDE // min(height, width))
