"""SEED-Bench, image part.

Paper: Li et al., CVPR 2024 (arXiv 2307.16125). Data: ``lmms-lab-encoder/SEED-Bench``, split test, or the official
``SEED-Bench.json`` with its images, or VLMEvalKit's ``SEEDBench_IMG.tsv``. Counts: no primary source was found, so any
number of questions is accepted and recorded. Chance: 25. Human: not published. The kind of an item is its question
type.

Tests compare only the outputs of the parsers with a reference implementation.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scramble.evaluation.benchmarks.data import (
    check_count,
    fields,
    hub_rows_and_images,
    ids,
    json_rows,
    load_json,
    one_of,
    texts,
)
from scramble.evaluation.benchmarks.image_files import folder_images
from scramble.evaluation.benchmarks.item_checks import check_items
from scramble.evaluation.benchmarks.tsv import is_tsv, load_tsv
from scramble.evaluation.items import Benchmark, EvaluationError, Item
from scramble.records import LETTERS, ImageFile, Question

CHOICES = ("choice_a", "choice_b", "choice_c", "choice_d")


def load(root: str | Path | None = None, *, images: str | Path | None = None, partial: bool = False) -> Benchmark:
    """Load the questions about single images. ``images`` is the folder of the official images."""
    if root is not None and is_tsv(root):
        return load_tsv("seed", root, images=images, kind="choice", partial=partial)
    files: Mapping[str, ImageFile]
    listing = sorted(Path(root).glob("*.json")) if root is not None and Path(root).is_dir() else []
    if listing:
        content = load_json("seed", listing[0])
        if not isinstance(content, dict) or "questions" not in content:
            raise EvaluationError(
                f"seed: {listing[0]} has no questions: set benchmark.seed.root to the folder of SEED-Bench.json"
            )
        rows = json_rows("seed", listing[0], content["questions"])
        rows = [row for row in rows if fields("seed", row, _where(row), "data_type") == ["image"]]
        rows = [{**row, "image_name": ids("seed", row, _where(row), "data_id")[0]} for row in rows]
        files = folder_images("seed", images or listing[0].parent, [row["image_name"] for row in rows])
    else:
        required = ("question_id", "question", "answer", "image", *CHOICES)
        rows, files = hub_rows_and_images("seed", "lmms-lab-encoder/SEED-Bench", "test", root, required, "question_id")
        rows = [row for row in rows if row.get("data_type", "image") == "image"]
    items = [_item(row) for row in rows]
    version = f"seed-image-{check_count('seed', len(items), {}, partial)}"
    return Benchmark("seed", version, check_items("seed", items), files, "plain", chance={"accuracy": 25.0})


def _item(row: Mapping[str, Any]) -> Item:
    where = _where(row)
    (key,), (question, answer) = ids("seed", row, where, "question_id"), texts("seed", row, where, "question", "answer")
    letter = one_of("seed", where, "answer", answer.strip().upper(), LETTERS[: len(CHOICES)])
    choices = tuple(ids("seed", row, where, *CHOICES))
    kinds = [row[k] for k in ("question_type_id", "question_type") if row.get(k) not in (None, "")]
    kind = str(kinds[0]) if kinds else ""
    return Item(Question(key, (row["image_name"],), question, letter, kind, choices=choices), "letter")


def _where(row: Mapping[str, Any]) -> str:
    return f"question {row.get('question_id')}"
