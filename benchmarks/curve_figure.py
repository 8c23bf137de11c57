"""Plot the result of benchmarks/preference_step.py --curve: pairs per second by pairs per image and by image tokens.

python benchmarks/curve_figure.py curve.json docs/results/speed_curve.svg
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

NAMES = {"trl": "TRL", "trl-checkpointing": "TRL, checkpointing", "scramble": "SCRAMBLe"}


def main() -> None:
    """Parse the command line and draw the figure."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curve", help="JSON file written by preference_step.py --curve")
    parser.add_argument("figure", help="SVG file to write")
    args = parser.parse_args()
    report: dict[str, Any] = json.loads(Path(args.curve).read_text())
    plt.rcParams |= {"svg.hashsalt": "speed", "font.size": 9}
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True)
    for axis, part, key, label in (
        (axes[0], "by_captions", "captions", "pairs per image"),
        (axes[1], "by_image_tokens", "image_tokens", "image tokens (one pair per image)"),
    ):
        rows = report[part]
        ticks = [row[key] for row in rows]
        for name, shown in NAMES.items():
            values = [row[name]["pairs_per_second"] for row in rows]
            axis.plot(ticks, values, marker="o", markersize=3, label=shown)
            if name == "scramble":
                best = [max(row[other]["pairs_per_second"] for other in NAMES if other != name) for row in rows]
                for tick, value, other in zip(ticks, values, best, strict=True):
                    place = {"xytext": (0, 4), "textcoords": "offset points", "ha": "center"}
                    axis.annotate(f"{value / other:.1f}x", (tick, value), **place)
        axis.set(xscale="log", yscale="log", xlabel=label)
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
        axis.margins(0.1, 0.15)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("pairs per second")
    axes[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(args.figure, metadata={"Date": None})


if __name__ == "__main__":
    main()
