"""VisMin: 2x2 sets with minimal changes of an object, an attribute, a spatial relation or a count.

Paper: Awal et al., NeurIPS 2024 (arXiv 2407.16772). Data: ``mair-lab/vismin-bench`` as the repository's files
``object.csv``, ``attribute.csv``, ``relation.csv`` and ``counting.csv`` with ``original_images/`` and
``edited_images/``. Counts: 2,084 items. Chance: text 25, image 25, group 16.67, group matching 50. Human: per split in
``HUMAN`` (project page). The kind of an item is its split.

``protocol=vismin`` asks the paper's questions for multimodal language models and parses the replies by the paper's
rule. As in the authors' code, the reply "not first but second" counts as a choice of both images. Tests compare the
three scores of recorded matrices, and the answers parsed from recorded replies, with those of the authors' code.
"""

from __future__ import annotations

from pathlib import Path

from scramble.evaluation.benchmarks.data import benchmark_csv_rows, check_count, find_file, ids, texts
from scramble.evaluation.benchmarks.image_files import item_images
from scramble.evaluation.benchmarks.item_checks import check_items
from scramble.evaluation.benchmarks.rejected import RejectedRows
from scramble.evaluation.items import Benchmark, Item
from scramble.evaluation.scoring.metrics import TWO_BY_TWO_CHANCE
from scramble.records import TwoByTwoItem

VISMIN_SPLITS = ("object", "attribute", "relation", "counting")
_HUMAN = ((86.87, 95.50, 83.07), (82.31, 91.15, 76.87), (81.67, 92.76, 76.20), (88.96, 96.77, 86.41))
HUMAN = {
    f"{score}/{split}": value
    for split, values in zip(VISMIN_SPLITS, _HUMAN, strict=True)
    for score, value in zip(("text", "image", "group"), values, strict=True)
}


def load(root: str | Path, *, images: str | Path | None = None, partial: bool = False) -> Benchmark:
    """Load the four splits from the folder of their CSV files. ``images`` contains the two image folders (default:
    ``root``).
    """
    items: list[Item] = []
    for split in VISMIN_SPLITS:
        path = find_file("vismin", root, f"{split}.csv")
        bad = RejectedRows("vismin", path)
        before = len(items)
        for number, row in enumerate(benchmark_csv_rows("vismin", path), 1):
            with bad.row(number):
                where = f"row {number} of {path.name}"
                first, second, key = ids("vismin", row, where, "image_path", "edited_image_path", "edit_id")
                one, two = texts("vismin", row, where, "caption", "edited_caption")
                names = (f"original_images/{first.lstrip('/')}", f"edited_images/{second.lstrip('/')}")
                items.append(Item(TwoByTwoItem(f"{split}/{key}", names, (one, two), split), "quad"))
        bad.finish(len(items) - before, partial)
    files = item_images("vismin", images or root, items)
    version = check_count("vismin", len(items), {2084: "vismin-2084"}, partial)
    checked = check_items("vismin", items)
    return Benchmark("vismin", version, checked, files, "plain", chance=TWO_BY_TWO_CHANCE, human=HUMAN)
