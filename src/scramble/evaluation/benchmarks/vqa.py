"""Open questions scored by VQA accuracy or exact match: VQAv2, OK-VQA, TextVQA, GQA.

VQAv2. Paper: Goyal et al., CVPR 2017 (arXiv 1612.00837). Data: ``lmms-lab-encoder/VQAv2``, or the official questions
and annotations JSON with COCO images. Counts: val 214,354; test has no public answers: no scores
but predictions for EvalAI (``handover=[evalai]``).
OK-VQA. Paper: Marino et al., CVPR 2019 (arXiv 1906.00067). Data: ``lmms-lab-encoder/OK-VQA``, or official JSON.
TextVQA. Paper: Singh et al., CVPR 2019 (arXiv 1904.08920). Data: ``lmms-lab-encoder/textvqa``, or official JSON.
GQA. Paper: Hudson and Manning, CVPR 2019 (arXiv 1902.09506). Data: ``lmms-lab-encoder/GQA``, testdev_balanced, or the
official questions JSON. Scored by exact match that ignores case and punctuation.
Counts of the last three: no primary source found, so any is taken and named. Chance: none. Human: not checked.

Compared with a reference implementation: accuracies on recorded outputs of five implementations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scramble.evaluation.benchmarks.data import (
    FolderImages,
    HubImages,
    check_count,
    fields,
    hub_rows,
    hub_rows_and_images,
    load_json,
    without_images,
)
from scramble.evaluation.items import Benchmark, EvaluationError, Item, check_items
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
    """VQAv2; ``split`` is ``validation``, or ``test`` for predictions only. ``images`` holds COCO images."""
    if split not in ("validation", "test"):
        raise EvaluationError(f"vqav2: split must be validation or test, not {split!r}")
    known = {214354: "vqav2-val-214354"} if split == "validation" else {}
    return _annotated("vqav2", "lmms-lab-encoder/VQAv2", split, root, images, known, partial)


def load_okvqa(root: str | Path | None = None, *, images: str | Path | None = None, partial: bool = False) -> Benchmark:
    """OK-VQA val2014, with lmms-eval's sentence on missing information in the prompt."""
    details = {"suffix": UNANSWERABLE + SHORT}
    return _annotated("okvqa", "lmms-lab-encoder/OK-VQA", "val2014", root, images, {}, partial, details)


def load_textvqa(
    root: str | Path | None = None, *, images: str | Path | None = None, partial: bool = False
) -> Benchmark:
    """TextVQA validation; no OCR tokens in the prompt."""
    return _annotated("textvqa", "lmms-lab-encoder/textvqa", "validation", root, images, {}, partial)


def _annotated(
    name: str,
    hub_id: str,
    split: str,
    root: str | Path | None,
    images: str | Path | None,
    known: Mapping[int, str],
    partial: bool,
    details: Mapping[str, Any] | None = None,
) -> Benchmark:
    files: Mapping[str, ImageFile]
    if root is not None and list(Path(root).glob("*.json")):
        rows = _official_rows(name, Path(root), "test" if split == "test" else "val")
        files = FolderImages(name, Path(images or root), [row["image_name"] for row in rows])
    else:
        wanted = ("question_id", "question", "image")
        rows, files = hub_rows_and_images(name, hub_id, split, root, wanted, "image_id")
    scored = split != "test"
    items = [_annotated_item(name, row, dict(details or {}), scored) for row in rows]
    version = check_count(name, len(items), known, partial)
    version = version if scored else f"{name}-test-{version}"
    return Benchmark(name, version, check_items(name, items), files, "plain")


def _official_rows(name: str, root: Path, split: str) -> list[dict[str, Any]]:
    """Rows of the official JSON files: questions and annotations apart, or TextVQA's ``data`` with both."""
    questions: dict[str, dict[str, Any]] = {}
    for path in sorted(root.glob("*.json")):
        content = load_json(name, path)
        found = (
            content.get("questions") or content.get("annotations") or content.get("data")
            if isinstance(content, dict)
            else None
        )
        for row in found or ():
            (key,) = fields(name, row, f"an entry of {path.name}", "question_id")
            questions.setdefault(str(key), {}).update(row)
    if not questions:
        raise EvaluationError(f"{name}: no JSON file in {root} has questions, annotations or data")
    for key, row in questions.items():
        (image,) = fields(name, row, f"question {key}", "image_id")
        row["image_name"] = f"COCO_{COCO[split]}_{int(image):012d}" if str(image).isdigit() else str(image)
    return list(questions.values())


def _annotated_item(name: str, row: Mapping[str, Any], details: dict[str, Any], scored: bool) -> Item:
    key, question = fields(name, row, f"question {row.get('question_id')}", "question_id", "question")
    answers = tuple(a["answer"] if isinstance(a, Mapping) else str(a) for a in row.get("answers") or ())
    if not answers and scored:
        raise EvaluationError(
            f"{name}: question {key} has no answers; download the annotations, or set benchmark.{name}.split=test for "
            "predictions without scores"
        )
    target = str(row.get("multiple_choice_answer") or (max(answers, key=answers.count) if answers else ""))
    if name == "textvqa":
        question = question.capitalize()
    kind = str(row.get("answer_type") or "")
    tags = (f"question:{row['question_type']}",) if row.get("question_type") else ()
    record = Question(str(key), (row["image_name"],), question, target, kind, answers)
    return Item(record, "short", tags=tags, details={"rule": "vqa" if scored else "unscored", **details})


def load_gqa(root: str | Path | None = None, *, images: str | Path | None = None, partial: bool = False) -> Benchmark:
    """GQA testdev-balanced from the hub, or from ``testdev_balanced_questions.json`` and an image folder."""
    files: Mapping[str, ImageFile]
    rows: Sequence[Mapping[str, Any]]
    listing = sorted(Path(root).rglob("*balanced_questions.json")) if root is not None else []
    if listing:
        content = load_json("gqa", listing[0])
        rows = [{"id": key, **row} for key, row in content.items()]
        files = FolderImages("gqa", Path(images or listing[0].parent), [str(row["imageId"]) for row in rows])
    else:
        rows = list(
            hub_rows(
                "gqa", "lmms-lab-encoder/GQA", "testdev", _part(root, "instructions"), "testdev_balanced_instructions"
            )
        )
        pictures = hub_rows("gqa", "lmms-lab-encoder/GQA", "testdev", _part(root, "images"), "testdev_balanced_images")
        files = hub = HubImages(pictures)
        for n, row in enumerate(without_images(pictures)):
            hub.add(str(row["id"]), n, "image")
    items = []
    for row in rows:
        key, question, image, answer = fields(
            "gqa", row, f"question {row.get('id')}", "id", "question", "imageId", "answer"
        )
        record = Question(str(key), (str(image),), question, str(answer))
        items.append(Item(record, "short", details={"rule": "exact"}))
    version = f"gqa-testdev-balanced-{check_count('gqa', len(items), {}, partial)}"
    return Benchmark("gqa", version, check_items("gqa", items), files, "plain")


def _part(root: str | Path | None, part: str) -> Path | None:
    """The sub-folder of a local copy that holds one configuration of the hub data set."""
    if root is None:
        return None
    found = [p for p in Path(root).iterdir() if p.is_dir() and p.name.endswith(part)]
    if not found:
        raise EvaluationError(f"gqa: no folder ending in {part} below {root}")
    return found[0]
