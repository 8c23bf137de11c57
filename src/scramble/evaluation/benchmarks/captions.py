"""SugarCrepe and ARO: one image with one true and one false caption.

SugarCrepe. Paper: Hsieh et al., NeurIPS 2023 (arXiv 2306.14610). Data: the repository's ``data/*.json`` and COCO
val2017 images. Counts: add_att 692, add_obj 2,062, replace_att 788, replace_obj 1,652, replace_rel 1,406, swap_att 666,
swap_obj 245 (246 before one entry was removed; the keys are not contiguous). Chance: 50. Human: not published.

ARO. Paper: Yuksekgonul et al., ICLR 2023 (arXiv 2210.01936). Data: ``visual_genome_relation.json`` or
``visual_genome_attribution.json`` (image_path, true_caption, false_caption, bbox_*) and Visual Genome images, which are
cropped to the annotated box. Counts: not checked. Chance: 50. The paper reports a macro average over relations.

The scores of the two captions are compared strictly (``>``), as in SugarCrepe's ``main_eval.py``, so a tie counts as
wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scramble.evaluation.benchmarks.data import check_count, fields, find_file, ids, json_entries, json_rows, texts
from scramble.evaluation.benchmarks.image_files import CroppedImages, folder_images, item_images
from scramble.evaluation.benchmarks.item_checks import check_items
from scramble.evaluation.items import Benchmark, CaptionChoice, EvaluationError, Item
from scramble.records import ImageFile

KNOWN_COUNTS: dict[str, dict[int, str]] = {
    "add_att": {692: "692"},
    "add_obj": {2062: "2062"},
    "replace_att": {788: "788"},
    "replace_obj": {1652: "1652"},
    "replace_rel": {1406: "1406"},
    "swap_att": {666: "666"},
    "swap_obj": {245: "245", 246: "246"},
}
CHANCE = {"accuracy": 50.0, "accuracy_macro": 50.0}


def load_sugarcrepe(root: str | Path, *, images: str | Path | None = None, partial: bool = False) -> Benchmark:
    """Load all seven splits from the folder of their JSON files. ``images`` is the folder of COCO val2017 (default:
    ``root``).
    """
    items, counts = [], {}
    for split, versions in KNOWN_COUNTS.items():
        path = find_file("sugarcrepe", root, f"{split}.json")
        entries = json_entries("sugarcrepe", path)
        counts[split] = check_count("sugarcrepe", len(entries), versions, partial)
        for key, entry in entries.items():
            where = f"{split} entry {key}"
            (file,) = ids("sugarcrepe", entry, where, "filename")
            true, false = texts("sugarcrepe", entry, where, "caption", "negative_caption")
            items.append(Item(CaptionChoice(f"{split}/{key}", (file,), (true, false), 0, split), "captions"))
    files = item_images("sugarcrepe", images or root, items)
    is_partial = any(count.startswith("partial") for count in counts.values())
    version = f"sugarcrepe-partial-{len(items)}" if is_partial else f"sugarcrepe-swap_obj-{counts['swap_obj']}"
    return Benchmark("sugarcrepe", version, check_items("sugarcrepe", items), files, "macro", chance=CHANCE)


def load_aro(root: str | Path, *, images: str | Path | None = None, partial: bool = False) -> Benchmark:
    """Load ARO's relation or attribution part from its JSON file. Images are cropped to the annotated boxes."""
    path = find_file("aro", root, "visual_genome_relation.json", "visual_genome_attribution.json")
    rows = json_rows("aro", path)
    items, crops = [], {}
    for number, row in enumerate(rows):
        where = f"entry {number}"
        (image,) = ids("aro", row, where, "image_path")
        true, false = texts("aro", row, where, "true_caption", "false_caption")
        image_id = image
        if row.get("bbox_w") is not None:
            x, y, width, height = box = _box(row, where)
            image_id = f"{image}#{x},{y},{width},{height}"
            crops[image_id] = (image, box)
        kind = str(row.get("relation_name") or "_".join(map(str, _attributes(row, where))))
        items.append(Item(CaptionChoice(str(number), (image_id,), (true, false), 0, kind), "captions"))
    sources = [str(row["image_path"]) for row in rows]
    files: Mapping[str, ImageFile] = folder_images("aro", images or path.parent, sources)
    if crops:
        files = CroppedImages(files, crops)
    version = f"aro-{path.stem.rpartition('_')[2]}-{check_count('aro', len(items), {}, partial)}"
    return Benchmark("aro", version, check_items("aro", items), files, "macro", chance=CHANCE)


def _box(row: Mapping[str, Any], where: str) -> tuple[int, int, int, int]:
    sides = fields("aro", row, where, *(f"bbox_{side}" for side in "xywh"))
    try:
        x, y, width, height = (int(side) for side in sides)
    except (TypeError, ValueError, OverflowError) as error:
        raise EvaluationError(f"aro: {where}: the box {sides} is not four numbers: download the data again") from error
    if width <= 0 or height <= 0:
        raise EvaluationError(f"aro: {where} has an empty box ({width} x {height} pixels): download the data again")
    return x, y, width, height


def _attributes(row: Mapping[str, Any], where: str) -> list[Any]:
    attributes = row.get("attributes") or []
    if not isinstance(attributes, list):
        raise EvaluationError(
            f"aro: {where}: attributes is {attributes!r:.60}, which is not a list: download the data again"
        )
    return attributes
