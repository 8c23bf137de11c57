"""Creates a global view and overlapping crops of 336 px for Molmo v1, resized as in TensorFlow.

The tiling, the number of tokens and the order of the features depend only on the size of an image.

Shape suffixes: C crops of an image (the global view first), P patches per crop, F pooled features per crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from scramble.pixels import upright_rgb

ROWS_AT_ONCE = 2048
"""Number of rows of an image that are converted to float32 at a time, to limit memory for very large images."""


def select_tiling(height: int, width: int, window: int, max_crops: int) -> tuple[int, int]:
    """Return the best (rows, columns) of at most ``max_crops`` windows for an area of ``height`` x ``width`` pixels.

    The best tiling requires the least upscaling of the area, or the least downscaling if all tilings require
    downscaling. Among equally good tilings, the function selects the one with the fewest windows and then the one with
    the fewest rows. For images smaller than the crops' margins, ``height`` or ``width`` is zero or negative. The
    function reproduces the float32 arithmetic of the released processor, even for these values.
    """
    tilings = [(rows, cols) for rows in range(1, max_crops + 1) for cols in range(1, max_crops // rows + 1)]
    tilings.sort(key=lambda tiling: (tiling[0] * tiling[1], tiling[0]))
    sizes = np.array(tilings, dtype=np.float32) * np.float32(window)
    with np.errstate(divide="ignore"):
        scales = (sizes / np.array([height, width], dtype=np.float32)).min(axis=1)
    fits = scales >= 1
    best = np.where(fits, scales, np.inf).argmin() if fits.any() else scales.argmax()
    return tilings[int(best)]


def resize(image: np.ndarray, height: int, width: int, out: np.ndarray | None = None) -> np.ndarray:
    """Resize an image (h, w, 3), uint8 or float32 in [0, 1], bilinearly with antialiasing.

    The result is float32 (height, width, 3) in [0, 1]. If ``out`` is given, the result is written to this array.

    For downscaling, the triangle filter is widened by the scale, as in ``tf.image.resize(..., antialias=True)``.
    """
    # Resize one axis at a time, so that a very large image is never entirely in memory as float32.
    strips = [
        _resize_axes(_planes(image[y : y + ROWS_AT_ONCE]), None, width) for y in range(0, len(image), ROWS_AT_ONCE)
    ]
    resized = _resize_axes(strips[0] if len(strips) == 1 else torch.cat(strips, dim=1), height, None)
    return np.clip(resized.permute(1, 2, 0).numpy(), 0.0, 1.0, out=out)


def _planes(image: np.ndarray) -> torch.Tensor:
    """Convert an image (h, w, 3), uint8 or float32 in [0, 1], to float32 (3, h, w) in [0, 1]."""
    # torch interpolates contiguous planes. Other layouts would be copied for each axis.
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))
    return torch.from_numpy(planes * np.float32(1 / 255) if planes.dtype == np.uint8 else planes)


def _resize_axes(planes: torch.Tensor, height: int | None, width: int | None) -> torch.Tensor:
    """Resize planes (3, h, w) bilinearly with antialiasing. An axis whose new size is None is unchanged."""
    size = height or planes.shape[1], width or planes.shape[2]
    if size == planes.shape[1:]:
        return planes
    return torch.nn.functional.interpolate(
        planes[None], size=size, mode="bilinear", antialias=True, align_corners=False
    )[0]


def resize_and_pad(image: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale an image (h, w, 3) to fit ``height`` x ``width``, and centre it on a canvas of zeros.

    Return the canvas and a mask that is True inside the image.
    """
    # Use float32, because the released processor computes these sizes in float32 before it truncates them to whole
    # pixels.
    sides = np.array(image.shape[:2], dtype=np.float32)
    scale = (np.array([height, width], dtype=np.float32) / sides).min()
    # Without the minimum of 1, a side of an image with an extreme aspect ratio would become 0.
    scaled_height, scaled_width = (max(1, int(side)) for side in sides * scale)
    top, left = (height - scaled_height) // 2, (width - scaled_width) // 2
    canvas = np.zeros((height, width, 3), dtype=np.float32)
    mask = np.zeros((height, width), dtype=bool)
    inside = np.s_[top : top + scaled_height, left : left + scaled_width]
    resize(image, scaled_height, scaled_width, out=canvas[inside])
    mask[inside] = True
    return canvas, mask


def to_patches(crops: Sequence[np.ndarray], patch_size: int) -> np.ndarray:
    """Convert C crops (h, w, channels) to patches (C, P, patch_size * patch_size * channels), row by row.

    Crops may be views of one canvas. Their pixels are copied once.
    """
    height, width, channels = crops[0].shape
    rows, cols = height // patch_size, width // patch_size
    patches = np.empty((len(crops), rows, cols, patch_size, patch_size, channels), dtype=crops[0].dtype)
    for patch, crop in zip(patches, crops, strict=True):
        patch[...] = crop.reshape(rows, patch_size, cols, patch_size, channels).transpose(0, 2, 1, 3, 4)
    return patches.reshape(len(crops), rows * cols, patch_size * patch_size * channels)


