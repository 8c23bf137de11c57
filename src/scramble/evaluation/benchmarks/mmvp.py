"""MMVP: pairs of images that CLIP confuses.

Paper: Tong et al., CVPR 2024 (arXiv 2401.06209). Data: ``MMVP/MMVP`` (``Questions.csv`` and images ``1..300.jpg``).
Counts: 300 questions, which form 150 pairs (2k - 1, 2k). Chance: 50 per question, 25 per pair. Human: 95.7 per pair
(third-party report). The labels of questions 99, 100, 279 and 280 are wrong in the original CSV (issues 14 and 30 of
the repository). ``labels=corrected`` corrects these labels, and ``labels=original`` keeps them. The correction changes
the pair score by up to 1.33 points.

Tests compare the parsed letters with those of lmms-eval's rule on recorded examples.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from scramble.evaluation.benchmarks.data import (
    benchmark_csv_rows,
    check_count,
    check_option,
    download,
    find_file,
    ids,
    texts,
)
from scramble.evaluation.benchmarks.image_files import folder_images
from scramble.evaluation.benchmarks.item_checks import check_items
from scramble.evaluation.items import Benchmark, EvaluationError, Item
from scramble.records import Question

CORRECTIONS = {99: "B", 100: "A", 279: "B", 280: "A"}


def load(root: str | Path | None = None, *, labels: str = "corrected", partial: bool = False) -> Benchmark:
    """Load the 300 questions in pairs. ``labels`` is ``corrected`` or ``original``."""
    check_option("mmvp", "labels", labels, ("corrected", "original"))
    root = download("mmvp", "MMVP/MMVP") if root is None else root
    path = find_file("mmvp", root, "Questions.csv")
    items = [_item(row, labels, f"row {number}") for number, row in enumerate(benchmark_csv_rows("mmvp", path), 1)]
    files = folder_images("mmvp", path.parent, [item.image_ids[0] for item in items], "root")
    version = f"mmvp-{labels}-{check_count('mmvp', len(items), {300: '300'}, partial)}"
    checked = check_items("mmvp", items, group_size=2)
    return Benchmark(
        "mmvp",
        version,
        checked,
        files,
        "pairs",
        chance={"accuracy": 50.0, "pair_accuracy": 25.0},
        human={"pair_accuracy": 95.7},
    )


def _item(row: dict[str, Any], labels: str, where: str) -> Item:
    row = {"Index" if key == "lndex" else key: value for key, value in row.items()}
    (index,) = ids("mmvp", row, where, "Index")
    if not re.fullmatch(r"\s*[1-9]\d{0,8}\s*", index, re.ASCII):
        raise EvaluationError(
            f"mmvp: {where}: the index {index!r:.60} is not a positive integer: download the data again"
        )
    number = int(index)
    question, options, answer = texts("mmvp", row, f"row {number}", "Question", "Options", "Correct Answer")
    choices = tuple(part.strip() for part in re.split(r"\([a-z]\)", options, flags=re.IGNORECASE) if part.strip())
    letter = answer.strip().strip("()").upper()
    if len(choices) != 2 or letter not in ("A", "B"):
        raise EvaluationError(
            f"mmvp: row {number}: {options!r} does not contain two options, or the answer {answer!r} is neither A nor "
            "B: download the data again"
        )
    if labels == "corrected":
        letter = CORRECTIONS.get(number, letter)
    record = Question(str(number), (str(number),), question, letter, choices=choices)
    return Item(record, "letter", group=f"pair-{(number + 1) // 2}")
