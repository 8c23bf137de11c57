"""Draws the training curves of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scramble.reporting import charts
from scramble.reporting.pages import PALETTE
from scramble.storage.arm_names import method_of
from scramble.storage.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS: tuple[tuple[str, str], ...] = (
    ("loss", "loss"),
    ("rewards/margins", "reward margin (nats)"),
    ("logps/chosen", "log-probability of chosen (nats)"),
    ("logps/rejected", "log-probability of rejected (nats)"),
)
"""Panels of the figure: the key in ``metrics.jsonl`` and the axis label."""


def training_curves(
    arms: Mapping[str, Sequence[Mapping[str, Any]]], path: str | Path, colours: Mapping[str, int]
) -> Path:
    """Draw losses, reward margins, log-probabilities and benchmark scores over steps, with one line per arm. The lines
    of a method's seeds have the same colour and dashes.

    Lines that coincide remain visible, because lines that are drawn later are thinner or dashed (:data:`charts.LINES`).

    Args:
        arms: for each arm, the rows of its ``metrics.jsonl``. A panel skips rows that lack ``step`` or the panel's key.
        path: path of the PNG file.
        colours: colour number of each method (:func:`scramble.reporting.charts.colour_numbers`).
    """
    from matplotlib.ticker import MaxNLocator

    watched = sorted({key for rows in arms.values() for row in rows for key in row if _is_watched(key)})
    panels = [(key, f"{label}\ntraining batches") for key, label in PANELS]
    panels += [(key, f"{charts.score_title(key)} (%)\nvalidation") for key in watched]
    figure, axes = _grid(len(panels))
    ordered = sorted(arms, key=lambda arm: charts.drawing_order(colours[method_of(arm)]))
    for axis, (key, label) in zip(axes, panels, strict=False):
        for arm in ordered:
            points = [(row["step"], row[key]) for row in arms[arm] if key in row and "step" in row]
            if points:
                _draw(axis, points, method_of(arm), colours[method_of(arm)])
        axis.set_title(label, fontsize=9)
        axis.set_xlabel("step", fontsize=8)
        axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    handles = {label: line for axis in axes for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    if handles:
        figure.legend(
            handles.values(),
            handles.keys(),
            loc="lower center",
            ncols=min(len(handles), 8),
            fontsize=8,
            frameon=False,
            handlelength=4,
        )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
    return Path(path)


def _draw(axis: Axes, points: Sequence[tuple[float, float]], method: str, number: int) -> None:
    width, dashes = charts.LINES[number]
    are_few = len(points) <= charts.FEW_POINTS  # in this case, markers of different sizes show lines that coincide
    if are_few:
        width /= 2
    axis.plot(
        *zip(*points, strict=True),
        color=PALETTE[number][0],
        linewidth=width,
        label=method,
        linestyle=(0, [length / width for length in dashes]) if dashes else "solid",
        marker="o" if are_few else "",
        markersize=3 + 2 * width,
    )


def _is_watched(key: str) -> bool:
    """Return whether a metric is a main score (``group`` or ``accuracy``) of a benchmark that is scored during
    training. The score can be overall or for one kind of swap.
    """
    _, *parts = key.split("/")  # eval_<benchmark>, score, kind
    if not charts.is_benchmark_score(key) or parts[0] not in ("group", "accuracy"):
        return False
    return len(parts) == 1 or (len(parts) == 2 and parts[1].startswith("swap-"))


def _grid(count: int) -> tuple[Figure, list[Axes]]:
    """Return a figure with a grid of ``count`` axes. Margins are set in inches, so that the titles and the legend
    fit with any number of rows.
    """
    from matplotlib.figure import Figure

    columns = min(4, count)
    rows = -(-count // columns)
    width, height, gap, top, bottom = 3.6, 2.1, 0.95, 0.5, 0.85
    total = height * rows + gap * (rows - 1) + top + bottom
    figure = Figure(figsize=(width * columns, total))
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.set_axis_off()
    figure.subplots_adjust(
        left=0.6 / (width * columns),
        right=1 - 0.1 / (width * columns),
        top=1 - top / total,
        bottom=bottom / total,
        hspace=gap / height,
        wspace=0.25,
    )
    return figure, axes
