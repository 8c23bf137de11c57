"""NaturalBench: groups of two questions about two images. The answer to each question differs between the images.

Paper: Li et al., NeurIPS 2024 (arXiv 2410.14669). Data: ``BaiqiL/NaturalBench``, split train. Counts: 1,900 groups of
two images and two questions, 7,600 answers. Chance: Acc 50, Q_Acc 25, I_Acc 25, G_Acc 6.25. Human: not published.

Tests compare the extracted answers with those of the authors' code on recorded examples, and the metrics with values
computed by hand. This module joins a question and its suffix with a space, as evaluation harnesses do, whereas the
official example joins them without a space.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scramble.evaluation.benchmarks.data import (
    HubImages,
    check_count,
    columns,
    hub_rows,
    one_of,
    text_rows,
    texts,
)
from scramble.evaluation.benchmarks.item_checks import check_items
from scramble.evaluation.items import Benchmark, EvaluationError, Item
from scramble.records import Question

SUFFIX = {
    "yes_no": " Please answer Yes or No.",
    "multiple_choice": " Please output the letter corresponding to the correct option.",
}
CHANCE = {"acc": 50.0, "q_acc": 25.0, "i_acc": 25.0, "g_acc": 6.25}


def load(root: str | Path | None = None, *, partial: bool = False) -> Benchmark:
    """Load the 1,900 groups. Item ids end in ``q<question>_i<image>``."""
    data = hub_rows("naturalbench", "BaiqiL/NaturalBench", "train", root)
    columns("naturalbench", data, ("Image_0", "Image_1", "Question_0", "Question_1", "Question_Type"))
    images = HubImages(data)
    items: list[Item] = []
    for number, row in enumerate(text_rows("naturalbench", data)):
        names = [images.add(f"{number}/{i}", number, f"Image_{i}") for i in (0, 1)]
        items.extend(_item(number, row, q, i, names[i]) for q in (0, 1) for i in (0, 1))
    version = check_count("naturalbench", len(items) // 4, {1900: "naturalbench-1900"}, partial)
    checked = check_items("naturalbench", items, group_size=4)
    return Benchmark(
        "naturalbench", version, checked, images, "natural_bench", chance=CHANCE, default_protocol="naturalbench"
    )


def _item(number: int, row: dict[str, Any], q: int, i: int, image: str) -> Item:
    where, key = f"row {number}", f"Image_{i}_Question_{q}"
    question, answer, kind = texts("naturalbench", row, where, f"Question_{q}", key, "Question_Type")
    if kind not in SUFFIX:
        raise EvaluationError(
            f"naturalbench: row {number}: Question_Type is {kind!r}, which is not one of {', '.join(SUFFIX)}: download "
            "the data again"
        )
    style = "yes_no" if kind == "yes_no" else "letter"
    answer = answer.strip().lower() if style == "yes_no" else answer.strip().upper()
    one_of("naturalbench", where, key, answer, ("yes", "no") if style == "yes_no" else ("A", "B"))
    choices = () if style == "yes_no" else ("", "")  # the question contains the options
    record = Question(f"{number}/q{q}_i{i}", (image,), question, answer, kind, choices=choices)
    details = {"suffix": SUFFIX[kind], "options_in_question": True}
    return Item(record, "yes_no" if style == "yes_no" else "letter", group=str(number), details=details)
