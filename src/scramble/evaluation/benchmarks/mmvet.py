"""MM-Vet: free-form answers to questions that combine several abilities.

Paper: Yu et al., ICML 2024 (arXiv 2308.02490). Data: the official ``mm-vet.json`` and images, or VLMEvalKit's
``MMVet.tsv``. Counts: 218 questions. Chance: 0. Human: not published. A language model grades each answer from 0 to 1
in steps of 0.1. SCRAMBLe's paper uses gpt-4-0613 and reports the mean of five gradings ± 1.96 standard errors. Without
a judge, the answers are not graded and there is no score.

The scores have not been compared with the reference implementation, which needs a judge.
"""

from __future__ import annotations

from pathlib import Path

from scramble.evaluation.benchmarks.data import check_count, find_file, ids, json_entries, texts
from scramble.evaluation.benchmarks.image_files import item_images
from scramble.evaluation.benchmarks.item_checks import check_items
from scramble.evaluation.benchmarks.tsv import is_tsv, load_tsv
from scramble.evaluation.items import Benchmark, EvaluationError, Item
from scramble.records import Question


def load(root: str | Path, *, images: str | Path | None = None, partial: bool = False) -> Benchmark:
    """Load the 218 questions from ``mm-vet.json`` or a TSV file. The tags of an item are its capabilities, or its
    categories in a TSV file.
    """
    if root is not None and is_tsv(root):
        return load_tsv("mmvet", root, images=images, kind="free", partial=partial)
    path = find_file("mmvet", root, "mm-vet.json")
    items = []
    for key, row in json_entries("mmvet", path).items():
        (image, answer), (question,) = (
            ids("mmvet", row, key, "imagename", "answer"),
            texts("mmvet", row, key, "question"),
        )
        tags = row.get("capability") or []
        if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
            raise EvaluationError(
                f"mmvet: {key}: capability is {tags!r:.60}, which is not a list of names: download the data again"
            )
        items.append(Item(Question(key, (image,), question, answer), "free", tags=tuple(tags)))
    files = item_images("mmvet", images or path.parent, items)
    version = check_count("mmvet", len(items), {218: "mm-vet-218"}, partial)
    return Benchmark("mmvet", version, check_items("mmvet", items), files, "plain")
