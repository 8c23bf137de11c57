"""M3CoT: multimodal chain of thought in science, commonsense and mathematics.

Paper: Chen et al., ACL 2024 (arXiv 2405.16473). Data: ``LightChen2333/M3CoT``, split test, or the copy that MPO's
authors used (``test.jsonl`` of ``Weiyun1025/M3CoT-ScienceQA-Format``). In the copy, the column ``context`` is called
``hint``, and the answer is an index. Counts: 2,318 questions (the paper and the leaderboard state 2,359). Chance:
computed from the numbers of options, 29.07 on all questions. Human: from the leaderboard.

The kind of an item is its domain, and its tag is ``domain/topic``. The protocols ``m3cot`` and ``m3cot_cot`` are the
benchmark's own protocols, with one turn. For open models, the authors add a second turn and score only the reply to
this turn. ``mpo_direct`` and ``mpo_cot`` follow MPO's evaluation code, but the instruction of ``mpo_cot`` was written
for this project. Tests compare the parsed replies with those of M3CoT's and InternVL's code on recorded replies.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scramble.evaluation.benchmarks import lettered
from scramble.evaluation.benchmarks.data import check_count, texts, whole_ids
from scramble.evaluation.benchmarks.file_or_hub import FileOrHub
from scramble.evaluation.benchmarks.item_checks import check_items
from scramble.evaluation.benchmarks.rejected import read_items
from scramble.evaluation.items import Benchmark, Item
from scramble.records import LETTERS, Question

HUMAN = {
    "accuracy": 91.17,
    "accuracy/science/language-science": 97.63,
    "accuracy/science/natural-science": 91.70,
    "accuracy/science/social-science": 87.92,
    "accuracy/commonsense/physical-commonsense": 97.80,
    "accuracy/commonsense/social-commonsense": 94.24,
    "accuracy/commonsense/temporal-commonsense": 91.87,
    "accuracy/mathematics/algebra": 85.71,
    "accuracy/mathematics/geometry": 90.00,
    "accuracy/mathematics/theory": 76.19,
}


def load(root: str | Path | None = None, *, images: str | Path | None = None, partial: bool = False) -> Benchmark:
    """Load the 2,318 test questions.

    Args:
        root: a copy of the hub data set, MPO's ``test.jsonl``, or the folder of this file (default: the hub).
        images: folder of the images that MPO's file names (default: the folder of this file).
        partial: accept an incomplete copy, and skip rows that cannot be used.
    """
    required = ("id", "question", "choices", "context", "answer", "domain", "topic")
    data = FileOrHub("m3cot", "LightChen2333/M3CoT", "test", root, file="test.jsonl", required=required, image="image")
    rows = enumerate(data.rows)
    items = read_items("m3cot", data.source, rows, lambda number, row: _item(row, number, data), partial)
    return Benchmark(
        "m3cot",
        check_count("m3cot", len(items), {2318: "m3cot-test-2318"}, partial),
        check_items("m3cot", items),
        data.images(items, images),
        "plain",
        chance=lettered.chance(items),
        human=HUMAN,
        default_protocol="m3cot",
    )


def _item(row: dict[str, Any], number: int, data: FileOrHub) -> Item:
    where = f"row {number}"
    key = whole_ids("m3cot", row, where, "id")[0] if "id" in row else str(number)
    (question,) = texts("m3cot", row, where, "question")
    (answer,) = whole_ids("m3cot", row, where, "answer")
    choices = lettered.listed("m3cot", where, "choices", row.get("choices"))
    if answer.isascii() and answer.isdigit() and int(answer) < len(choices):  # the answer is an index in MPO's copy
        answer = LETTERS[int(answer)]
    letter = lettered.letter("m3cot", where, answer, choices)
    domain, topic = (str(row.get(name) or "") for name in ("domain", "topic"))
    record = Question(key, (data.image_id(number, where),), question, letter, domain, choices=choices)
    details = {"hint": str(row.get("context") or row.get("hint") or "")}
    return Item(record, "letter", tags=(f"{domain}/{topic}",) if domain and topic else (), details=details)
