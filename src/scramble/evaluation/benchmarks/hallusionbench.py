"""HallusionBench: yes/no questions about original and edited figures, and questions without a figure.

Paper: Guan et al., CVPR 2024 (arXiv 2310.14566). Data: the repository's ``HallusionBench.json`` with its images.
Counts: 1,129 questions, of which 951 have an image; 455 groups with the same question; 346 figures. Chance: aAcc 50.
Human: not in the repository.

| score | meaning |
|---|---|
| ``a_acc`` | accuracy over questions |
| ``q_acc`` | share of groups in which the question is answered correctly for every figure |
| ``f_acc`` | share of figures about which all questions are answered correctly |
| ``f_inconsistent`` | share of figures with some wrong and some right answers |
| ``f_wrong`` | share of figures with only wrong answers |
| ``yes_difference``, ``false_positive_ratio`` | bias towards yes |
| ``language_hallucination``, ``visual_illusion``, ``mixed_cause`` | share of the errors with this cause |

The three accuracies are also computed by category (VD, VS), by subcategory, for figures that were edited to contradict
common knowledge (hard), and for all other figures (easy). The authors call ``q_acc/easy`` "easy aAcc". The causes of
errors are not computed with a judge, because the judge would have to compare two replies.

In the authors' code, GPT-4 compares a reply with the answer (``grading=judge``). An unclear reply then counts as right
for the 178 questions of VS without an image. The default ``grading=rule`` searches the reply for the words yes and no,
as VLMEvalKit does. ``without_image=false`` omits the questions without an image, as VLMEvalKit does. The questions are
asked unchanged, without a request to answer yes or no.

Tests compare the scores with those of the authors' code on recorded labels, and with those of VLMEvalKit on recorded
replies.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scramble.evaluation.benchmarks.data import (
    check_count,
    check_option,
    find_file,
    json_rows,
    one_of,
    texts,
    whole_ids,
)
from scramble.evaluation.benchmarks.image_files import item_images
from scramble.evaluation.benchmarks.item_checks import check_items
from scramble.evaluation.benchmarks.rejected import read_items
from scramble.evaluation.items import Benchmark, Item
from scramble.records import Question

GRADINGS = ("rule", "judge")
KNOWN = {1129: "hallusionbench-1129", 951: "hallusionbench-image-951"}


def load(
    root: str | Path,
    *,
    images: str | Path | None = None,
    grading: str = "rule",
    without_image: bool = True,
    partial: bool = False,
) -> Benchmark:
    """Load the questions.

    Args:
        root: the JSON file, or its folder.
        images: folder of the images (default: the file's folder).
        grading: ``rule`` or ``judge``.
        without_image: whether to include the questions that have no image.
        partial: accept an incomplete copy, and skip rows that cannot be used.
    """
    check_option("hallusionbench", "grading", grading, GRADINGS)
    path = find_file("hallusionbench", root, "HallusionBench.json", "*hallusion*.json")
    rows = enumerate(json_rows("hallusionbench", path))
    items = read_items("hallusionbench", path, rows, lambda number, row: _item(number, row, grading), partial)
    if not without_image:
        items = [item for item in items if item.image_ids]
    version = check_count("hallusionbench", len(items), KNOWN, partial)
    return Benchmark(
        "hallusionbench",
        f"{version}-{grading}",
        check_items("hallusionbench", items),
        item_images("hallusionbench", images or path.parent, items),
        "hallusionbench",
        chance={"a_acc": 50.0},
        default_protocol="vlmevalkit_prompts",
    )


def _item(number: int, row: dict[str, Any], grading: str) -> Item:
    where = f"row {number}"
    parts = whole_ids("hallusionbench", row, where, "category", "subcategory", "set_id", "figure_id", "question_id")
    category, subcategory, group, *_ = parts
    one_of("hallusionbench", where, "category", category, ("VD", "VS"))
    (question,) = texts("hallusionbench", row, where, "question")
    answer, visual = whole_ids("hallusionbench", row, where, "gt_answer", "visual_input")
    answer = {"1": "yes", "0": "no"}[one_of("hallusionbench", where, "gt_answer", answer, ("0", "1"))]
    one_of("hallusionbench", where, "visual_input", visual, ("0", "1", "2"))
    images = () if visual == "0" else tuple(texts("hallusionbench", row, where, "filename"))
    details: dict[str, Any] = {"grading": "by rule (yes or no), no judge"}
    if grading == "judge":
        (reference,) = texts("hallusionbench", row, where, "gt_answer_details")
        details = {"judge": "hallusionbench", "fields": {"answer": reference}}
    return Item(
        Question("/".join(parts), images, question, answer, category),
        "free" if grading == "judge" else "yes_no",
        group=f"{category}/{subcategory}/{group}",
        tags=(subcategory, "hard" if visual == "2" else "easy"),
        details=details,
    )
