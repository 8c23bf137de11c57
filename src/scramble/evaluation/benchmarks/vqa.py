"""Open questions scored by VQA accuracy or exact match: VQAv2, OK-VQA, TextVQA, GQA.

VQAv2. Paper: Goyal et al., CVPR 2017 (arXiv 1612.00837). Data: ``lmms-lab-encoder/VQAv2``, or the official JSON files
of questions and annotations with COCO images. Counts: 214,354 questions (val). The answers of the test split are not
public, so the predictions for this split are only exported to EvalAI (``export_predictions=[evalai]``), not scored.

OK-VQA. Paper: Marino et al., CVPR 2019 (arXiv 1906.00067). Data: ``lmms-lab-encoder/OK-VQA``, or the official JSON
files.

TextVQA. Paper: Singh et al., CVPR 2019 (arXiv 1904.08920). Data: ``lmms-lab-encoder/textvqa``, or the official JSON
files.

GQA. Paper: Hudson and Manning, CVPR 2019 (arXiv 1902.09506). Data: ``lmms-lab-encoder/GQA``, testdev_balanced, or the
official JSON file of questions. Answers are scored by exact match, which ignores case and punctuation.

Counts of OK-VQA, TextVQA and GQA: no primary source was found, so any number of questions is accepted and recorded.
Chance: none. Human: not checked. Tests compare the accuracies with recorded outputs of five implementations.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scramble.evaluation.benchmarks.data import (
    HubImages,
    check_count,
    check_option,
    columns,
    hub_rows,
    hub_rows_and_images,
    ids,
    json_entries,
    json_rows,
    load_json,
    text_rows,
    texts,
)
from scramble.evaluation.benchmarks.image_files import folder_images
from scramble.evaluation.benchmarks.item_checks import check_items
from scramble.evaluation.items import Benchmark, EvaluationError, Item
from scramble.records import ImageFile, Question

UNANSWERABLE = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."
SHORT = "\nAnswer the question using a single word or phrase."
COCO = {"val": "val2014", "test": "test2015"}


def load_vqav2(
    root: str | Path | None = None,
    *,
    images: str | Path | None = None,
    split: str = "validation",
    partial: bool = False,
) -> Benchmark:
    """Load VQAv2. ``split`` is ``validation``, or ``test`` for predictions only. ``images`` is the folder of COCO
    images.
    """
    check_option("vqav2", "split", split, ("validation", "test"))
    versions = {214354: "vqav2-val-214354"} if split == "validation" else {}
    return _annotated("vqav2", "lmms-lab-encoder/VQAv2", split, root, images, versions, partial)


def load_okvqa(root: str | Path | None = None, *, images: str | Path | None = None, partial: bool = False) -> Benchmark:
    """Load OK-VQA val2014. The prompt contains lmms-eval's instruction for questions that cannot be answered."""
    details = {"suffix": UNANSWERABLE + SHORT}
    return _annotated("okvqa", "lmms-lab-encoder/OK-VQA", "val2014", root, images, {}, partial, details)


def load_textvqa(
    root: str | Path | None = None, *, images: str | Path | None = None, partial: bool = False
) -> Benchmark:
    """Load TextVQA validation, without OCR tokens in the prompt."""
    return _annotated("textvqa", "lmms-lab-encoder/textvqa", "validation", root, images, {}, partial)


def _annotated(
    name: str,
    hub_id: str,
    split: str,
    root: str | Path | None,
    images: str | Path | None,
    versions: Mapping[int, str],
    partial: bool,
    details: Mapping[str, Any] | None = None,
) -> Benchmark:
    files: Mapping[str, ImageFile]
    if root is not None and list(Path(root).glob("*.json")):
        rows = _official_rows(name, Path(root), "test" if split == "test" else "val")
        files = folder_images(name, images or root, [row["image_name"] for row in rows])
    else:
        required = ("question_id", "question", "image")
        rows, files = hub_rows_and_images(name, hub_id, split, root, required, "image_id")
    scored = split != "test"
    items = [_annotated_item(name, row, dict(details or {}), scored) for row in rows]
    version = check_count(name, len(items), versions, partial)
    version = version if scored else f"{name}-test-{version}"
    return Benchmark(name, version, check_items(name, items), files, "plain")


def _official_rows(name: str, root: Path, split: str) -> list[dict[str, Any]]:
    """Return the rows of the official JSON files of a split. Questions and annotations are in separate files, or both
    in ``data`` (TextVQA).
    """
    questions: dict[str, dict[str, Any]] = {}
    others: set[str] = set()
    for path in sorted(root.glob("*.json")):
        content = load_json(name, path)
        lists = [
            content[k] for k in ("questions", "annotations", "data") if isinstance(content, dict) and content.get(k)
        ]
        if lists and (other := _split_of(path, content)) not in (None, split):
            others.add(f"{path.name} ({other})")
            continue
        for number, row in enumerate(json_rows(name, path, lists[0]) if lists else ()):
            (key,) = ids(name, row, f"entry {number} of {path.name}", "question_id")
            merged = questions.setdefault(key, {})
            if "image_id" in merged.keys() & row.keys() and str(merged["image_id"]) != str(row["image_id"]):
                raise EvaluationError(
                    f"{name}: question {key} is about image {row['image_id']} in {path.name} and about image "
                    f"{merged['image_id']} in another file of {root}: use questions and annotations of the same version"
                )
            merged.update(row)
    if not questions and others:
        raise EvaluationError(
            f"{name}: {root} contains no questions of the split {split}, only of {', '.join(sorted(others))}: check "
            f"benchmark.{name}.root"
        )
    if not questions:
        raise EvaluationError(
            f"{name}: no JSON file in {root} contains questions, annotations or data: check benchmark.{name}.root"
        )
    for key, row in questions.items():
        (image,) = ids(name, row, f"question {key}", "image_id")
        # Only TextVQA's ids are file names (of Open Images); some of them consist of digits only.
        row["image_name"] = image if name == "textvqa" or not image.isdecimal() else coco_name(split, image)
    return list(questions.values())


