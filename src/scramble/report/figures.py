"""Figures of a run: training curves, and a contact sheet of images with their chosen and rejected captions."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scramble.records import ImageFile, PreferencePair
from scramble.store import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS: tuple[tuple[str, str], ...] = (
    ("loss", "loss"),
    ("rewards/margins", "reward margin (nats)"),
    ("logps/chosen", "log-probability of chosen (nats)"),
    ("logps/rejected", "log-probability of rejected (nats)"),
)
"""What the training figure shows: the key in ``metrics.jsonl`` and the axis label."""


def training_curves(arms: Mapping[str, Sequence[Mapping[str, Any]]], path: str | Path) -> Path:
    """Draw margins and likelihoods over steps, one line an arm; seeds of a method share a colour.

    Args:
        arms: for each arm the rows of its ``metrics.jsonl`` (``step`` and the keys of :data:`PANELS`; rows without a
            key are passed over).
        path: where the PNG goes.
    """
    watched = sorted({key for rows in arms.values() for row in rows for key in row if _is_watched(key)})
    panels = [*PANELS, *((key, key.removeprefix("eval/").replace("/", " ", 1) + " (%)") for key in watched)]
    figure, axes = _grid(len(panels), columns=min(4, len(panels)), width=3.6, height=2.8)
    methods = list(dict.fromkeys(arm.partition("-seed")[0] for arm in arms))
    for axis, (key, label) in zip(axes, panels, strict=False):
        for arm, rows in arms.items():
            points = [(row["step"], row[key]) for row in rows if key in row and "step" in row]
            if points:
                method = arm.partition("-seed")[0]
                axis.plot(*zip(*points, strict=True), f"C{methods.index(method)}", label=method, linewidth=1.0)
        axis.set_title(label, fontsize=9)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    handles = {label: line for axis in axes for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    if handles:
        figure.legend(
            handles.values(), handles.keys(), loc="lower center", ncols=len(handles), fontsize=8, frameon=False
        )
    return _save(figure, path)


def _is_watched(key: str) -> bool:
    """Whether a column is a headline of a benchmark watched while training: a whole score, or a group score by swap."""
    start, *parts = key.split("/")  # eval, benchmark, score, kind
    if start != "eval" or len(parts) < 2 or parts[1] not in ("group", "accuracy"):
        return False
    return len(parts) == 2 or (len(parts) == 3 and parts[2].startswith("swap-"))


def contact_sheet(
    pairs: Sequence[PreferencePair], images: Mapping[str, ImageFile], path: str | Path, columns: int = 4
) -> Path:
    """Draw each pair's first image with its chosen caption in green and its rejected one in red."""
    figure, axes = _grid(len(pairs), columns=columns, width=2.6, height=3.1)
    for axis, pair in zip(axes, pairs, strict=False):
        axis.imshow(images[pair.image_ids[0]].open())
        axis.set_axis_off()
        y = -0.04
        for text, colour in ((pair.chosen, "#1a7f37"), (pair.rejected, "#b42318")):
            wrapped = textwrap.fill(textwrap.shorten(text, 100), 36)
            # parse_math off: a caption may hold dollar signs
            axis.text(0, y, wrapped, color=colour, fontsize=7, va="top", transform=axis.transAxes, parse_math=False)
            y -= 0.03 + 0.058 * (wrapped.count("\n") + 1)
    return _save(figure, path)


def _grid(count: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = max(1, -(-count // columns))
    figure = Figure(figsize=(width * columns, height * rows + 0.4))
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.set_axis_off()
    figure.subplots_adjust(
        left=0.06, right=0.99, top=0.94, bottom=0.24 if rows == 1 else 0.12, hspace=0.55, wspace=0.25
    )
    return figure, axes


def _save(figure: Figure, path: str | Path) -> Path:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
    return Path(path)