def to_rgb(image: Any) -> np.ndarray:
    """Convert an image to an upright RGB array (height, width, 3), uint8 or float32 in [0, 1].

    Accepts Pillow images of any mode (:mod:`scramble.pixels`), and arrays or tensors (h, w), (h, w, c) or (c, h, w)
    with 1, 3 or 4 channels, uint8 or float in [0, 1]. An alpha channel is composited onto white. Raises ValueError for
    all other input.
    """
    if isinstance(image, Image.Image):
        return np.array(upright_rgb(image))
    array = np.asarray(image.detach().cpu() if isinstance(image, torch.Tensor) else image)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim == 3 and array.shape[-1] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[-1] not in (1, 3, 4) or 0 in array.shape:
        raise ValueError(
            f"an array of shape {array.shape} is not an image: use the shape (height, width), or (height, width, "
            "channels) with 1, 3 or 4 channels"
        )
    if array.dtype == np.uint8 and array.shape[-1] == 4:
        return np.array(upright_rgb(Image.fromarray(np.ascontiguousarray(array))))
    if array.shape[-1] == 1:
        array = np.repeat(array, 3, axis=-1)
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating) or not (array.min() >= 0 and array.max() <= 1):
        raise ValueError(
            f"an image array must be uint8, or float with values in [0, 1], not {array.dtype} with values in "
            f"[{array.min()}, {array.max()}]"
        )
    if array.shape[-1] == 4:
        return to_rgb(np.rint(array * 255).astype(np.uint8)).astype(np.float32) / 255
    return array.astype(np.float32)


