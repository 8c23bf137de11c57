"""What'sUp: which of several captions that differ only in a spatial preposition is true?

Paper: Kamath et al., EMNLP 2023 (arXiv 2310.19785). Data: ``controlled_images_dataset.json`` (A) and
``controlled_clevr_dataset.json`` (B) with their images, ``coco_qa_{one,two}_obj.json`` with COCO val2017 images, and
``vg_qa_{one,two}_obj.json`` (GQA) with Visual Genome images. Sets whose file is missing are skipped. Counts: not
published in the repository; the data version records the number of items. Chance: 25 in A and B (pairs 6.25, sets of
four 0.39), 50 in the COCO and GQA sets. Human: not published. The images of pillow_left_of_chair and
pillow_right_of_chair are swapped in the data (issue 4 of the repository). ``labels=corrected`` swaps the two images
back, and ``labels=original`` keeps the error.

The kind of an item is its set, and its tag consists of the set and the preposition. In A and B, ``pair_accuracy`` is
the share of pairs of opposite prepositions (left and right; on and under, or in front and behind) with both items
right, and ``set_accuracy`` is the share of sets of four with all items right. Tests compare all scores with those of
the authors' code on recorded matrices under ``protocol=whatsup``. This protocol counts a tie with the true caption as
right, whereas ``protocol=standard`` counts it as wrong.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

from scramble.evaluation.benchmarks import lettered
from scramble.evaluation.benchmarks.data import check_count, check_option, find_file, ids, json_rows, load_json
from scramble.evaluation.benchmarks.image_files import item_images
from scramble.evaluation.benchmarks.item_checks import check_items
from scramble.evaluation.benchmarks.rejected import RejectedRows
from scramble.evaluation.items import Benchmark, CaptionChoice, EvaluationError, Item

CONTROLLED = {"controlled_a": "controlled_images_dataset.json", "controlled_b": "controlled_clevr_dataset.json"}
QUESTIONS = {
    f"{source}_qa_{count}_obj": f"{source}_qa_{count}_obj.json" for source in ("coco", "vg") for count in ("one", "two")
}
PREPOSITIONS = ("left_of", "right_of", "in-front_of", "behind", "under", "on")
SWAPPED = {"pillow_left_of_chair": "pillow_right_of_chair", "pillow_right_of_chair": "pillow_left_of_chair"}


def load(
    root: str | Path, *, images: str | Path | None = None, labels: str = "corrected", partial: bool = False
) -> Benchmark:
    """Load the sets whose files are below ``root``. ``images`` is the folder of all images (default: ``root``)."""
    check_option("whatsup", "labels", labels, ("corrected", "original"))
    items: list[Item] = []
    for kind, file in (CONTROLLED | QUESTIONS).items():
        if not Path(root).is_dir() or not any(Path(root).rglob(file)):
            continue
        path = find_file("whatsup", root, file)
        bad = RejectedRows("whatsup", path)
        rows = json_rows("whatsup", path) if kind in CONTROLLED else _triples(path)
        before = len(items)
        for number, row in enumerate(rows):
            with bad.row(number):
                if kind in CONTROLLED:
                    items.append(_controlled(kind, number, row, labels))
                else:
                    items.append(_question(kind, number, row))
        bad.finish(len(items) - before, partial)
    if not items:
        listed = ", ".join((CONTROLLED | QUESTIONS).values())
        raise EvaluationError(f"whatsup: none of {listed} is below {root}: check benchmark.whatsup.root")
    files = item_images("whatsup", images or root, items)
    version = f"whatsup-{labels}-{check_count('whatsup', len(items), {}, partial)}"
    checked = check_items("whatsup", items)
    return Benchmark("whatsup", version, checked, files, "whatsup", chance=_chance(items))


def _chance(items: list[Item]) -> dict[str, float]:
    single = lettered.levels("accuracy", ((item, 25.0 if item.kind in CONTROLLED else 50.0) for item in items))
    return {**single, "pair_accuracy": 100 / 4**2, "set_accuracy": 100 / 4**4}


def _controlled(kind: str, number: int, row: dict[str, Any], labels: str) -> Item:
    """Return an item of A or B. The group of an item consists of the four images of its two objects. The objects are
    the first and the last part of an image's name.
    """
    where = f"{kind} entry {number}"
    (image,) = ids("whatsup", row, where, "image_path")
    captions = row.get("caption_options")
    if not isinstance(captions, list) or not _are_texts(captions, 4):
        raise EvaluationError(
            f"whatsup: {where}: caption_options is not a list of four captions: download the data again"
        )
    name = PurePosixPath(image).stem
    if kind == "controlled_a" and labels == "corrected" and name in SWAPPED:
        image = image.replace(name, SWAPPED[name])
    choice = CaptionChoice(f"{kind}/{name}", (image,), tuple(captions), 0, kind)
    parts = name.split("_")
    preposition = next((known for known in PREPOSITIONS if f"_{known}_" in name), None)
    if preposition is None:
        raise EvaluationError(
            f"whatsup: {where}: the image name {image!r:.80} contains none of {', '.join(PREPOSITIONS)}: download the "
            "data again"
        )
    return Item(choice, "captions", group=f"{kind}/{parts[0]}/{parts[-1]}", tags=(f"{kind}/{preposition}",))


def _are_texts(values: list[Any], count: int) -> bool:
    return len(values) == count and all(isinstance(value, str) and value.strip() for value in values)


def _question(kind: str, number: int, row: list[Any]) -> Item:
    """Return an item of the COCO or GQA sets, whose rows are [image id, true caption, false caption]."""
    if not isinstance(row, list) or not _are_texts(row[1:], 2):
        raise EvaluationError(
            f"whatsup: {kind} entry {number} is not [image id, true caption, false caption]: download the data again"
        )
    image, true, false = row
    of_coco = kind.startswith("coco") and re.fullmatch(r"\d{1,12}", str(image), re.ASCII)
    name = f"val2017/{int(image):012d}.jpg" if of_coco else f"vg_images/{image}.jpg"
    choice = CaptionChoice(f"{kind}/{number}", (name,), (true, false), 0, kind)
    return Item(choice, "captions", tags=(f"{kind}/{_preposition(kind, true)}",))


def _preposition(kind: str, caption: str) -> str:
    if "_one_" in kind:
        return caption.split()[-1]
    further = ("above", "below") if kind.startswith("coco") else ("front", "behind", "top")
    known = ("left", "right", *further)
    marks = {"left": "left of", "right": "right of", "front": "front of"}
    return next((name for name in known if marks.get(name, name) in caption), known[-1])


def _triples(path: Path) -> list[Any]:
    rows = load_json("whatsup", path)
    if not isinstance(rows, list):
        raise EvaluationError(
            f"whatsup: {path} is not a list of [image id, true caption, false caption]: download the file again"
        )
    return rows
