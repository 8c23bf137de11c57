"""MathVerse: problems in five versions, which differ in how much of the text is in the picture.

Paper: Zhang et al., ECCV 2024 (arXiv 2403.14624). Data: ``AI4Math/MathVerse``, configuration testmini, or a local copy.
Counts: 788 problems in each of five versions (436 multiple choice, 352 free-form). ``problem_version`` selects a
version; the default is Vision Only. Chance: computed (25 for multiple choice, 0 for free-form questions). Human: not
checked.

The kind of an item is its subject. Its tags are ``<subject>/<subfield>`` and the type of the question. ``query``
selects the prompt: ``query_wo`` asks for a direct answer, ``query_cot`` asks for reasoning first, and ``question`` is
the question alone. In the version Vision Only, the question is part of the picture.

In the official script, a language model extracts the answer from the last 30 words of the reply, and a second call
compares this answer with the right answer. Here, both calls use our prompts (``judge.extraction_prompt``,
``judge.comparison_prompt``). Letters and equal strings need no second call. Without a judge, answers are extracted and
compared by rule. The results then record ``extraction: rule`` and are not comparable with judged results. The scores
have not been compared with the reference implementation, which needs a judge.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from scramble.evaluation.benchmarks import lettered
from scramble.evaluation.benchmarks.data import (
    HubImages,
    check_count,
    check_option,
    columns,
    hub_rows,
    ids,
    one_of,
    text_rows,
    texts,
    whole_ids,
)
from scramble.evaluation.benchmarks.item_checks import check_items
from scramble.evaluation.benchmarks.rejected import RejectedRows
from scramble.evaluation.benchmarks.versions import changed_options
from scramble.evaluation.items import Benchmark, EvaluationError, Item
from scramble.records import LETTERS, Question

VERSIONS = ("Text Dominant", "Text Lite", "Vision Intensive", "Vision Dominant", "Vision Only")
QUERIES = ("query_wo", "query_cot", "question")
TYPES = ("multi-choice", "free-form")
OPTIONS = 4


def load(
    root: str | Path | None = None,
    *,
    problem_version: str = "Vision Only",
    query: str = "query_wo",
    partial: bool = False,
) -> Benchmark:
    """Load the 788 problems of one version. The module docstring explains the options."""
    check_option("mathverse", "problem_version", problem_version, VERSIONS)
    check_option("mathverse", "query", query, QUERIES)
    data = hub_rows("mathverse", "AI4Math/MathVerse", "testmini", root, "testmini")
    columns("mathverse", data, ("sample_index", "problem_version", "question", "answer", "question_type", "image"))
    columns("mathverse", data, (query,))
    images, bad, items = HubImages(data), RejectedRows("mathverse", root or "AI4Math/MathVerse"), []
    for number, row in enumerate(text_rows("mathverse", data)):
        if row.get("problem_version") != problem_version:
            continue
        with bad.row(number):
            items.append(_item(row, number, query))
            images.add(items[-1].image_ids[0], number, "image")
    bad.finish(len(items), partial)
    name = f"mathverse-{problem_version.lower().replace(' ', '-')}-788"
    return Benchmark(
        "mathverse",
        check_count("mathverse", len(items), {788: name}, partial) + changed_options(query=(query, "query_wo")),
        check_items("mathverse", items),
        images,
        "plain",
        chance=lettered.chance(items),
    )


def _item(row: dict[str, Any], number: int, query: str) -> Item:
    where = f"row {number}"
    (key,), (answer,) = whole_ids("mathverse", row, where, "sample_index"), ids("mathverse", row, where, "answer")
    kind = one_of(
        "mathverse", where, "question_type", texts("mathverse", row, where, "question_type")[0].strip(), TYPES
    )
    prompt, question = str(row.get(query) or ""), str(row.get("question_for_eval") or row.get("question") or "")
    if query != "question" and not prompt.strip():
        raise EvaluationError(f"mathverse: {where}: {query} is empty: download the data again")
    if kind == "multi-choice":
        answer = one_of("mathverse", where, "answer", answer.strip(), LETTERS[:OPTIONS])
    choices = ("",) * OPTIONS if kind == "multi-choice" else ()
    subject, subfield = (str(_metadata(row, where).get(name) or "") for name in ("subject", "subfield"))
    details = {
        "rule": "mathverse",
        "extraction": "rule",
        "options_in_question": True,
        "suffix": "",
        "judged_question": question or prompt,
        "max_new_tokens": 512 if query == "query_cot" else 0,
    }
    tags = (kind, *((f"{subject}/{subfield}",) if subject and subfield else ()))
    return Item(
        Question(key, (f"{number}",), prompt, answer, subject, choices=choices), "short", tags=tags, details=details
    )


def _metadata(row: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the metadata of a row, which is an object or, in some copies of the data, the text of a Python
    dictionary.
    """
    metadata = row.get("metadata") or {}
    if isinstance(metadata, str):
        try:
            metadata = ast.literal_eval(metadata)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            metadata = None
    if not isinstance(metadata, dict):
        raise EvaluationError(
            f"mathverse: {where}: metadata is {row.get('metadata')!r:.60}, which is not an object: download the data "
            "again"
        )
    return metadata
