"""POPE: is an object in the image?

Paper: Li et al., EMNLP 2023 (arXiv 2305.10355). Data: ``lmms-lab-encoder/POPE``, split test, or the repository's
``coco_pope_{random,popular,adversarial}.json`` (JSON lines) with COCO val2014 images, or VLMEvalKit's ``POPE.tsv``.
Counts: three parts of 3,000 questions each (5,127 unique image-question pairs). The random part originally had 2,910
questions. Chance: accuracy 50. Human: not published. Headline: the mean of the three F1 scores (``f1_mean``).

Tests compare the outputs of the parsers with recorded outputs of four implementations, and the F1 of published
confusion counts (LLaVA, issue 626) with the published F1.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scramble.evaluation.benchmarks.data import check_count, hub_rows_and_images, ids, json_rows, texts
from scramble.evaluation.benchmarks.image_files import folder_images
from scramble.evaluation.benchmarks.item_checks import check_items
from scramble.evaluation.benchmarks.tsv import is_tsv, load_tsv
from scramble.evaluation.items import Benchmark, EvaluationError, Item
from scramble.records import ImageFile, Question

CATEGORIES = ("random", "popular", "adversarial")
KNOWN = {9000: "pope-9000", 8910: "pope-random-2910"}


def load(root: str | Path | None = None, *, images: str | Path | None = None, partial: bool = False) -> Benchmark:
    """Load the three parts. ``images`` is the folder of COCO val2014 (default: ``root``)."""
    if root is not None and is_tsv(root):
        return load_tsv("pope", root, images=images, kind="yes_no", partial=partial)
    files: Mapping[str, ImageFile]
    if root is not None and (listing := _lists(Path(root))):
        rows = []
        for category, path in listing:
            for number, row in enumerate(json_rows("pope", path)):
                image, _ = ids("pope", row, f"entry {number} of {path}", "image", "question_id")
                rows.append({**row, "category": category, "image_name": image})
        files = folder_images("pope", images or root, [row["image_name"] for row in rows])
        text, label = "text", "label"
    else:
        required = ("question_id", "question", "answer", "image_source", "image", "category")
        rows, files = hub_rows_and_images("pope", "lmms-lab-encoder/POPE", "test", root, required, "image_source")
        text, label = "question", "answer"
    items = [_item(row, text, label) for row in rows]
    version = check_count("pope", len(items), KNOWN, partial)
    return Benchmark("pope", version, check_items("pope", items), files, "pope", chance={"accuracy": 50.0})


def _lists(root: Path) -> list[tuple[str, Path]]:
    files = [root] if root.is_file() else sorted({*root.rglob("*pope*.json"), *root.rglob("*pope*.jsonl")})
    return [(category, path) for category in CATEGORIES for path in files if category in path.name]


def _item(row: Mapping[str, Any], text: str, label: str) -> Item:
    where = f"question {row.get('question_id')}"
    (key,), (category, question, answer) = (
        ids("pope", row, where, "question_id"),
        texts("pope", row, where, "category", text, label),
    )
    answer = answer.strip().lower()
    if answer not in ("yes", "no"):
        raise EvaluationError(f"pope: {where}: the label {answer!r} is neither yes nor no: download the data again")
    record = Question(f"{category}/{key}", (row["image_name"],), question, answer, category)
    return Item(record, "yes_no")
