"""LogicVista: logical reasoning about pictures, with the options in the question or in the picture.

Paper: Xiao et al., 2024 (arXiv 2407.04973). Data: ``data/dataset.json`` of the repository (Yijia-Xiao/LogicVista) with
its images. Counts: 448 questions (inductive 107, numerical 95, deductive 93, spatial 79, mechanical 74). Three answers
have two letters, and one answer is a number. Question v1_382 has neither text nor answer, so no reply to it is right.
Chance: not computed. Human: not checked.

The kind of an item is its skill. A reply is right if it names exactly the letters of the answer. In the official
script, GPT-4 extracts the letters from the reply. Here, a judge extracts the letters with our prompt, and VLMEvalKit's
rule parses the judge's reply. Without a judge, a rule of this project extracts the letters (``extraction: rule``). For
97.7 % of the 6,272 published replies, our rule and GPT-4 lead to the same outcome. Tests check the comparison of
letters and the parsing of the judge's replies against the reference implementations on recorded rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scramble.evaluation.benchmarks.data import check_count, find_file, json_entries, one_of, texts
from scramble.evaluation.benchmarks.image_files import item_images
from scramble.evaluation.benchmarks.item_checks import check_items
from scramble.evaluation.benchmarks.rejected import read_items
from scramble.evaluation.items import Benchmark, EvaluationError, Item
from scramble.records import Question

SKILLS = ("inductive", "deductive", "numerical", "spatial", "mechanical")
EMPTY = "v1_382"
"""Id of the question that has neither text nor an answer."""


def load(root: str | Path, *, images: str | Path | None = None, partial: bool = False) -> Benchmark:
    """Load the 448 questions from ``dataset.json``. ``images`` is the folder of the images (default: the file's
    folder).
    """
    path = find_file("logicvista", root, "dataset.json")
    items = read_items("logicvista", path, json_entries("logicvista", path).items(), _item, partial)
    return Benchmark(
        "logicvista",
        check_count("logicvista", len(items), {448: "logicvista-448"}, partial),
        check_items("logicvista", items),
        item_images("logicvista", images or path.parent, items),
        "plain",
    )


def _item(key: str, row: dict[str, Any]) -> Item:
    (image,) = texts("logicvista", row, key, "imagename")
    question, answer = ("", "") if key == EMPTY else texts("logicvista", row, key, "question", "answer")
    letters = [letter.strip() for letter in answer.split(",")] if answer else []
    if any(len(letter) != 1 or not (letter.isascii() and letter.isalnum()) for letter in letters):
        raise EvaluationError(
            f"logicvista: {key}: answer is {answer!r:.60}, not letters separated by commas: download the data again"
        )
    skill = row.get("skill")
    if not isinstance(skill, list) or len(skill) != 1 or not isinstance(skill[0], str):
        raise EvaluationError(
            f"logicvista: {key}: skill is {skill!r:.60}, not a list with one name: download the data again"
        )
    kind = one_of("logicvista", key, "skill", skill[0], SKILLS)
    record = Question(key, (image,), question, answer, kind)
    return Item(record, "letter", details={"rule": "letters", "extraction": "rule", "judged_question": question})
