"""Tests the contact sheet and the training curves: no element hides another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scramble.records import ImageFile, PreferencePair
from scramble.reporting import charts, contact_sheet, figures
from scramble.reporting.pages import PALETTE

GREEN, RED = (np.array(tuple(bytes.fromhex(c[1:]))) for c in (contact_sheet.CHOSEN, contact_sheet.REJECTED))
LONG = " ".join(f"word{k}" for k in range(200))
CAPTIONS = {
    "short": ("a red cup", "a blue cup"),
    "landscape": ("two people walk along a brown beach below a green kite " * 3, "two kites " * 20),
    "long": (f"{LONG} and at last a cat", f"{LONG} and at last a dog"),
    "no spaces": ("x" * 300, "y" * 300),
    "Chinese": ("\u4e00\u53ea\u68d5\u8272\u7684\u72d7" * 12, "\u4e00\u53ea\u9ed1\u8272\u7684\u72d7" * 12),
    "formula": ("$x_1$ <b>50 %</b>", "\\frac{1}{2}"),
}


def pair(name: str, chosen: str, rejected: str) -> PreferencePair:
    return PreferencePair(name, (name,), "Describe it.", chosen, rejected, "swap-object")


def has(pixels: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Return which rows (H,) have a pixel of nearly this colour."""
    return (np.abs(pixels.astype(int) - colour).sum(axis=-1) < 60).any(axis=1)


@pytest.mark.parametrize("size", [(320, 213), (213, 320), (1200, 30), (40, 900), (1, 1), (3000, 1)])
@pytest.mark.parametrize("kind", CAPTIONS)
def test_captions_lie_below_their_image_and_not_over_each_other(
    tmp_path: Path, size: tuple[int, int], kind: str
) -> None:
    """From the top: the (blue) image, green lines, red lines; everything is inside, with empty margins."""
    Image.new("RGB", size, (0, 0, 255)).save(tmp_path / "image.png")
    images = {kind: ImageFile(path=str(tmp_path / "image.png"))}
    path = contact_sheet.contact_sheet([pair(kind, *CAPTIONS[kind])], images, tmp_path / "sheet.png")
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    blue, green, red = (np.flatnonzero(has(pixels, c)) for c in (np.array([0, 0, 255]), GREEN, RED))
    assert len(blue) and len(green) and len(red)
    assert blue.max() < green.min() and green.max() < red.min()
    edge = contact_sheet.GAP - 6  # letters may extend slightly beyond their boxes
    frame = np.concatenate(
        [
            pixels[:edge].reshape(-1, 3),
            pixels[-edge:].reshape(-1, 3),
            pixels[:, :edge].reshape(-1, 3),
            pixels[:, -edge:].reshape(-1, 3),
        ]
    )
    assert (frame == 255).all()
    height = contact_sheet.CELL + 2 * (contact_sheet.BETWEEN + contact_sheet.MAX_LINES * contact_sheet.LINE)
    assert pixels.shape[0] <= height + 2 * contact_sheet.GAP


def test_a_long_caption_is_shown_where_it_differs() -> None:
    font = contact_sheet._font("a")
    lines = contact_sheet._lines(*CAPTIONS["long"], font)
    assert lines[0].startswith("\N{HORIZONTAL ELLIPSIS} word") and " ".join(lines).endswith("a cat")
    early = contact_sheet._lines("a cat " + LONG, "a dog " + LONG, font)
    assert len(early) == contact_sheet.MAX_LINES
    assert early[0].startswith("a cat") and early[-1].endswith("\N{HORIZONTAL ELLIPSIS}")
    whole = contact_sheet._lines("one two", "one three", font)
    assert whole == ["one two"]


def test_rows_of_the_sheet_are_as_high_as_their_cells(tmp_path: Path) -> None:
    """One sheet of more than one row contains the shapes of real photographs, landscape and portrait."""
    sizes = [(320, 213), (213, 320), (320, 180), (240, 320), (320, 240)]
    images, pairs = {}, []
    for number, size in enumerate(sizes):
        name = str(number)
        Image.new("RGB", size, (0, 0, 255)).save(tmp_path / f"{name}.png")
        images[name] = ImageFile(path=str(tmp_path / f"{name}.png"))
        pairs.append(pair(name, *CAPTIONS["landscape"]))
    path = contact_sheet.contact_sheet(pairs, images, tmp_path / "sheet.png")
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    first = pixels[:, contact_sheet.GAP : contact_sheet.GAP + contact_sheet.CELL]
    blue, red = has(first, np.array([0, 0, 255])), has(first, RED)
    second = np.flatnonzero(blue)[np.flatnonzero(np.diff(np.flatnonzero(blue)) > 1) + 1][0]  # the second row's image
    assert not red[second:].all() and red[:second].any()
    assert np.flatnonzero(red[:second]).max() < second


def test_letters_that_no_font_has_are_counted() -> None:
    assert contact_sheet.undrawable(["a red cup", "\u0437\u0435\u043b\u0451\u043d\u044b\u0439 \u043a\u0443\u0431"]) == 0
    assert contact_sheet.undrawable(["a \U0010fffd cup", "a cup"]) == 1  # a private character


def test_coinciding_curves_are_all_seen_in_the_browsers_colours(tmp_path: Path) -> None:
    rows = [{"step": step, "loss": 1 / step, "logps/chosen": -5.0} for step in range(1, 40)]
    arms = {f"{method}-seed0": rows for method in ("dpo", "mpo", "sft")}
    colours = charts.colour_numbers(["base", "sft", "dpo", "mpo"])
    assert colours == {"base": 0, "sft": 1, "dpo": 2, "mpo": 3}
    path = figures.training_curves(arms, tmp_path / "curves.png", colours)
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    plots = pixels[: int(pixels.shape[0] * 0.8)]  # without the legend
    for number in (1, 2, 3):
        colour = np.array(tuple(bytes.fromhex(PALETTE[number][0][1:])))
        assert (np.abs(plots - colour).sum(axis=-1) < 40).sum() > 200, number


def test_only_the_base_models_have_the_colour_of_the_base() -> None:
    numbers = charts.colour_numbers(["base", "database", "a: base", "a: mpo"])
    assert numbers == {"base": 0, "database": 1, "a: base": 0, "a: mpo": 2}


def test_one_logged_step_is_a_dot(tmp_path: Path) -> None:
    path = figures.training_curves({"mpo-seed0": [{"step": 1, "loss": 2.0}]}, tmp_path / "curves.png", {"mpo": 1})
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    plots = pixels[: int(pixels.shape[0] * 0.8)]
    assert (np.abs(plots - np.array(tuple(bytes.fromhex(PALETTE[1][0][1:])))).sum(axis=-1) < 40).sum() > 20
