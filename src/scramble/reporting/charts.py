"""Computes the coordinates of line charts. A template draws the charts as SVG with the colours of the page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scramble.evaluation.benchmarks import BENCHMARKS
from scramble.reporting.arms import split_run

WIDTH, HEIGHT = 400.0, 190.0
"""Size of a chart, in SVG units."""
LEFT, RIGHT, TOP, BOTTOM = 50.0, 10.0, 8.0, 24.0
"""Margins around the plot, in SVG units."""
FEW_POINTS = 12  # a line with at most this many points has a marker at each point
MOST_POINTS = 240  # maximum number of points per line, because a plot that is 340 units wide cannot show more

LINES: tuple[tuple[float, tuple[float, ...]], ...] = (
    (3.2, ()),
    (5.2, ()),
    (3.2, ()),
    (1.7, (7, 8)),
    (5.2, (9, 9)),
    (3.2, (3, 9)),
    (1.2, ()),
    (1.2, (3, 3)),
)
"""Line width and dash pattern (on, off, ...) for each colour number. Wide lines are drawn first
(:func:`drawing_order`). Where lines coincide, a wide line remains visible on both sides of a narrow line, and a solid
line remains visible in the gaps of a dashed line."""


def drawing_order(number: int) -> tuple[float, bool]:
    """Return the sort key of a colour number: wide lines come before narrow ones, and solid lines before dashed
    ones.
    """
    width, dashes = LINES[number]
    return -width, bool(dashes)


def colour_numbers(methods: Iterable[str]) -> dict[str, int]:
    """Return the colour numbers of methods: indices into :data:`~scramble.reporting.pages.PALETTE` and :data:`LINES`.

    The base model of each run has number 0.
    """
    names = list(dict.fromkeys(methods))
    others = [name for name in names if split_run(name)[1] != "base"]
    count = len(LINES) - 1
    return dict.fromkeys(names, 0) | {name: 1 + place % count for place, name in enumerate(others)}


def score_title(key: str) -> str:
    """Return ``<benchmark> <score>`` for the key ``eval_<benchmark>/<score>`` of a score measured during training."""
    return key.removeprefix("eval_").replace("/", " ")


def is_benchmark_score(key: str) -> bool:
    """Return whether a logged metric is a benchmark score (``eval_<benchmark>/<score>``) and not a metric of held-out
    pairs.
    """
    start, slash, _ = key.partition("/")
    return bool(slash) and start.startswith("eval_") and start.removeprefix("eval_") in BENCHMARKS


@dataclass(frozen=True)
class Line:
    """One series: its label, its colour number, and the ``points`` of an SVG polyline. If there are few points,
    ``dots`` contains the positions of the point markers.
    """

    label: str
    colour: int
    points: str
    dots: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Chart:
    """One panel. ``x_ticks`` and ``y_ticks`` are pairs (position, text). ``series`` contains the tooltip's values."""

    title: str
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    series: list[dict[str, Any]] = field(default_factory=list)


def line_chart(
    title: str, series: Mapping[str, Sequence[tuple[float, float]]], colours: Mapping[str, int]
) -> Chart | None:
    """Return a chart with one line of (step, value) points per label. Return None if no value is finite."""
    finite = {name: _thin([p for p in points if math.isfinite(p[1])]) for name, points in series.items()}
    finite = {name: points for name, points in finite.items() if points}
    if not finite:
        return None
    xs = [x for points in finite.values() for x, _ in points]
    ys = [y for points in finite.values() for _, y in points]
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1)
    y_low, y_high = min(min(ys), y_ticks[0]), max(max(ys), y_ticks[-1])

    def place_x(x: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (x - x_low) / (x_high - x_low), 1)

    def place_y(y: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - y_low) / (y_high - y_low), 1)

    def line(name: str, points: Sequence[tuple[float, float]]) -> Line:
        places = [(place_x(x), place_y(y)) for x, y in points]
        dots = tuple(places) if len(places) <= FEW_POINTS else ()
        return Line(name, colours.get(name, 1), " ".join(f"{x},{y}" for x, y in places), dots)

    lines = [line(*item) for item in sorted(finite.items(), key=lambda item: drawing_order(colours.get(item[0], 1)))]
    plain = [
        {
            "label": name,
            "colour": colours.get(name, 1),
            "at": [[x, float(f"{y:.5g}"), place_x(x), place_y(y)] for x, y in points],
        }
        for name, points in finite.items()
    ]
    return Chart(
        title,
        lines,
        [(place_x(x), _short(x)) for x in x_ticks if x_low <= x <= x_high and x == round(x)],
        [(place_y(y), _short(y)) for y in y_ticks],
        plain,
    )


def ticks(low: float, high: float) -> list[float]:
    """Return about four round numbers that span [low, high], in steps of 1, 2 or 5 times a power of ten."""
    if high - low < 1e-12 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [number * step for number in range(first, last + 1)]


def _thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    stride = max(1, -(-len(points) // MOST_POINTS))
    return [*points[:-1:stride], points[-1]] if points else []


def _short(value: float) -> str:
    if value and (abs(value) >= 1e5 or abs(value) < 1e-3):
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.6g}"
