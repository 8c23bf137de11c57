"""Molmo v1's image processor: overlapping crops of 336 px under a global view, resized as TensorFlow does it.

All that depends on the size of an image alone (tiling, tokens, order of the features) is in functions of the size.

Shape suffixes: C crops of an image (the global view first), P patches a crop, F pooled features a crop.
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
"""Rows of a source image converted to float32 at a time: bounds the memory for very large images."""


def select_tiling(height: int, width: int, window: int, max_crops: int) -> tuple[int, int]:
    """The (rows, columns) of windows, at most ``max_crops``, that fit an area of ``height`` x ``width`` pixels best.

    Best is the tiling that needs least upscaling of the area; where all need downscaling, the one that needs least.
    Of equals, the one with fewest windows, then fewest rows. The area may be empty or negative (images smaller than
    the crops' margins), as in the released processor, whose float32 arithmetic this follows.
    """
    tilings = [(rows, cols) for rows in range(1, max_crops + 1) for cols in range(1, max_crops // rows + 1)]
    tilings.sort(key=lambda tiling: (tiling[0] * tiling[1], tiling[0]))
    sizes = np.array(tilings, dtype=np.float32) * np.float32(window)
    with np.errstate(divide="ignore"):
        scales = (sizes / np.array([height, width], dtype=np.float32)).min(axis=1)
    fits = scales >= 1
    best = np.where(fits, scales, np.inf).argmin() if fits.any() else scales.argmax()
    return tilings[int(best)]


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Antialiased bilinear resize of (h, w, 3), uint8 or float32 in [0, 1], to float32 in [0, 1].

    The triangle filter widens with the scale when shrinking, as in ``tf.image.resize(..., antialias=True)``.
    """
    # One axis at a time, so that a very large image never exists in float32 as a whole.
    strips = [_resize_axes(image[y : y + ROWS_AT_ONCE], None, width) for y in range(0, len(image), ROWS_AT_ONCE)]
    return _resize_axes(np.concatenate(strips), height, None).clip(0.0, 1.0)


def _resize_axes(image: np.ndarray, height: int | None, width: int | None) -> np.ndarray:
    if image.dtype == np.uint8:
        image = image.astype(np.float32) * np.float32(1 / 255)
    height, width = height or image.shape[0], width or image.shape[1]
    if (height, width) == image.shape[:2]:
        return image
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(
        pixels, size=(height, width), mode="bilinear", antialias=True, align_corners=False
    )
    return resized[0].permute(1, 2, 0).numpy()


def resize_and_pad(image: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The image (h, w, 3) scaled to fit ``height`` x ``width``, centred on zeros; and where it is image (bool)."""
    # float32 throughout: the released processor's truncation to whole pixels depends on it.
    sides = np.array(image.shape[:2], dtype=np.float32)
    scale = (np.array([height, width], dtype=np.float32) / sides).min()
    # An image 100 times longer than wide would otherwise vanish.
    scaled_height, scaled_width = (max(1, int(side)) for side in sides * scale)
    top, left = (height - scaled_height) // 2, (width - scaled_width) // 2
    canvas = np.zeros((height, width, 3), dtype=np.float32)
    mask = np.zeros((height, width), dtype=bool)
    inside = np.s_[top : top + scaled_height, left : left + scaled_width]
    canvas[inside] = resize(image, scaled_height, scaled_width)
    mask[inside] = True
    return canvas, mask


def to_patches(crops: Sequence[np.ndarray], patch_size: int) -> np.ndarray:
    """C crops (h, w, channels) to (C, P, patch_size * patch_size * channels), patches row by row.

    Crops may be views of one canvas: their pixels are copied once.
    """
    height, width, channels = crops[0].shape
    rows, cols = height // patch_size, width // patch_size
    patches = np.empty((len(crops), rows, cols, patch_size, patch_size, channels), dtype=crops[0].dtype)
    for patch, crop in zip(patches, crops, strict=True):
        patch[...] = crop.reshape(rows, patch_size, cols, patch_size, channels).transpose(0, 2, 1, 3, 4)
    return patches.reshape(len(crops), rows * cols, patch_size * patch_size * channels)


def to_rgb(image: Any) -> np.ndarray:
    """An upright RGB array (height, width, 3), uint8 or float32 in [0, 1], of an image of any kind.

    Pillow images of any mode (:mod:`scramble.pixels`); arrays or tensors (h, w), (h, w, c) or (c, h, w) with 1, 3 or 4
    channels (the fourth, alpha, over white), uint8 or float in [0, 1]. Anything else: ValueError.
    """
    if isinstance(image, Image.Image):
        return np.array(upright_rgb(image))
    array = np.asarray(image.detach().cpu() if isinstance(image, torch.Tensor) else image)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim == 3 and array.shape[-1] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[-1] not in (1, 3, 4) or 0 in array.shape:
        raise ValueError(f"cannot read an array of shape {array.shape} as one image; expected (height, width, 3)")
    if array.dtype == np.uint8 and array.shape[-1] == 4:
        return np.array(upright_rgb(Image.fromarray(np.ascontiguousarray(array))))
    if array.shape[-1] == 1:
        array = np.repeat(array, 3, axis=-1)
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating) or not (array.min() >= 0 and array.max() <= 1):
        raise ValueError(f"an image array must be uint8, or float with values in [0, 1]; got {array.dtype}")
    if array.shape[-1] == 4:
        return to_rgb(np.rint(array * 255).astype(np.uint8)).astype(np.float32) / 255
    return array.astype(np.float32)


class MolmoImageProcessor(BaseImageProcessor):
    """Crops, masks and the order of features, with the released ``preprocessor_config.json``'s options.

    Args:
        max_crops: most crops beside the global view.
        overlap_margins: patches at the left/top and right/bottom of a crop that its neighbour shows better.
        base_image_input_size: height and width of a crop in pixels (a square).
        image_token_length_h, image_token_length_w: pooled features a crop, down and across.
        image_padding_mask: kept for the released file; masks are always returned.
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
            raise ValueError(f"crops must be square: base_image_input_size is {self.base_image_input_size}")
        patches = height // self.image_patch_size
        if height % self.image_patch_size or -(-patches // pool) != self.image_token_length_h:
            raise ValueError(
                f"a crop of {height} px does not divide into {self.image_token_length_h} features per side of whole "
                f"{self.image_patch_size} px patches"
            )
        if any(margin % pool for margin in self.overlap_margins) or self._window < 1:
            raise ValueError(
                f"overlap_margins {self.overlap_margins} must be multiples of {pool} patches that leave room in a crop"
            )

    @property
    def _pool(self) -> int:
        """Patches per feature and side, rounded up: the model pads a grid that they do not divide with zeros."""
        return -(-(self.base_image_input_size[0] // self.image_patch_size) // self.image_token_length_h)

    @property
    def _step(self) -> tuple[int, int, int]:
        """Features of a crop that lie in its left and in its right margin, and those between them."""
        left, right = (margin // self._pool for margin in self.overlap_margins)
        return left, right, self.image_token_length_h - left - right

    @property
    def _margins(self) -> int:
        """Both margins in pixels."""
        return sum(self.overlap_margins) * self.image_patch_size

    @property
    def _window(self) -> int:
        """Step from one crop to the next in pixels."""
        return self.base_image_input_size[0] - self._margins

    def tiling(self, height: int, width: int, max_crops: int | None = None) -> tuple[int, int]:
        """Crops (down, across) that an upright image of ``height`` x ``width`` pixels is cut into."""
        if min(height, width) < 1:
            raise ValueError(f"an image of {height} x {width} pixels has no content")
        most = self.max_crops if max_crops is None else max_crops
        if most < 1:
            raise ValueError(f"max_crops must be at least 1, got {most}")
        return select_tiling(height - self._margins, width - self._margins, self._window, most)

    def feature_grid(self, tiling: tuple[int, int]) -> tuple[int, int]:
        """Features (down, across) of the stitched crops."""
        # Counted in features, not in pixels: each crop of an odd grid is pooled, and padded, by itself.
        left, right, step = self._step
        return tiling[0] * step + left + right, tiling[1] * step + left + right

    def num_image_tokens(self, height: int, width: int, max_crops: int | None = None) -> int:
        """Tokens of an image of this size, start, end and column tokens included."""
        grids = [(self.image_token_length_h, self.image_token_length_w)]
        grids.append(self.feature_grid(self.tiling(height, width, max_crops)))
        return sum(rows * (cols + 1) + 2 for rows, cols in grids)

    def feature_order(self, tiling: tuple[int, int]) -> np.ndarray:
        """Place of each feature among the image's ``<im_patch>`` tokens, int64 (C, F); -1 where it is dropped.

        The global view comes first; the crops follow as one grid, row by row, where each place is filled by the one
        crop that does not show it in its margin.
        """
        side = self.image_token_length_h
        left, right, step = self._step
        places, kept = [], []
        for count in tiling:
            crop, cell = np.arange(count)[:, None], np.arange(side)[None]
            places.append(crop * step + cell)
            kept.append(((crop == 0) | (cell >= left)) & ((crop == count - 1) | (cell < side - right)))
        order = places[0][:, None, :, None] * self.feature_grid(tiling)[1] + places[1][None, :, None, :] + side * side
        order = np.where(kept[0][:, None, :, None] & kept[1][None, :, None, :], order, -1)
        return np.concatenate([np.arange(side * side)[None], order.reshape(-1, side * side)])

    def _prepare(self, image: Any, max_crops: int | None) -> dict[str, Any]:
        pixels = to_rgb(image)
        rows, cols = self.tiling(pixels.shape[0], pixels.shape[1], max_crops)
        side, window = self.base_image_input_size[0], self._window
        canvas, mask = resize_and_pad(pixels, rows * window + self._margins, cols * window + self._margins)
        corners = [(row * window, col * window) for row in range(rows) for col in range(cols)]
        whole = resize_and_pad(pixels, side, side)[0]
        # Before the cut: crops overlap, and a pixel of the canvas would be normalised in each of them.
        self._normalise(canvas)
        self._normalise(whole)
        crops = [canvas[y : y + side, x : x + side] for y, x in corners]
        images_CPx = to_patches([whole, *crops], self.image_patch_size)

        masks = [mask[y : y + side, x : x + side, None] for y, x in corners]
        masks_CP = to_patches(masks, self.image_patch_size).mean(axis=-1, dtype=np.float32)
        # The released processor appends the global view's row although that view comes first; the weights know it so.
        masks_CP = np.concatenate([masks_CP, np.full_like(masks_CP[:1], -1)])
        return {"images": images_CPx, "image_masks": masks_CP, "tilings": (rows, cols)}

    def _normalise(self, canvas: np.ndarray) -> None:
        """Normalise a canvas (h, w, 3) in place."""
        if not self.do_normalize:
            return
        rows = canvas.reshape(len(canvas), -1)  # numpy is slow where it broadcasts over an inner axis of three
        rows -= np.tile(np.array(self.image_mean, dtype=np.float32), canvas.shape[1])
        rows /= np.tile(np.array(self.image_std, dtype=np.float32), canvas.shape[1])

    def preprocess(self, images: Any, max_crops: int | None = None, **kwargs: Any) -> BatchFeature:
        """One image or a list of them: lists of ``images`` float32 (C, P, pixels), ``image_masks`` (C, P), ``tilings``.

        Images may be of any kind :func:`to_rgb` reads, or paths and URLs. Crops are padded to a batch, and features
        given positions in a text, by :class:`MolmoProcessor`.
        """
        if kwargs:
            raise TypeError(f"MolmoImageProcessor does not take {', '.join(sorted(kwargs))}")
        images = images if isinstance(images, (list, tuple)) else [images]
        images = [self.fetch_images(image) if isinstance(image, str) else image for image in images]
        prepared = [self._prepare(image, max_crops) for image in images]
        return BatchFeature({key: [item[key] for item in prepared] for key in ("images", "image_masks", "tilings")})


__all__ = ["MolmoImageProcessor"]
