"""VSR, Visual Spatial Reasoning: is a statement about two objects true of the image?

Paper: Liu et al., TACL 2023 (arXiv 2205.00363). Data: ``cambridgeltl/vsr_zeroshot`` or ``vsr_random`` as ``test.jsonl``
of the repository's ``data/splits``, with COCO images. Counts of the test split: 2,195 statements in the random split,
1,222 in the zero-shot split (the README states 616). Chance: 50 (the accuracy of always answering "true" is 53.8 in the
random split and 51.5 in the zero-shot split). Human: 95.4. The kind of an item is its relation, and its tag is the
relation's category.

VSR contains only statements, so the wording of the questions was chosen for this project. Tests compare the accuracies
by relation and category with those of the authors' code on recorded predictions, and the parsed replies with those of
VLMEvalKit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scramble.evaluation.benchmarks.data import check_count, find_file, ids, json_rows, one_of, texts
from scramble.evaluation.benchmarks.image_files import item_images
from scramble.evaluation.benchmarks.item_checks import check_items
from scramble.evaluation.benchmarks.rejected import read_items
from scramble.evaluation.items import Benchmark, Item
from scramble.records import Question

QUESTION = "Is this statement true of the image? {statement}"
KNOWN = {2195: "vsr-random-test-2195", 1222: "vsr-zeroshot-test-1222", 616: "vsr-zeroshot-test-616"}
# The authors' categories. The authors list "among" in two categories, of which their code uses the later one.
CATEGORIES = {
    "Adjacency": "adjacent to, alongside, at the side of, at the right side of, at the left side of, attached to, "
    "at the back of, ahead of, against, at the edge of",
    "Directional": "off, past, toward, down, deep down, up, away from, along, around, from, into, to, across, "
    "across from, through, down from",
    "Orientation": "facing, facing away from, parallel to, perpendicular to",
    "Projective": "on top of, beneath, beside, behind, left of, right of, under, in front of, below, above, over, "
    "in the middle of",
    "Proximity": "by, close to, near, far from, far away from",
    "Topological": "connected to, detached from, has as a part, part of, contains, within, at, on, in, with, "
    "surrounding, consists of, out of, between, inside, outside, touching",
    "Unallocated": "beyond, next to, opposite to, after, among, enclosed by",
}
CATEGORY = {relation: name for name, listed in CATEGORIES.items() for relation in listed.split(", ")}


def load(root: str | Path, *, images: str | Path | None = None, partial: bool = False) -> Benchmark:
    """Load a split from its JSON lines file. ``images`` is the folder of COCO images (default: the file's folder)."""
    path = find_file("vsr", root, "test.jsonl", "*vsr*.jsonl")
    items = read_items("vsr", path, enumerate(json_rows("vsr", path)), _item, partial)
    files = item_images("vsr", images or path.parent, items)
    version = check_count("vsr", len(items), KNOWN, partial)
    checked = check_items("vsr", items)
    return Benchmark("vsr", version, checked, files, "plain", chance={"accuracy": 50.0}, human={"accuracy": 95.4})


def _item(number: int, row: dict[str, Any]) -> Item:
    where = f"row {number}"
    image, label = ids("vsr", row, where, "image", "label")
    statement, relation = texts("vsr", row, where, "caption", "relation")
    answer = {"1": "yes", "0": "no"}[one_of("vsr", where, "label", label, ("0", "1"))]
    tags = (f"category:{CATEGORY[relation]}",) if relation in CATEGORY else ()
    question = QUESTION.format(statement=statement)
    return Item(Question(str(number), (image,), question, answer, relation), "yes_no", tags=tags)
