"""MMMU, validation: college-level questions in 30 subjects.

Paper: Yue et al., CVPR 2024 (arXiv 2311.16502). Data: ``lmms-lab-encoder/MMMU``, split validation. Counts: 900
questions (847 multiple choice, 53 open). Chance: not computed. Human: not checked. The kind of an item is its subject.
The accuracy is the micro average, as in the official script.

``protocol=mmmu_official`` parses letters by MMMU's own rule, but without MMMU's random guess for replies that cannot be
parsed. Open answers are compared by MMMU's published rule (numbers are rounded to two decimals, and a string is right
if the reply contains it).
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from scramble.evaluation.benchmarks.data import (
    HubImages,
    check_count,
    columns,
    hub_rows,
    ids,
    listed_options,
    one_of,
    text_rows,
    texts,
)
from scramble.evaluation.benchmarks.item_checks import check_items
from scramble.evaluation.items import Benchmark, EvaluationError, Item
from scramble.records import LETTERS, Question

QUESTION_TYPES = ("multiple-choice", "open")


def load(root: str | Path | None = None, *, partial: bool = False) -> Benchmark:
    """Load the 900 validation questions. A question can have up to seven images."""
    data = hub_rows("mmmu", "lmms-lab-encoder/MMMU", "validation", root)
    columns("mmmu", data, ("id", "question", "options", "answer", "question_type", "image_1"))
    images = HubImages(data)
    numbered = (column for column in data.column_names if column.startswith("image_") and column[6:].isdigit())
    pictures = sorted(numbered, key=lambda column: int(column[6:]))
    items = []
    present = {column: data.data.column(column).is_valid().to_pylist() for column in pictures}
    for number, row in enumerate(text_rows("mmmu", data)):
        used = [column for column in pictures if present[column][number]]
        names = tuple(images.add(f"{row['id']}/{column}", number, column) for column in used)
        items.append(_item(row, names))
    version = check_count("mmmu", len(items), {900: "mmmu-val-900"}, partial)
    return Benchmark("mmmu", version, check_items("mmmu", items), images, "plain")


def _item(row: dict[str, Any], images: tuple[str, ...]) -> Item:
    where = f"question {row.get('id')}"
    (key, answer), (question,) = ids("mmmu", row, where, "id", "answer"), texts("mmmu", row, where, "question")
    subject = "_".join(key.split("_")[1:-1])
    options = row["options"]
    if isinstance(options, str):
        choices = listed_options("mmmu", where, "options", options)
    elif isinstance(options or [], (list, tuple)):
        choices = tuple(str(option) for option in options or ())
    else:
        raise EvaluationError(
            f"mmmu: {where}: options is {options!r:.120}, which is not a list: download the data again"
        )
    kind = one_of("mmmu", where, "question_type", texts("mmmu", row, where, "question_type")[0], QUESTION_TYPES)
    if kind == "multiple-choice":
        letter = one_of("mmmu", where, "answer", answer.strip(), LETTERS[: len(choices)])
        return Item(Question(key, images, question, letter, subject, choices=choices), "letter")
    answers = _answers(answer, where)
    record = Question(key, images, question, answers[0], subject, answers)
    return Item(record, "short", details={"rule": "mmmu_open"})


def _answers(answer: str, where: str) -> tuple[str, ...]:
    """Return the accepted answers to an open question. ``answer`` is one answer, or a list literal of answers."""
    if answer.startswith("["):
        with suppress(EvaluationError):
            return listed_options("mmmu", where, "answer", answer) or (answer,)
    return (answer,)
