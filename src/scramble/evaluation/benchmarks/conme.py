"""ConMe: questions with a hard negative option.

Paper: Huang et al., NeurIPS 2024 (arXiv 2406.08164). Data: the hub *model* repository ``conme/ConMe``:
``replace-{att,obj,rel}_HUMAN_FILTER.csv`` (id, question, image, text_options, correct, q_ind), or the unfiltered
``replace-{att,obj,rel}.csv`` (question with its options, image, answer). The images are COCO's. Counts: not published.
Chance: 50 (two options). Human: not published. Headline: mean over the three splits (``accuracy_macro``).

With ``protocol=scramble``, a reply is right if it begins with the right letter, as in SCRAMBLe's scorer. The scores
have not been compared with a reference implementation, because the files of the benchmark were not available.

Assumptions: only the column names of the files were available, not the files themselves. It is not known whether
``correct`` identifies the right option of ``text_options`` by its index, letter or text. All three forms are accepted,
and a row that can be read in two different ways is an error. SCRAMBLe's scorer implies that the options keep their
order in the file and that ``answer`` in the unfiltered files begins with the letter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scramble.evaluation.benchmarks.data import (
    benchmark_csv_rows,
    check_count,
    download,
    find_file,
    ids,
    listed_options,
    one_of,
    texts,
)
from scramble.evaluation.benchmarks.image_files import item_images
from scramble.evaluation.benchmarks.item_checks import check_items
from scramble.evaluation.items import Benchmark, EvaluationError, Item
from scramble.records import LETTERS, Question

CATEGORIES = ("replace-att", "replace-obj", "replace-rel")


def load(
    root: str | Path | None = None,
    *,
    images: str | Path | None = None,
    human_filter: bool = True,
    partial: bool = False,
) -> Benchmark:
    """Load the three splits. ``images`` is the folder of COCO images (default: ``root``)."""
    root = download("conme", "conme/ConMe", repo_type="model") if root is None else root
    items: list[Item] = []
    for split in CATEGORIES:
        path = find_file("conme", root, f"{split}{'_HUMAN_FILTER' if human_filter else ''}.csv")
        items.extend(_item(split, n, row, human_filter) for n, row in enumerate(benchmark_csv_rows("conme", path)))
    files = item_images("conme", images or root, items)
    version = f"conme-{'human-filter' if human_filter else 'all'}-{check_count('conme', len(items), {}, partial)}"
    chance = {"accuracy": 50.0, "accuracy_macro": 50.0}
    return Benchmark("conme", version, check_items("conme", items), files, "macro", chance=chance)


def _item(split: str, number: int, row: dict[str, Any], human_filter: bool) -> Item:
    where = f"{split} row {number}"
    (question,), (image,) = texts("conme", row, where, "question"), ids("conme", row, where, "image")
    if not human_filter:  # the options are part of the question
        (answer,) = texts("conme", row, where, "answer")
        answer = one_of("conme", where, "answer", answer.strip().upper()[:1], LETTERS[:2])
        record = Question(f"{split}/{number}", (image,), question, answer, split, choices=("", ""))
        return Item(record, "letter", details={"options_in_question": True})
    listed, correct = texts("conme", row, where, "text_options", "correct")
    options = listed_options("conme", where, "text_options", listed)
    identity = f"{split}/{row.get('id', number)}/{row.get('q_ind', 0)}/{number}"
    record = Question(identity, (image,), question, _letter(correct, options, where), split, choices=options)
    return Item(record, "letter")


def _letter(correct: str, options: tuple[str, ...], where: str) -> str:
    """Return the letter of the right option. ``correct`` is the option's text, index or letter (see the module's
    assumptions).
    """
    value = correct.strip()
    matches = {LETTERS[k] for k, option in enumerate(options) if option.strip() == value}
    if value.isdigit() and int(value) < len(options):
        matches.add(LETTERS[int(value)])
    if len(value) == 1 and value.upper() in LETTERS[: len(options)]:
        matches.add(value.upper())
    if len(matches) == 1:
        return matches.pop()
    problem = "matches several" if matches else "matches none"
    raise EvaluationError(f"conme: {where}: correct={correct!r} {problem} of the options {options}: correct the file")
