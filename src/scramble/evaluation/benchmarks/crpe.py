"""CRPE: multiple-choice questions about the subject, predicate and object of relations. Each question is asked with
four rotations of its options.

Paper: Wang et al., ECCV 2024 (The All-Seeing Project V2, arXiv 2402.19474). Data: ``crpe_relation.jsonl`` and
``crpe_exist.jsonl`` of ``OpenGVLab/CRPE``, the folder ``abnormal_images`` of this data set, and COCO's val2017 images.
If one of the two JSONL files is missing, only the other is read. Counts: 7,576 rows about relations (four rotations of
1,894 questions); not published for existence. The authors have changed the files without assigning version numbers, so
the data version contains a hash. Chance: 25 per row; 0.39 per question under independent guesses. Human: not published.

Scores: ``circular_accuracy`` is the share of questions whose four rotations are all answered correctly, by category
(existence, subject, predicate, object). ``overall`` is the published number, the mean over subject, predicate and
object. ``accuracy`` is computed over rows.

``rule`` selects how replies are parsed. ``official`` (the default) accepts only the letter. ``lmms_eval`` and
``vlmevalkit`` are the rules of lmms-eval and VLMEvalKit. VLMEvalKit's rule accepts almost every reply that is longer
than a letter. lmms-eval reports ``accuracy``, and VLMEvalKit reports the circular accuracy over all categories. Tests
compare the results of all three rules and the official scores with those of the original implementations on recorded
replies.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

from scramble.evaluation.benchmarks.data import check_count, check_option, find_file, ids, json_rows, one_of, texts
from scramble.evaluation.benchmarks.image_files import item_images
from scramble.evaluation.benchmarks.item_checks import check_items
from scramble.evaluation.benchmarks.rejected import RejectedRows
from scramble.evaluation.items import Benchmark, EvaluationError, Item
from scramble.grading.crpe import RULES
from scramble.records import LETTERS, Question
from scramble.storage.hashing import file_key

FILES = ("crpe_exist.jsonl", "crpe_relation.jsonl")
CATEGORIES = ("exist", "subject", "predicate", "object")
ROTATIONS = 4


def load(
    root: str | Path, *, images: str | Path | None = None, rule: str = "official", partial: bool = False
) -> Benchmark:
    """Load the questions.

    Args:
        root: folder of the two files.
        images: folder of all images (default: ``root``).
        rule: ``official``, ``vlmevalkit`` or ``lmms_eval``.
        partial: skip questions with a rotation that cannot be used.
    """
    check_option("crpe", "rule", rule, tuple(RULES))
    items: list[Item] = []
    paths = [find_file("crpe", root, name) for name in FILES if Path(root).is_dir() and any(Path(root).rglob(name))]
    if not paths:
        raise EvaluationError(
            f"crpe: neither {' nor '.join(FILES)} is below {root}: set benchmark.crpe.root to the folder of these files"
        )
    for path in paths:
        bad, before, seen = RejectedRows("crpe", path), len(items), Counter[str]()
        for number, row in enumerate(json_rows("crpe", path)):
            with bad.row(number):
                category = one_of("crpe", f"row {number}", "category", str(row.get("category")), CATEGORIES)
                group = f"{category}/{seen[category] // ROTATIONS}"
                seen[category] += 1
                items.append(_item(number, row, group, rule))
        bad.finish(len(items) - before, partial)
    if partial:
        sizes = Counter(item.group for item in items)
        items = [item for item in items if sizes[item.group] == ROTATIONS]
    files = item_images("crpe", images or root, items)
    digest = "-".join(file_key(path)[:8] for path in paths)
    return Benchmark(
        "crpe",
        f"crpe-{rule}-{check_count('crpe', len(items), {}, partial)}-{digest}",
        check_items("crpe", items, ROTATIONS),
        files,
        "crpe",
        chance={"accuracy": 25.0, "circular_accuracy": 100 / 4**ROTATIONS, "overall": 100 / 4**ROTATIONS},
    )


def _item(number: int, row: dict[str, Any], group: str, rule: str) -> Item:
    where = f"row {number}"
    key, image = ids("crpe", row, where, "question_id", "image")
    text, answer = texts("crpe", row, where, "text", "correct_option")
    options = dict(re.findall(r"^([A-Z])\.[ \t]*(.*\S)", text, re.MULTILINE))
    if not options or not LETTERS.startswith("".join(options)):
        raise EvaluationError(
            f"crpe: {where}: text has no lines with the options A., B., ... ({text!r:.80}): download the data again"
        )
    one_of("crpe", where, "correct_option", answer, tuple(options))
    kind = group.partition("/")[0]
    record = Question(f"{group}/{key}", (image,), text, answer, kind, choices=tuple(options.values()))
    return Item(record, "letter", group=group, details={"rule": rule, "options_in_question": True, "suffix": ""})
