"""CHAIR: COCO objects that a caption mentions but the image does not contain.

Paper: Rohrbach et al., EMNLP 2018 (arXiv 1809.02156). Data: COCO's ``instances_*.json`` and ``captions_*.json`` with
the images; ``selection`` names the images. Papers often use 500 images of val2014, but not the same images. Counts: as
selected. Chance: none. Human: not published. The default prompt is lmms-eval's prompt; papers use different prompts.

Scores: ``chair_s`` is the share of captions with a hallucinated object, and ``chair_i`` is the share of object mentions
that are hallucinated (lower is better for both). ``recall``, which is not in the paper, is the share of the image's
categories that are mentioned. An object is in the image if COCO annotates it or one of the reference captions mentions
it.

Tests compare the extracted words, both scores and recall with those of the authors' code on recorded captions. The
errors of the authors' code are reproduced ("bus" and "glass" are never counted in the singular). lmms-eval finds
different words, because it uses WordNet's lemmas.
"""

from __future__ import annotations

from pathlib import Path

from scramble.evaluation.benchmarks import coco_objects
from scramble.evaluation.benchmarks.data import check_count, find_file, json_rows, load_json
from scramble.evaluation.benchmarks.image_files import item_images
from scramble.evaluation.benchmarks.item_checks import check_items
from scramble.evaluation.items import Benchmark, EvaluationError, Item
from scramble.grading import objects
from scramble.records import Question
from scramble.storage.hashing import content_key

PROMPT = "Please describe this image in detail."


def load(
    root: str | Path,
    *,
    images: str | Path | None = None,
    selection: str | Path | None = None,
    prompt: str = PROMPT,
    partial: bool = False,
) -> Benchmark:
    """Load the COCO images to describe.

    Args:
        root: folder of the annotations.
        images: folder of the images (default: ``root``).
        selection: file that names the images by ``image_id`` (default: all annotated images). The file contains a JSON
            list, JSON lines, or entries under ``imgToEval``, as in CHAIR's caption files.
        prompt: the request for a caption.
        partial: skip images without ground truth.
    """
    if not prompt.strip():
        raise EvaluationError("chair: benchmark.chair.prompt is empty: set a prompt, or omit the key")
    selected = None if selection is None else _selected(Path(selection))
    coco = coco_objects.read("chair", root, objects.chair(), None if selected is None else set(selected))
    wheres = selected or dict.fromkeys(sorted(coco.files), "the annotations")
    items = []
    for image_id, where in wheres.items():
        try:
            truth = coco.truth("chair", where, image_id)
        except EvaluationError:
            if not partial:
                raise
            continue
        record = Question(str(image_id), (coco.files[image_id],), prompt, "")
        items.append(Item(record, "free", details={"rule": "chair", "truth": truth}))
    files = item_images("chair", images or root, items)
    key = content_key([item.item_id for item in items], prompt)[:8]
    version = f"chair-{check_count('chair', len(items), {}, partial)}-{key}"
    return Benchmark("chair", version, check_items("chair", items), files, "chair")


def _selected(path: Path) -> dict[int, str]:
    """Return a dictionary from the ids of the selected images to descriptions of their rows for error
    messages ("row 3 of <path>").
    """
    if not path.is_file():
        raise EvaluationError(f"chair: {path} is not a file: check benchmark.chair.selection")
    content = load_json("chair", find_file("chair", path))
    if isinstance(content, dict) and "imgToEval" in content:
        content = content["imgToEval"]
    if isinstance(content, dict):
        content = list(content.values())
    rows = json_rows("chair", path, content)
    selected = {}
    for number, row in enumerate(rows):
        where = f"row {number} of {path}"
        selected[coco_objects.image_number("chair", where, row)] = where
    return selected
