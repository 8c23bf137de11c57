"""Winoground-style 2x2 items and questions of the embedded world.

Paper: none; the benchmark was designed for this project. Data version: content key of the tables. Counts: as generated.
Chance of 2x2 items: text 25, image 25, group 16.67, group matching 50. Chance of a question: 1 / number of candidate
answers. Human: not measured. The 2x2 scores are defined as in Winoground, and the world's own judge determines what is
true. There is no reference implementation with which the scores could be compared.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from scramble.evaluation.benchmarks.image_files import table_images
from scramble.evaluation.benchmarks.item_checks import check_items
from scramble.evaluation.benchmarks.versions import changed_options
from scramble.evaluation.items import Benchmark, EvaluationError, Item
from scramble.evaluation.scoring.metrics import TWO_BY_TWO_CHANCE
from scramble.records import YES_NO_PROMPT, ImageRecord, Question, TwoByTwoItem
from scramble.storage.hashing import file_key
from scramble.storage.tables import Record, read_table, table_path

CAPTION_PROMPT = "Describe the image."


def load_winoground(root: str | Path, *, caption_prompt: str = CAPTION_PROMPT) -> Benchmark:
    """Load the 2x2 items (``quads.parquet``) in a split's folder.

    The tags of an item are its part, and the combination of its kind and part. The scores are also computed for each
    tag.
    """
    items = [
        Item(replace(quad, tags=()), "quad", tags=_parts(quad))
        for quad in _rows("world_winoground", root, TwoByTwoItem)
    ]
    return Benchmark(
        "world_winoground",
        _version(root, TwoByTwoItem) + changed_options(caption_prompt=(caption_prompt, CAPTION_PROMPT)),
        check_items("world_winoground", items),
        table_images("world_winoground", root, items),
        "plain",
        chance=TWO_BY_TWO_CHANCE,
        default_protocol="world",
        caption_prompt=caption_prompt,
        yes_template=YES_NO_PROMPT,
    )


def _rows(name: str, root: str | Path, table: type[Record]) -> list[Record]:
    """Return the rows of a table of the embedded world. Raises EvaluationError for a data set without this table."""
    if table_path(root, ImageRecord).exists() and not table_path(root, table).exists():
        raise EvaluationError(
            f"{name}: {table_path(root, table)} is missing, because the data is not from the embedded world: set "
            "benchmark=[heldout_pairs] (in training, trainer.watch.benchmarks=[heldout_pairs])"
        )
    return list(read_table(root, table))


def load_vqa(root: str | Path) -> Benchmark:
    """Load the questions (``questions.parquet``) in a split's folder. The candidate answers to a question are all
    answers to questions of its kind.
    """
    questions = _rows("world_vqa", root, Question)
    answers: dict[str, set[str]] = {}
    for question in questions:
        if not question.answer:
            raise EvaluationError(
                f"world_vqa: question {question.question_id!r} has no answer: generate the data again"
            )
        answers.setdefault(question.kind, set()).add(question.answer)
    candidates = {kind: tuple(sorted(options)) for kind, options in answers.items()}
    if alone := [kind for kind, options in candidates.items() if len(options) < 2]:
        raise EvaluationError(
            f"world_vqa: all questions of the kind {alone[0]!r} have the same answer: generate more scenes"
        )
    items = [Item(q, "closed", details={"candidates": candidates[q.kind]}) for q in questions]
    chance = {f"accuracy/{kind}": 100 / len(options) for kind, options in candidates.items()}
    chance["accuracy"] = sum(chance[f"accuracy/{q.kind}"] for q in questions) / max(len(questions), 1)
    return Benchmark(
        "world_vqa",
        _version(root, Question),
        check_items("world_vqa", items),
        table_images("world_vqa", root, items),
        "plain",
        chance=chance,
        default_protocol="world",
    )


def _parts(quad: TwoByTwoItem) -> tuple[str, ...]:
    part = quad.tags[-1] if quad.tags else ""
    return (part, f"{quad.kind}/{part}") if part else ()


def _version(root: str | Path, table: type) -> str:
    return f"generated-{file_key(table_path(root, table))}"