class MolmoImageProcessor(BaseImageProcessor):
    """Computes crops, masks and the order of features, with the options of the released ``preprocessor_config.json``.

    Args:
        max_crops: maximum number of crops in addition to the global view.
        overlap_margins: margins of a crop (left/top, right/bottom) in patches, where the adjacent crop's features are
            used.
        base_image_input_size: height and width of a crop in pixels (a square).
        image_token_length_h, image_token_length_w: pooled features per crop, vertically and horizontally.
        image_padding_mask: ignored, because masks are always returned. The released file contains this option.
    """

    model_input_names = ["images", "image_masks", "image_input_idx"]  # noqa: RUF012

    def __init__(
        self,
        max_crops: int = 12,
        overlap_margins: Sequence[int] = (4, 4),
        base_image_input_size: Sequence[int] = (336, 336),
        image_token_length_h: int = 12,
        image_token_length_w: int = 12,
        image_patch_size: int = 14,
        image_padding_mask: bool = True,
        do_normalize: bool = True,
        image_mean: Sequence[float] | None = None,
        image_std: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.max_crops = max_crops
        self.overlap_margins = list(overlap_margins)
        self.base_image_input_size = list(base_image_input_size)
        self.image_token_length_h = image_token_length_h
        self.image_token_length_w = image_token_length_w
        self.image_patch_size = image_patch_size
        self.image_padding_mask = image_padding_mask
        self.do_normalize = do_normalize
        self.image_mean = list(image_mean or OPENAI_CLIP_MEAN)
        self.image_std = list(image_std or OPENAI_CLIP_STD)
        self._check()

    def _check(self) -> None:
        height, width = self.base_image_input_size
        pool = self._pool
        if height != width or self.image_token_length_h != self.image_token_length_w:
            raise ValueError(
                f"crops must be square, but base_image_input_size={self.base_image_input_size}, "
                f"image_token_length_h={self.image_token_length_h} and image_token_length_w="
                f"{self.image_token_length_w}: set equal heights and widths in preprocessor_config.json"
            )
        patches = height // self.image_patch_size
        if height % self.image_patch_size or -(-patches // pool) != self.image_token_length_h:
            raise ValueError(
                f"a crop of {height} px cannot be divided into {self.image_token_length_h} features per side that "
                f"consist of whole patches of {self.image_patch_size} px: correct image_token_length_h or "
                "image_patch_size"
            )
        if any(margin % pool for margin in self.overlap_margins) or self._window < 1:
            raise ValueError(
                f"overlap_margins {self.overlap_margins} must be multiples of {pool} patches, and their sum must be "
                "smaller than a crop"
            )

    @property
    def _pool(self) -> int:
        """Return the number of patches per feature along each side, rounded up.

        The sides of grids are padded to a multiple of this number.
        """
        return -(-(self.base_image_input_size[0] // self.image_patch_size) // self.image_token_length_h)

    @property
    def _step(self) -> tuple[int, int, int]:
        """Return the numbers of a crop's features in its left margin, in its right margin, and between them."""
        left, right = (margin // self._pool for margin in self.overlap_margins)
        return left, right, self.image_token_length_h - left - right

    @property
    def _margins(self) -> int:
        """Return the sum of both margins in pixels."""
        return sum(self.overlap_margins) * self.image_patch_size

    @property
    def _window(self) -> int:
        """Return the distance in pixels between the starts of adjacent crops."""
        return self.base_image_input_size[0] - self._margins

    def tiling(self, height: int, width: int, max_crops: int | None = None) -> tuple[int, int]:
        """Return the grid of crops (rows, columns) of an upright image of ``height`` x ``width`` pixels."""
        if min(height, width) < 1:
            raise ValueError(f"an image must have at least 1 x 1 pixels, not {height} x {width}")
        most = self.max_crops if max_crops is None else max_crops
        if most < 1:
            raise ValueError(f"max_crops must be at least 1, not {most}")
        return select_tiling(height - self._margins, width - self._margins, self._window, most)

    def feature_grid(self, tiling: tuple[int, int]) -> tuple[int, int]:
        """Return the size (rows, columns) of the grid that the features of all crops form together."""
        # Count features, not pixels, because each crop with an odd grid is padded and pooled separately.
        left, right, step = self._step
        return tiling[0] * step + left + right, tiling[1] * step + left + right

    def num_image_tokens(self, height: int, width: int, max_crops: int | None = None) -> int:
        """Return the number of tokens of an image of this size, including start, end and column tokens."""
        grids = [(self.image_token_length_h, self.image_token_length_w)]
        grids.append(self.feature_grid(self.tiling(height, width, max_crops)))
        return sum(rows * (cols + 1) + 2 for rows, cols in grids)

    def feature_order(self, tiling: tuple[int, int]) -> np.ndarray:
        """Return the index of each feature among the image's ``<im_patch>`` tokens, int64 (C, F).

        The global view comes first. The crops follow as one grid, row by row. Where crops overlap, each
        feature is taken from the crop in which its position is not in a margin next to another crop. All other features
        are dropped and have index -1.
        """
        side = self.image_token_length_h
        left, right, step = self._step
        places, selected = [], []
        for count in tiling:
            crop, cell = np.arange(count)[:, None], np.arange(side)[None]
            places.append(crop * step + cell)
            selected.append(((crop == 0) | (cell >= left)) & ((crop == count - 1) | (cell < side - right)))
        order = places[0][:, None, :, None] * self.feature_grid(tiling)[1] + places[1][None, :, None, :] + side * side
        order = np.where(selected[0][:, None, :, None] & selected[1][None, :, None, :], order, -1)
        return np.concatenate([np.arange(side * side)[None], order.reshape(-1, side * side)])

    def _prepare(self, image: Any, max_crops: int | None) -> dict[str, Any]:
        pixels = to_rgb(image)
        rows, cols = self.tiling(pixels.shape[0], pixels.shape[1], max_crops)
        side, window = self.base_image_input_size[0], self._window
        canvas, mask = resize_and_pad(pixels, rows * window + self._margins, cols * window + self._margins)
        corners = [(row * window, col * window) for row in range(rows) for col in range(cols)]
        whole = resize_and_pad(pixels, side, side)[0]
        # Normalise before cropping, because crops overlap and pixels would otherwise be normalised several times.
        self._normalise(canvas)
        self._normalise(whole)
        crops = [canvas[y : y + side, x : x + side] for y, x in corners]
        images_CPx = to_patches([whole, *crops], self.image_patch_size)

        masks = [mask[y : y + side, x : x + side, None] for y, x in corners]
        masks_CP = to_patches(masks, self.image_patch_size).mean(axis=-1, dtype=np.float32)
        # The released processor appends the global view's mask, although this view is first. The weights were trained
        # with this order.
        masks_CP = np.concatenate([masks_CP, np.full_like(masks_CP[:1], -1)])
        return {"images": images_CPx, "image_masks": masks_CP, "tilings": (rows, cols)}

    def _normalise(self, canvas: np.ndarray) -> None:
        """Normalise a canvas (h, w, 3) in place if ``do_normalize`` is true."""
        if not self.do_normalize:
            return
        # numpy broadcasts slowly over an inner axis of three, so repeat the constants for a whole row of pixels.
        mean, std = (
            np.tile(np.array(values, dtype=np.float32), canvas.shape[1]) for values in (self.image_mean, self.image_std)
        )
        rows = canvas.reshape(len(canvas), -1)
        rows -= mean
        rows /= std

    def preprocess(self, images: Any, max_crops: int | None = None, **kwargs: Any) -> BatchFeature:
        """Preprocess one image or a list of images.

        An image may be any input of :func:`to_rgb`, or a path or URL as a string. :class:`MolmoProcessor` pads the
        crops to a batch and computes the features' positions in the text.

        Returns:
            A batch with the lists ``images`` (float32 arrays (C, P, pixels)), ``image_masks`` (arrays (C, P)) and
            ``tilings``.
        """
        if kwargs:
            names = " or ".join(sorted(kwargs))
            raise TypeError(f"MolmoImageProcessor does not accept {names}: remove the unsupported arguments")
        images = images if isinstance(images, (list, tuple)) else [images]
        images = [self.fetch_images(image) if isinstance(image, str) else image for image in images]
        prepared = [self._prepare(image, max_crops) for image in images]
        return BatchFeature({key: [item[key] for item in prepared] for key in ("images", "image_masks", "tilings")})


__all__ = ["MolmoImageProcessor"]
