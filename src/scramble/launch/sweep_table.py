"""Writes the table and the plot of a sweep.

The table has one row per point, with the varied settings, the status, and the metrics of the last step.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scramble.console import show_table
from scramble.launch.points import Point, status
from scramble.reporting.charts import is_benchmark_score
from scramble.reporting.table import Column, Table
from scramble.storage.files import atomic_path, read_json, write_json, write_text

log = logging.getLogger(__name__)

# Metrics shown as columns, in this order. The plot shows the first of them.
PREFERRED = ("eval_rewards/accuracies", "eval_loss", "rewards/accuracies", "rewards/margins", "loss", "kl")


def write_sweep_table(points: Sequence[Point], folder: Path) -> None:
    """Write ``<script>.md``, ``<script>.json`` and, if points have metrics, ``<script>.png``. Also print the table."""
    name = points[0].script.stem
    rows = [_row(point) for point in points]
    numbers = _columns(rows)
    write_json(folder / f"{name}.json", rows)
    titles = [*_varied(rows), "status", *numbers, "seconds"]
    table = Table([Column(title) for title in titles], [_values(row, titles) for row in rows], "sweep")
    write_text(folder / f"{name}.md", f"# Sweep of {name}\n\n{table.markdown()}")
    show_table(table.rich())
    if numbers and any(numbers[0] in row["numbers"] for row in rows):
        _plot(rows, numbers[0], folder / f"{name}.png")
    log.info(f"sweep: {folder / f'{name}.md'}")


def _row(point: Point) -> dict[str, Any]:
    record = status(point)
    row: dict[str, Any] = {
        "varied": dict(point.varied),
        "status": record["status"],
        "error": record.get("error"),
        "numbers": {},
        "attempts": record.get("attempt", 0),
        "seconds": None,
        "folder": str(point.folder),
    }
    if record["status"] == "finished" and "ended" in record:
        row["seconds"] = record["ended"] - record["started"]
        if point.script.stem == "train" and (stage := point.stage_file) is not None:
            summary = read_json(stage)["summary"]
            row["arm"] = point.config["run"]["arm"]
            row["numbers"] = {k: v for k, v in summary["last"].items() if isinstance(v, int | float)}
    return row


def _varied(rows: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row["varied"]))


def _columns(rows: Sequence[dict[str, Any]]) -> list[str]:
    names = dict.fromkeys(name for row in rows for name in row["numbers"])
    benchmarks = [name for name in names if is_benchmark_score(name)]
    return [*benchmarks, *(name for name in PREFERRED if name in names)]


def _values(row: dict[str, Any], titles: Sequence[str]) -> list[Any]:
    values = {**row["varied"], "status": row["status"], **row["numbers"], "seconds": row["seconds"]}
    return [values.get(title) for title in titles]


def _plot(rows: Sequence[dict[str, Any]], number: str, path: Path) -> None:
    """Plot the metric against the varied key if exactly one key varies and its values are numeric.

    Otherwise, plot one dot per point.
    """
    from matplotlib.figure import Figure

    plotted = [row for row in rows if number in row["numbers"]]
    keys = _varied(rows)
    figure = Figure(figsize=(6, 3.2 if len(keys) == 1 else 1.2 + 0.3 * len(plotted)))
    axes = figure.subplots()
    places = _numeric(plotted, keys)
    values = [row["numbers"][number] for row in plotted]
    if places is not None:
        axes.plot(*zip(*sorted(zip(places, values, strict=True)), strict=True), marker="o")
        if min(places) > 0 and max(places) >= 10 * min(places):
            axes.set_xscale("log")
        axes.set_xlabel(keys[0])
        axes.set_ylabel(number)
    else:
        labels = [", ".join(f"{k.rpartition('.')[2]}={v}" for k, v in row["varied"].items()) for row in plotted]
        axes.plot(values, range(len(plotted)), "o")
        axes.set_yticks(range(len(plotted)), labels, fontsize=7)
        axes.set_xlabel(number)
        axes.invert_yaxis()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _numeric(rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> list[float] | None:
    if len(keys) != 1:
        return None
    try:
        return [float(row["varied"][keys[0]]) for row in rows]
    except (KeyError, ValueError):
        return None
