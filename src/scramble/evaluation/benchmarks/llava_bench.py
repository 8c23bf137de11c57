"""LLaVA-Bench (in the wild): open questions. A judge compares the answers with answers of a text-only GPT-4.

Paper: Liu et al., NeurIPS 2023 (arXiv 2304.08485). Data: ``liuhaotian/llava-bench-in-the-wild`` (``questions.jsonl``,
``context.jsonl``, ``answers_gpt4.jsonl``, images). Counts: 60 questions about 24 images, of the types conversation
(conv), detail and complex. Chance: none. Human: not published.

Given a description of the image, a language model scores the reference answer and the model's answer from 1 to 10. The
authors use gpt-4-0314, and MPO's authors use gpt-4-0613. ``score`` is the sum of the model's scores as a percentage of
the sum of the references' scores. ``candidate`` and ``reference`` are the mean scores of the model and of the
references, as percentages of 10 points. Pairs of scores that cannot be parsed are excluded. Only ``official_score``
includes them and counts both scores as -1, as the authors' script does. ``reader`` selects the rule that parses the
judge's reply: ``llava`` (which VLMEvalKit also uses) or ``lmms_eval``. Without a judge, there is no score.

Tests compare the results of both rules and the official scores with those of the original implementations on recorded
replies of a judge.
"""

from __future__ import annotations

from pathlib import Path

from scramble.evaluation.benchmarks.data import (
    by_id,
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
from scramble.evaluation.benchmarks.rejected import RejectedRows
from scramble.evaluation.items import Benchmark, EvaluationError, Item
from scramble.grading.judge_replies import LLAVA_PAIRS
from scramble.records import Question

CATEGORIES = ("conv", "detail", "complex")


def load(
    root: str | Path, *, images: str | Path | None = None, reader: str = "llava", partial: bool = False
) -> Benchmark:
    """Load the 60 questions.

    Args:
        root: folder of the three files.
        images: folder of the images (default: ``root``).
        reader: rule that parses the judge's scores, ``llava`` or ``lmms_eval``.
        partial: accept an incomplete copy, and skip rows that cannot be used.
    """
    check_option("llava_bench", "reader", reader, tuple(LLAVA_PAIRS))
    contexts = _texts(root, "context.jsonl", "image", "caption")
    references = _texts(root, "answers_gpt4.jsonl", "question_id", "text")
    path = find_file("llava_bench", root, "questions.jsonl")
    items, bad = [], RejectedRows("llava_bench", path)
    for number, row in enumerate(json_rows("llava_bench", path)):
        with bad.row(number):
            where = f"row {number}"
            key, image = whole_ids("llava_bench", row, where, "question_id", "image")
            question, category = texts("llava_bench", row, where, "text", "category")
            one_of("llava_bench", where, "category", category, CATEGORIES)
            for name, value, known in (("image", image, contexts), ("question_id", key, references)):
                if value not in known:
                    file = "context.jsonl" if known is contexts else "answers_gpt4.jsonl"
                    raise EvaluationError(
                        f"llava_bench: {where}: {name} {value!r} is not in {file}: download the data again"
                    )
            fields = {"context": contexts[image], "reference": references[key]}
            details = {"judge": "llava_bench", "reader": reader, "fields": fields}
            items.append(Item(Question(key, (image,), question, "", category), "free", details=details))
    bad.finish(len(items), partial)
    files = item_images("llava_bench", images or root, items)
    version = f"{check_count('llava_bench', len(items), {60: 'llava_bench-60'}, partial)}-{reader}"
    return Benchmark("llava_bench", version, check_items("llava_bench", items), files, "llava_bench")


def _texts(root: str | Path, file: str, key: str, value: str) -> dict[str, str]:
    path = find_file("llava_bench", root, file)
    return by_id("llava_bench", path, key, lambda row, where: texts("llava_bench", row, where, value)[0])
