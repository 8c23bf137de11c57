r"""MATH-Vision (MATH-V): mathematics competition problems with pictures.

Paper: Wang et al., NeurIPS 2024 (arXiv 2402.14804). Data: ``MathLLMs/MathVision``, or the repository's ``test.jsonl``
or ``testmini.jsonl`` with its images. Counts: 3,040 questions (1,532 multiple choice, 1,508 free-form); 304 in
testmini. Chance: computed, 10.08 (20 for multiple choice, 0 for free-form questions). The published accuracy of random
answers is 7.17. Human: about 70 (the repository states no exact number).

The kind of an item is its subject. Its tags are ``level:<1-5>`` and ``level:<1-5>/<subject>``. The prompt is the
official prompt: the question, then the options as ``(A) ...`` unless the picture shows the options.
``protocol=standard`` is the official direct protocol. The default protocol, ``mathvision``, asks for reasoning and a
``\boxed{}`` answer in our wording. MPO's numbers were computed with VLMEvalKit, which extracts answers with a judge and
compares exact values.

Tests compare the extracted answers and the outcomes with those of the official code on recorded replies.
:mod:`scramble.grading.latex_value` replaces latex2sympy2 for computing the values of expressions. Both lead to the same
outcomes for all published replies.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scramble.evaluation.benchmarks import lettered
from scramble.evaluation.benchmarks.data import check_count, check_option, ids, one_of, texts, whole_ids
from scramble.evaluation.benchmarks.file_or_hub import FileOrHub
from scramble.evaluation.benchmarks.item_checks import check_items
from scramble.evaluation.benchmarks.rejected import read_items
from scramble.evaluation.items import Benchmark, EvaluationError, Item
from scramble.records import LETTERS, Question

SPLIT_SIZES = {"test": 3040, "testmini": 304}
LEVELS = "12345"
DRAWN = "ABCDE"
"""The options that the data lists for a question whose options are drawn in the picture."""


def load(
    root: str | Path | None = None,
    *,
    split: str = "test",
    images: str | Path | None = None,
    partial: bool = False,
) -> Benchmark:
    """Load the questions of a split.

    Args:
        root: the repository's ``<split>.jsonl``, the folder of this file, or a copy of the hub data set (default: the
            hub).
        split: ``test`` or ``testmini``.
        images: folder of the images that the repository's file names (default: the folder of this file).
        partial: accept an incomplete copy, and skip rows that cannot be used.
    """
    check_option("mathvision", "split", split, tuple(SPLIT_SIZES))
    required = ("id", "question", "options", "answer", "level", "subject")
    data = FileOrHub(
        "mathvision",
        "MathLLMs/MathVision",
        split,
        root,
        file=f"{split}.jsonl",
        required=required,
        image="decoded_image",
    )
    rows = enumerate(data.rows)
    items = read_items("mathvision", data.source, rows, lambda number, row: _item(row, number, data), partial)
    name = f"mathvision-{split}-{SPLIT_SIZES[split]}"
    return Benchmark(
        "mathvision",
        check_count("mathvision", len(items), {SPLIT_SIZES[split]: name}, partial),
        check_items("mathvision", items),
        data.images(items, images),
        "plain",
        chance=lettered.chance(items),
        default_protocol="mathvision",
    )


def _item(row: dict[str, Any], number: int, data: FileOrHub) -> Item:
    where = f"row {number}"
    key, level = whole_ids("mathvision", row, where, "id", "level")
    one_of("mathvision", where, "level", level, LEVELS)
    (answer,) = ids("mathvision", row, where, "answer")
    question, subject = texts("mathvision", row, where, "question", "subject")
    choices = lettered.listed("mathvision", where, "options", row.get("options"))
    if choices:
        answer = lettered.letter("mathvision", where, answer, choices)
        if len(choices) != len(DRAWN):
            raise EvaluationError(
                f"mathvision: {where}: there are {len(choices)} options, not {len(DRAWN)} or none: download the data "
                "again"
            )
    drawn = "".join(choices) == DRAWN
    options = "" if drawn else "".join(f"({letter}) {c}\n" for letter, c in zip(LETTERS, choices, strict=False))
    record = Question(key, (data.image_id(number, where),), f"{question}\n{options}", answer, subject, choices=choices)
    tags = (f"level:{level}", f"level:{level}/{subject}")
    return Item(record, "short", tags=tags, details={"rule": "mathvision", "options_in_question": True})
