"""MMMU, validation.

Paper: Yue et al., CVPR 2024 (arXiv 2311.16502). Data: ``lmms-lab-encoder/MMMU``, split validation. Counts: 900 (847
multiple choice, 53 open). Chance and human: not established here. Kinds are subjects; accuracy is the micro mean, as
the official script.

Compared with a reference implementation: letters by MMMU's own rule (``protocol=mmmu_official``), without its random
guess; open answers by its rule as described (numbers rounded to two decimals, strings by inclusion).
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from scramble.evaluation.benchmarks.data import (
    HubImages,
    check_count,
    columns,
    fields,
    hub_rows,
)
from scramble.evaluation.items import Benchmark, EvaluationError, Item, check_items
from scramble.records import Question


def load(root: str | Path | None = None, *, partial: bool = False) -> Benchmark:
    """The 900 validation questions; a question may have up to seven images."""
    data = hub_rows("mmmu", "lmms-lab-encoder/MMMU", "validation", root)
    columns("mmmu", data, ("id", "question", "options", "answer", "question_type", "image_1"))
    images = HubImages(data)
    numbered = (column for column in data.column_names if column.startswith("image_") and column[6:].isdigit())
    pictures = sorted(numbered, key=lambda column: int(column[6:]))
    items = []
    for number, row in enumerate(data):
        used = [column for column in pictures if row[column] is not None]
        names = tuple(images.add(f"{row['id']}/{column}", number, column) for column in used)
        items.append(_item({k: v for k, v in row.items() if k not in pictures}, names))
    version = check_count("mmmu", len(items), {900: "mmmu-val-900"}, partial)
    return Benchmark("mmmu", version, check_items("mmmu", items), images, "plain")


def _item(row: dict[str, Any], images: tuple[str, ...]) -> Item:
    key, question, answer = fields("mmmu", row, f"question {row.get('id')}", "id", "question", "answer")
    subject = "_".join(str(key).split("_")[1:-1])
    options = row["options"]
    try:
        choices = tuple(str(o) for o in (ast.literal_eval(options) if isinstance(options, str) else options or ()))
    except (ValueError, SyntaxError) as error:
        raise EvaluationError(f"mmmu: question {key}: options is not a list: {options!r}") from error
    if row["question_type"] == "multiple-choice":
        return Item(Question(str(key), images, question, answer.strip(), subject, choices=choices), "letter")
    answers = _answers(answer)
    record = Question(str(key), images, question, answers[0], subject, answers)
    return Item(record, "short", details={"rule": "mmmu_open"})


def _answers(answer: Any) -> tuple[str, ...]:
    """Open answers are a string, or a list written as one."""
    if isinstance(answer, str) and answer.startswith("["):
        try:
            return tuple(str(a) for a in ast.literal_eval(answer))
        except (ValueError, SyntaxError):
            return (answer,)
    return (str(answer),)
