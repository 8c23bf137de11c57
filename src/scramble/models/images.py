"""Images on their way to an image processor: any Pillow mode and size in, upright RGB out.

Sizes are (height, width) in pixels; each function on sizes answers for its partner on images without decoding one.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from scramble.pixels import upright_rgb

SMALLEST_SIDE = 4  # px: image processors take a side of 1 or 3 for the colour channels
LARGEST_SQUARE = 4096  # px: a padded square of 20,000 px would take over a gigabyte, and is shrunk to 336 px anyway
MEAN_COLOUR = (122, 116, 104)  # CLIP's mean, the padding of LLaVA-1.5


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """What a protocol does to an image before the family's own preprocessing.

    Attributes:
        resize: stretch to a square of this many pixels (SCRAMBLe's evaluation: 336), or None.
        square_padding: pad the shorter side to a square with the mean colour (LLaVA-1.5's training), instead.

    Raises:
        ValueError: both at once.
    """

    resize: int | None = None
    square_padding: bool = False

    def __post_init__(self) -> None:
        if self.square_padding and self.resize is not None:
            raise ValueError(
                f"square_padding=true and resize={self.resize} exclude each other: a stretched image is square already"
            )

    def apply(self, image: Image.Image) -> Image.Image:
        """The image as upright RGB (:mod:`scramble.pixels`), no side under 4 px, with the options applied."""
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
        """The (height, width) of :meth:`apply`'s result for an upright image of ``size``."""
        height, width = size
        if self.resize is not None:
            height = width = self.resize
        elif self.square_padding:
            height = width = min(max(size), LARGEST_SQUARE)
        factor = _enlargement(height, width)
        return height * factor, width * factor


def _enlargement(height: int, width: int) -> int:
    return -(-SMALLEST_SIDE // min(height, width))