def _split_of(path: Path, content: Mapping[str, Any]) -> str | None:
    """Return the split of an official file (``train``, ``val`` or ``test``) according to a field of the file or, if the
    file has no such field, according to the file name. Return None if neither names a split.
    """
    label = str(content.get("data_subtype") or content.get("dataset_type") or path.stem)
    match = re.search(r"(?<![a-z])(train|val|test)(?![a-z])", label.lower().replace("validation", "val"))
    return match[1] if match else None


def coco_name(split: str, image_id: str) -> str:
    """Return the file name of a COCO image, without suffix."""
    return f"COCO_{COCO[split]}_{int(image_id):012d}"


def _annotated_item(name: str, row: dict[str, Any], details: dict[str, Any], scored: bool) -> Item:
    where = f"question {row.get('question_id')}"
    (key,), (question,) = ids(name, row, where, "question_id"), texts(name, row, where, "question")
    answers = _answers(name, row, where)
    if not answers and scored:
        raise EvaluationError(
            f"{name}: question {key} has no answers: download the annotations"
            + (", or set benchmark.vqav2.split=test for predictions without scores" if name == "vqav2" else "")
        )
    target = str(row.get("multiple_choice_answer") or (max(answers, key=answers.count) if answers else ""))
    if name == "textvqa":
        question = question.capitalize()
    kind = str(row.get("answer_type") or "")
    tags = (f"question:{row['question_type']}",) if row.get("question_type") else ()
    record = Question(key, (row["image_name"],), question, target, kind, answers)
    return Item(record, "short", tags=tags, details={"rule": "vqa" if scored else "unscored", **details})


def _answers(name: str, row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Return the annotators' answers. In the row, each answer is a string, a number, or an object with a string or
    number as ``answer``. An answer may be empty ("").
    """
    annotations = row.get("answers") or []
    if not isinstance(annotations, list):
        raise EvaluationError(
            f"{name}: {where}: answers is {annotations!r:.60}, which is not a list: download the data again"
        )
    answers = [answer.get("answer") if isinstance(answer, Mapping) else answer for answer in annotations]
    if bad := [a for a in answers if isinstance(a, bool) or not isinstance(a, (str, int, float)) or a != a]:  # NaN
        raise EvaluationError(
            f"{name}: {where}: an answer is {bad[0]!r:.60}, which is neither a string nor a number: download the data "
            "again"
        )
    return tuple(str(answer) for answer in answers)


def load_gqa(root: str | Path | None = None, *, images: str | Path | None = None, partial: bool = False) -> Benchmark:
    """Load GQA testdev-balanced from the hub, or from ``testdev_balanced_questions.json`` and an image folder."""
    files: Mapping[str, ImageFile]
    rows: list[dict[str, Any]]
    listing = sorted(Path(root).rglob("*balanced_questions.json")) if root is not None else []
    if listing:
        rows = [{"id": key, **row} for key, row in json_entries("gqa", listing[0]).items()]
        names = [ids("gqa", row, f"question {row['id']}", "imageId")[0] for row in rows]
        files = folder_images("gqa", images or listing[0].parent, names)
    else:
        hub_id, instructions = "lmms-lab-encoder/GQA", "testdev_balanced_instructions"
        rows = text_rows("gqa", hub_rows("gqa", hub_id, "testdev", _part(root, "instructions"), instructions))
        pictures = hub_rows("gqa", hub_id, "testdev", _part(root, "images"), "testdev_balanced_images")
        columns("gqa", pictures, ("id", "image"))
        files = hub = HubImages(pictures)
        for n, row in enumerate(text_rows("gqa", pictures)):
            hub.add(ids("gqa", row, f"image {n}", "id")[0], n, "image")
    items = []
    for row in rows:
        where = f"question {row.get('id')}"
        key, image, answer = ids("gqa", row, where, "id", "imageId", "answer")
        if image not in files:
            raise EvaluationError(f"gqa: {where}: there is no image {image!r}: finish the download")
        (question,) = texts("gqa", row, where, "question")
        record = Question(key, (image,), question, answer)
        items.append(Item(record, "short", details={"rule": "exact"}))
    version = f"gqa-testdev-balanced-{check_count('gqa', len(items), {}, partial)}"
    return Benchmark("gqa", version, check_items("gqa", items), files, "plain")


def _part(root: str | Path | None, part: str) -> Path | None:
    """Return the sub-folder of ``root`` with one configuration of the hub data set, or None if ``root`` is None."""
    if root is None:
        return None
    folder = Path(root)
    folders = [p for p in sorted(folder.iterdir()) if p.is_dir() and p.name.endswith(part)] if folder.is_dir() else []
    if not folders:
        raise EvaluationError(
            f"gqa: no folder in {root} has a name that ends in {part}: set benchmark.gqa.root to a copy of "
            "lmms-lab-encoder/GQA"
        )
    return folders[0]
