"""SugarCrepe++: two true captions, which differ in wording, against one false caption.

Paper: Dumpala et al., NeurIPS 2024 (arXiv 2406.11171). Data: ``Aman-J/SugarCrepe_pp`` or the repository's
``data/<split>.json`` with COCO val2017 images. Counts: swap_obj 245, swap_att 666, replace_obj 1,652, replace_att 788,
replace_rel 1,406. Chance: 33.33 for both captions, 50 for each caption. Human: not published.

``itt`` (image-to-text) is 1 if both true captions score above the false caption. ``first_caption`` is 1 if the first
true caption scores above the false caption, and ``second_caption`` is 1 if the second true caption does. The paper's
text-only task is not computed, because it compares sentence embeddings, which generative models do not provide.
Tests compare the three outcomes with those of the authors' code on recorded scores.
"""

from __future__ import annotations

from pathlib import Path

from scramble.evaluation.benchmarks.data import check_count, find_file, ids, json_rows, texts
from scramble.evaluation.benchmarks.image_files import item_images
from scramble.evaluation.benchmarks.item_checks import check_items
from scramble.evaluation.benchmarks.rejected import RejectedRows
from scramble.evaluation.items import Benchmark, CaptionChoice, Item

SUBSET_SIZES = {"swap_obj": 245, "swap_att": 666, "replace_obj": 1652, "replace_att": 788, "replace_rel": 1406}
CHANCE = {"itt": 100 / 3, "first_caption": 50.0, "second_caption": 50.0}


def load(root: str | Path, *, images: str | Path | None = None, partial: bool = False) -> Benchmark:
    """Load the five splits from the folder of their JSON files. ``images`` is the folder of COCO val2017 (default:
    ``root``).
    """
    items: list[Item] = []
    for split, count in SUBSET_SIZES.items():
        path = find_file("sugarcrepe_pp", root, f"{split}.json")
        bad = RejectedRows("sugarcrepe_pp", path)
        before = len(items)
        for number, row in enumerate(json_rows("sugarcrepe_pp", path)):
            with bad.row(number):
                where = f"{split} entry {number}"
                key, file = ids("sugarcrepe_pp", row, where, "id", "filename")
                captions = texts("sugarcrepe_pp", row, where, "caption", "caption2", "negative_caption")
                choice = CaptionChoice(f"{split}/{key}", (file,), tuple(captions), 0, split)
                items.append(Item(choice, "captions", details={"true_captions": 2}))
        bad.finish(len(items) - before, partial)
        check_count(f"sugarcrepe_pp: {split}", len(items) - before, {count: ""}, partial)
    files = item_images("sugarcrepe_pp", images or root, items)
    version = check_count("sugarcrepe_pp", len(items), {4757: "sugarcrepe_pp-4757"}, partial)
    checked = check_items("sugarcrepe_pp", items)
    return Benchmark("sugarcrepe_pp", version, checked, files, "plain", chance=CHANCE)
