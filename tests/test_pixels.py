"""Tests conversion to RGB: transparency on white, deep greyscale by its range, everything else as in Pillow."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from scramble.engines.request import encoded
from scramble.models.images import ImageOptions
from scramble.models.molmo.image_processing_molmo import to_rgb
from scramble.pixels import is_plain, upright_rgb
from scramble.records import ImageFile
from scramble.reporting.pages import thumbnail

CASES = Path(__file__).parent / "golden" / "images"
RAMP = np.tile(np.arange(256, dtype=np.uint8), (4, 1))


def saved(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def grey(image: Image.Image) -> np.ndarray:
    """Return the grey values (W,) after conversion, which must be the same in every row."""
    pixels = np.asarray(upright_rgb(image))
    assert pixels.dtype == np.uint8 and pixels.shape[-1] == 3
    assert (pixels == pixels[:1, :, :1]).all()
    return pixels[0, :, 0]


def palette_image() -> Image.Image:
    """Return an image in which all pixels have palette index 3, which is black."""
    image = Image.new("P", (4, 4), 3)
    image.putpalette([200] * 9 + [0] * 759)
    return image


@pytest.mark.parametrize("mode", ["RGBA", "LA", "La", "RGBa", "PA"])
def test_transparency_is_composited_onto_white(mode: str) -> None:
    """Black of opacity a over white is the grey 255 - a."""
    image = Image.new("L", (256, 4), 0).convert("LA")
    image.putalpha(Image.fromarray(RAMP))
    if mode != "LA":
        image = image.convert("La") if mode == "La" else image.convert("RGBA").convert(mode)
    assert image.mode == mode
    assert np.array_equal(grey(image), 255 - RAMP[0])


@pytest.mark.parametrize(
    ("image", "options"),
    [
        (Image.new("L", (4, 4), 7), {"transparency": 7}),
        (Image.new("1", (4, 4), 0), {"transparency": 0}),
        (Image.new("RGB", (4, 4), (1, 2, 3)), {"transparency": (1, 2, 3)}),
        (palette_image(), {"transparency": bytes([255, 255, 255, 0])}),
        (palette_image(), {"format": "GIF", "transparency": 3}),
        (Image.fromarray(np.full((4, 4), 300, np.uint16)), {"transparency": 300}),
        (Image.new("RGBA", (4, 4), (9, 9, 9, 0)), {"format": "WEBP", "lossless": True}),
    ],
)
def test_transparent_colours_of_files_are_white(image: Image.Image, options: dict[str, Any]) -> None:
    content = saved(image, options.get("format", "PNG"), **{k: v for k, v in options.items() if k != "format"})
    with Image.open(io.BytesIO(content)) as opened:
        assert not is_plain(opened)
    assert np.asarray(ImageFile(content).open()).min() == 255


@pytest.mark.parametrize(
    ("values", "mode"),
    [
        (RAMP.astype(np.uint16) * 257, "I;16"),
        ((RAMP.astype(np.uint16) * 257).astype(">u2"), "I;16B"),
        (RAMP.astype(np.int32), "I"),
        (RAMP.astype(np.int32) * 257, "I"),
        (RAMP.astype(np.int32) * 8_000_000, "I"),
        (RAMP.astype(np.int32) - 256, "I"),
        (RAMP.astype(np.float32) / 255, "F"),
        (RAMP.astype(np.float32), "F"),
        (RAMP.astype(np.float32) * 257, "F"),
        (RAMP.astype(np.float32) * 1e30, "F"),
    ],
)
def test_deep_greys_are_scaled_by_their_range(values: np.ndarray, mode: str) -> None:
    image = Image.fromarray(values)
    assert image.mode == mode and not is_plain(image)
    assert np.array_equal(grey(image), RAMP[0])


def test_a_dark_16_bit_photograph_stays_dark() -> None:
    values = np.tile(np.arange(256, dtype=np.uint16), (4, 1))
    assert grey(Image.fromarray(values)).max() == 1
    assert grey(Image.fromarray(values * 16)).max() == 16


def test_values_that_are_no_numbers_are_black() -> None:
    values = np.array([[0.0, 0.5, 1.0, np.nan, np.inf, -np.inf]], dtype=np.float32)
    assert grey(Image.fromarray(values)).tolist() == [0, 128, 255, 0, 255, 0]
    assert grey(Image.fromarray(values * 1000)).tolist() == [0, 128, 255, 0, 255, 0]
    for constant in (np.full((2, 2), np.nan), np.full((2, 2), -3.0), np.zeros((2, 2)), np.full((2, 2), np.inf)):
        assert grey(Image.fromarray(constant.astype(np.float32))).shape == (2,)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBX", "RGBA", "LA", "CMYK", "YCbCr", "HSV"])
def test_opaque_8_bit_images_are_as_before(mode: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    image = Image.fromarray(noise).convert(mode)
    assert is_plain(image)
    assert upright_rgb(image).tobytes() == image.convert("RGB").tobytes()


def test_orientation_is_applied_before_all_else() -> None:
    image = Image.new("LA", (256, 4))
    image.putalpha(Image.fromarray(RAMP))
    exif = Image.Exif()
    exif[0x0112] = 6
    actual = ImageFile(saved(image, exif=exif)).open()
    assert actual.size == (4, 256)
    turned = Image.open(io.BytesIO(saved(image, exif=exif)))
    assert actual.tobytes() == upright_rgb(ImageOps.exif_transpose(turned)).tobytes()


@pytest.mark.parametrize("name", ["black_on_transparent.png", "rgba_hidden.png", "gray16.png", "gray16.tif"])
def test_every_use_sees_the_same_pixels(name: str) -> None:
    """A black diagram on a transparent background, colours with full transparency, and a 16-bit ramp."""
    file = ImageFile((CASES / name).read_bytes())
    wanted = np.asarray(file.open())
    with Image.open(CASES / name) as image:
        assert np.array_equal(np.asarray(upright_rgb(image)), wanted)
        assert np.array_equal(np.asarray(ImageOptions().apply(image)), wanted)
        assert np.array_equal(to_rgb(image), wanted)
        assert thumbnail(image) == thumbnail(file.open())
    with Image.open(io.BytesIO(encoded(file))) as sent:
        assert sent.format == "PNG" and sent.mode == "RGB"
        assert np.array_equal(np.asarray(sent), wanted)
    expected = {"black_on_transparent.png": {0, 255}, "rgba_hidden.png": {255}}
    if name in expected:
        assert set(np.unique(wanted)) == expected[name]
    else:
        assert (wanted.min(), wanted.max()) == (0, 255) and len(np.unique(wanted)) > 20


def test_arrays_with_alpha_are_on_white() -> None:
    array = np.zeros((4, 256, 4), np.uint8)
    array[..., 3] = RAMP
    assert np.array_equal(to_rgb(array)[0, :, 0], 255 - RAMP[0])
    np.testing.assert_allclose(to_rgb(array / 255)[0, :, 0], 1 - RAMP[0] / 255, atol=1e-6)


def test_plain_files_are_sent_as_they_are() -> None:
    picture = Image.effect_noise((20, 20), 50)
    for content in (saved(picture), saved(picture.convert("RGB"), "JPEG"), saved(picture.convert("RGBA"))):
        assert encoded(ImageFile(content)) is content
    assert encoded(ImageFile(saved(picture, "BMP"))).startswith(b"\x89PNG")
