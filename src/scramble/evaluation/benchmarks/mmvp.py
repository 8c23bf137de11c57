"""MMVP.

Paper: Tong et al., CVPR 2024 (arXiv 2401.06209). Data: ``MMVP/MMVP`` (``Questions.csv`` and images ``1..300.jpg``).
Counts: 300 questions, 150 pairs (2k - 1, 2k). Chance: 50 a question, 25 a pair.
Human: 95.7 a pair (third-party report). Labels: the original CSV is wrong for questions 99, 100, 279 and 280 (issues
14 and 30 of the repository); ``labels=corrected`` repairs them, ``labels=original`` keeps them. They move the pair
score by up to 1.33 points.

Compared with a reference implementation: letters by lmms-eval's rule, on recorded vectors.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

from scramble.evaluation.benchmarks.data import FolderImages, check_count, download, fields, find_file
from scramble.evaluation.items import Benchmark, EvaluationError, Item, check_items
from scramble.records import Question

CORRECTIONS = {99: "B", 100: "A", 279: "B", 280: "A"}


def load(root: str | Path | None = None, *, labels: str = "corrected", partial: bool = False) -> Benchmark:
    """The 300 questions in pairs. ``labels``: ``corrected`` or ``original``."""
    if labels not in ("corrected", "original"):
        raise EvaluationError(f"mmvp: labels must be corrected or original, not {labels!r}")
    root = download("mmvp", "MMVP/MMVP") if root is None else root
    path = find_file("mmvp", root, "Questions.csv")
    with path.open(encoding="utf-8-sig", newline="") as file:
        items = [_item(row, labels) for row in csv.DictReader(file)]
    files = FolderImages("mmvp", path.parent, [item.image_ids[0] for item in items])
    version = f"mmvp-{labels}-{check_count('mmvp', len(items), {300: '300'}, partial)}"
    checked = check_items("mmvp", items, group_size=2)
    return Benchmark("mmvp", version, checked, files, "pairs", chance={"accuracy": 50.0, "pair_accuracy": 25.0},
                     human={"pair_accuracy": 95.7})  # fmt: skip


def _item(row: dict[str, Any], labels: str) -> Item:
    row = {"Index" if key.strip() == "lndex" else key.strip(): value for key, value in row.items()}
    index, question, options, answer = fields(
        "mmvp", row, f"row {row.get('Index')}", "Index", "Question", "Options", "Correct Answer"
    )
    number = int(index)
    choices = tuple(part.strip() for part in re.split(r"\([a-z]\)", options, flags=re.IGNORECASE) if part.strip())
    letter = answer.strip().strip("()").upper()
    if len(choices) != 2 or letter not in ("A", "B"):
        raise EvaluationError(
            f"mmvp: row {number}: options {options!r} and answer {answer!r} are not two options and one of them"
        )
    if labels == "corrected":
        letter = CORRECTIONS.get(number, letter)
    record = Question(str(number), (str(number),), question, letter, choices=choices)
    return Item(record, "letter", group=f"pair-{(number + 1) // 2}")
