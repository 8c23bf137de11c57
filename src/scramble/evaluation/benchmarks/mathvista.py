"""MathVista, testmini: mathematics in figures, charts and photographs.

Paper: Lu et al., ICLR 2024 (arXiv 2310.02255). Data: ``AI4Math/MathVista``, split testmini. Counts: 1,000 questions (by
type of answer: text 540, integer 418, float 40, list 2). Chance: not computed. Human: not checked.

In the official script, a language model first extracts the answer. Without a judge, a rule extracts the text after
"answer is", the last number, or the option that the reply names. The results then record ``extraction: rule`` and are
not comparable with judged results. Normalisation and comparison follow the official rules. The scores have not been
compared with a reference implementation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scramble.evaluation.benchmarks.data import (
    HubImages,
    check_count,
    columns,
    hub_rows,
    ids,
    text_rows,
    texts,
)
from scramble.evaluation.benchmarks.item_checks import check_items
from scramble.evaluation.items import Benchmark, EvaluationError, Item
from scramble.records import Question


def load(root: str | Path | None = None, *, partial: bool = False) -> Benchmark:
    """Load the 1,000 testmini questions. The prompt is the official query."""
    data = hub_rows("mathvista", "AI4Math/MathVista", "testmini", root)
    columns("mathvista", data, ("pid", "question", "answer", "question_type", "answer_type", "decoded_image"))
    images = HubImages(data)
    items = []
    for number, row in enumerate(text_rows("mathvista", data)):
        (key,) = ids("mathvista", row, f"row {number}", "pid")
        items.append(_item(row, images.add(key, number, "decoded_image")))
    version = check_count("mathvista", len(items), {1000: "mathvista-testmini-1000"}, partial)
    return Benchmark("mathvista", version, check_items("mathvista", items), images, "plain")


def _item(row: dict[str, Any], image: str) -> Item:
    where = f"question {row['pid']}"
    key, answer = ids("mathvista", row, where, "pid", "answer")
    question, question_type, answer_type = texts("mathvista", row, where, "question", "question_type", "answer_type")
    listed, metadata, precision = row.get("choices") or (), row.get("metadata") or {}, row.get("precision")
    if not isinstance(listed, (list, tuple)) or not isinstance(metadata, dict):
        raise EvaluationError(
            f"mathvista: {where}: choices is not a list, or metadata is not an object: download the data again"
        )
    if question_type == "multi_choice" and not listed:
        raise EvaluationError(f"mathvista: {where} is multiple choice but has no choices: download the data again")
    if precision is not None and (isinstance(precision, (bool, str)) or precision != precision):
        raise EvaluationError(
            f"mathvista: {where}: precision is {precision!r:.60}, which is not a number: download the data again"
        )
    choices = tuple(str(choice) for choice in listed)
    prompt = str(row.get("query") or question)
    kind = str(metadata.get("task") or question_type)
    details = {
        "rule": "mathvista",
        "answer_type": answer_type,
        "precision": precision,
        "question_type": question_type,
        "suffix": "",
        "options_in_question": bool(row.get("query")),
        "extraction": "rule",
        "raw_question": question,
        "max_new_tokens": 512,
    }
    return Item(Question(key, (image,), prompt, answer, kind, choices=choices), "short", details=details)
