"""Draws a scene with Pillow. Supersampling keeps the edges smooth, even in images of 48 x 48 pixels."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

from scramble.world.scenes import SHAPES, Scene, Thing, WorldError

if TYPE_CHECKING:
    from PIL import Image

SMALLEST = 48  # pixels per side
_SUPERSAMPLE = 4
_RGB = {
    "red": (0.85, 0.12, 0.12),
    "green": (0.12, 0.62, 0.20),
    "blue": (0.13, 0.28, 0.85),
    "yellow": (0.95, 0.85, 0.10),
    "purple": (0.55, 0.16, 0.65),
    "orange": (0.97, 0.55, 0.08),
}


def draw(scene: Scene, image_size: int) -> Image.Image:
    """Draw the scene as an RGB image of ``image_size`` pixels per side. Raise WorldError below 48 pixels."""
    from PIL import Image, ImageDraw

    if image_size < SMALLEST:
        raise WorldError(
            f"data.image_size must be at least {SMALLEST} pixels, not {image_size}, because shapes in smaller images "
            "look alike"
        )
    side = image_size * _SUPERSAMPLE
    ground = _byte(scene.ground)
    image = Image.new("RGB", (side, side), (ground, ground, ground))
    canvas = ImageDraw.Draw(image)
    for thing in scene.things:
        _draw_thing(canvas, thing, side, (ground, ground, ground))
    return image.reduce(_SUPERSAMPLE)


def png(scene: Scene, image_size: int) -> bytes:
    """Return the drawn scene as PNG bytes. The same arguments produce the same bytes."""
    buffer = io.BytesIO()
    draw(scene, image_size).save(buffer, format="PNG", optimize=False, compress_level=3)
    return buffer.getvalue()


def _byte(value: float) -> int:
    return round(255 * min(max(value, 0.0), 1.0))


def _draw_thing(canvas: object, thing: Thing, side: int, ground: tuple[int, int, int]) -> None:
    colour = tuple(_byte(base + shift) for base, shift in zip(_RGB[thing.colour], thing.tint, strict=True))
    x, y, radius = thing.x * side, thing.y * side, thing.radius * side
    if thing.shape in ("circle", "ring"):
        canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)  # type: ignore[attr-defined]
        if thing.shape == "ring":
            hole = 0.52 * radius
            canvas.ellipse((x - hole, y - hole, x + hole, y + hole), fill=ground)  # type: ignore[attr-defined]
        return
    points = _outline(thing.shape)
    turn = math.radians(thing.angle)
    sine, cosine = math.sin(turn), math.cos(turn)
    corners = [(x + radius * (u * cosine - v * sine), y + radius * (u * sine + v * cosine)) for u, v in points]
    canvas.polygon(corners, fill=colour)  # type: ignore[attr-defined]


def _outline(shape: str) -> list[tuple[float, float]]:
    """Return the corners of a shape within the unit circle around the origin, with y downwards."""
    if shape == "square":
        h = 0.8
        return [(-h, -h), (h, -h), (h, h), (-h, h)]
    if shape == "triangle":
        return [(0.0, -0.95), (0.9, 0.75), (-0.9, 0.75)]
    if shape == "cross":
        a, b = 0.3, 0.95
        return [
            (-a, -b),
            (a, -b),
            (a, -a),
            (b, -a),
            (b, a),
            (a, a),
            (a, b),
            (-a, b),
            (-a, a),
            (-b, a),
            (-b, -a),
            (-a, -a),
        ]
    if shape == "star":
        turns = [(math.pi * k / 5 - math.pi / 2, 1.0 if k % 2 == 0 else 0.42) for k in range(10)]
        return [(length * math.cos(turn), length * math.sin(turn)) for turn, length in turns]
    raise WorldError(f"the shape {shape!r} cannot be drawn: use one of {list(SHAPES)}")
