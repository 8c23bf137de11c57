"""MathVista, testmini.

Paper: Lu et al., ICLR 2024 (arXiv 2310.02255). Data: ``AI4Math/MathVista``, split testmini. Counts: 1,000 (answers:
text 540, integer 418, float 40, list 2). Chance and human: not established here.

Scoring: the official script lets a language model extract the answer first. Without a judge a rule takes what follows
"answer is" or the last number or the option named; such results say ``extraction: rule`` and do not compare with
judged ones. Normalisation and comparison follow the official rules. Compared with a reference implementation: no.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scramble.evaluation.benchmarks.data import (
    HubImages,
    check_count,
    columns,
    fields,
    hub_rows,
    without_images,
)
from scramble.evaluation.items import Benchmark, Item, check_items
from scramble.records import Question


def load(root: str | Path | None = None, *, partial: bool = False) -> Benchmark:
    """The 1,000 testmini questions with the official query as prompt."""
    data = hub_rows("mathvista", "AI4Math/MathVista", "testmini", root)
    columns("mathvista", data, ("pid", "question", "answer", "question_type", "answer_type", "decoded_image"))
    images = HubImages(data)
    items = []
    for number, row in enumerate(without_images(data)):
        image = images.add(str(row["pid"]), number, "decoded_image")
        items.append(_item(row, image))
    version = check_count("mathvista", len(items), {1000: "mathvista-testmini-1000"}, partial)
    return Benchmark("mathvista", version, check_items("mathvista", items), images, "plain")


def _item(row: dict[str, Any], image: str) -> Item:
    key, question, answer = fields("mathvista", row, f"question {row.get('pid')}", "pid", "question", "answer")
    choices = tuple(str(choice) for choice in row.get("choices") or ())
    prompt = str(row.get("query") or question)
    kind = str((row.get("metadata") or {}).get("task") or row["question_type"])
    details = {
        "rule": "mathvista", "answer_type": row["answer_type"], "precision": row.get("precision"),
        "question_type": row["question_type"], "suffix": "",  "options_in_question": bool(row.get("query")),
        "extraction": "rule", "raw_question": question, "max_new_tokens": 512,
    }  # fmt: skip
    return Item(Question(str(key), (image,), prompt, str(answer), kind, choices=choices), "short", details=details)
