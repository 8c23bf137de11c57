"""Draw the picture at the top of the README: a preference pair, and the scores of docs/results/world.md.

    python scripts/dev/draw_overview.py        # writes docs/images/overview.png

The pair is from the embedded world. Its image is drawn larger than in training. The bars and 95 % intervals show the
row "object swaps" of the table "five seeds" in docs/results/world.md.
"""

from __future__ import annotations

import io
import re
import tempfile
from pathlib import Path

import matplotlib
from PIL import Image

import scramble
from scramble.project import ROOT
from scramble.records import ImageRecord, PreferencePair
from scramble.reporting.figures import PALETTE
from scramble.storage.tables import read_table

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.offsetbox import AnchoredOffsetbox, HPacker, TextArea, VPacker

GOOD, BAD, GREY = "#1a7f37", "#b42318", "#57606a"
CHANCE = 16.7
WIDTH = 26  # characters per line of a caption


def scores() -> dict[str, tuple[float, float]]:
    """Return the score and the standard error of each method in percent, as read from docs/results/world.md."""
    text = (ROOT / "docs" / "results" / "world.md").read_text(encoding="utf-8")
    head, _, row = re.search(r"^\| five seeds.*?^\| object swaps.*?$", text, re.M | re.S)[0].splitlines()[:3]
    names = [cell.strip() for cell in head.split("|")[2:6]]
    cells = [re.findall(r"[\d.]+", cell) for cell in row.split("|")[2:6]]
    return {name: (float(value), float(error)) for name, (value, error) in zip(names, cells, strict=True)}


def example() -> tuple[Image.Image, PreferencePair]:
    """Return an image of the embedded world and a pair with an object swap."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {"n_train": 12, "n_val": 2, "n_test": 2, "quads_val": 1, "quads_test": 1, "image_size": 240}
        scramble.make_pairs(folder, "world_tiny", "world_swaps", data_settings=settings)
        train = Path(folder) / "train"
        pair = next(p for p in read_table(train, PreferencePair) if p.kind == "swap-object" and "left of" in p.chosen)
        record = next(r for r in read_table(train, ImageRecord) if r.image_id == pair.image_ids[0])
        return Image.open(io.BytesIO(record.image.read())).convert("RGB"), pair


def caption_box(label: str, text: str, spans: list[tuple[int, int]], colour: str) -> VPacker:
    """Return a box with a label above a caption whose changed spans are bold and in colour."""
    lines: list[list[TextArea]] = [[]]
    length = 0
    for word in re.finditer(r"\S+", text):
        if length + len(word[0]) > WIDTH:
            lines.append([])
            length = 0
        length += len(word[0]) + 1
        changed = any(start < word.end() and word.start() < end for start, end in spans)
        style = {"color": colour, "weight": "bold"} if changed else {"color": "black"}
        lines[-1].append(TextArea(word[0], textprops={"fontsize": 13, **style}))
    title = TextArea(label, textprops={"fontsize": 11, "color": colour})
    rows = [HPacker(children=line, pad=0, sep=5, align="baseline") for line in lines]
    return VPacker(children=[title, *rows], pad=0, sep=6, align="left")


def main() -> None:
    """Draw the picture."""
    image, pair = example()
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(11, 3.1), width_ratios=[1, 1.25, 1.7], layout="constrained"
    )
    left.imshow(image)
    left.set_title("1. an image", loc="left", fontsize=12)
    left.set_xticks([])
    left.set_yticks([])
    middle.set_title("2. a preference pair (object swap)", loc="left", fontsize=12)
    middle.axis("off")
    captions = [
        caption_box("chosen", pair.chosen, [edit.chosen for edit in pair.edits], GOOD),
        caption_box("rejected", pair.rejected, [edit.rejected for edit in pair.edits], BAD),
    ]
    middle.add_artist(AnchoredOffsetbox("upper left", child=VPacker(children=captions, pad=0, sep=18), frameon=False))
    measured = scores()
    colours = [GREY, *(PALETTE[n][0] for n in range(3))]
    right.bar(
        list(measured),
        [value for value, _ in measured.values()],
        yerr=[1.96 * error for _, error in measured.values()],
        color=colours,
        width=0.65,
        error_kw={"capsize": 4, "lw": 1.2},
    )
    for place, (value, error) in enumerate(measured.values()):
        right.text(place, value + 1.96 * error + 1.5, f"{value:.0f}", ha="center", fontsize=11)
    right.axhline(CHANCE, color="black", lw=0.8, ls=":")
    right.text(3.45, CHANCE, " chance", va="center", fontsize=9)
    right.set_title("3. object swaps solved, in percent", loc="left", fontsize=12)
    right.set(xlim=(-0.5, 3.45), ylim=(0, 66))
    right.spines[["top", "right"]].set_visible(False)
    figure.savefig(ROOT / "docs" / "images" / "overview.png", dpi=150, facecolor="white")
    print(f"written: docs/images/overview.png ({pair.chosen} / {pair.rejected})")


if __name__ == "__main__":
    main()
