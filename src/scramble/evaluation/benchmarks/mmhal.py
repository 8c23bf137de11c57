"""MMHal-Bench: open questions. A judge rates how informative the answers are and whether they contain hallucinations.

Paper: Sun et al., Findings of ACL 2024 (LLaVA-RLHF, arXiv 2309.14525). Data: ``response_template.json`` of
``Shengcao1006/MMHal-Bench`` with its images (named as in ``image_src``), or RLAIF-V's ``mmhal-bench_with_image.jsonl``
with images in base64, which InternVL uses. Counts: 96 questions, twelve of each of eight types. Chance: none. Human:
not published. The kind of an item is its question type, whereas the authors' script uses the row number modulo 8.

Given the objects in the image and a correct answer, a language model rates each answer from 0 to 6. The authors use
gpt-4-0314, and MPO's authors use GPT-4o. ``score`` is the mean rating in points from 0 to 6. ``hallucination_rate`` is
the percentage of ratings below 3 (lower is better). Ratings that cannot be parsed are excluded. Only ``official_score``
and ``official_hallucination_rate`` include them and count them as 0, as the authors' script does. Without a judge,
there is no score.

Tests compare the parsed ratings and the official scores with those of the authors' code on recorded replies of a judge.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scramble.evaluation.benchmarks.data import check_count, find_file, json_rows, texts
from scramble.evaluation.benchmarks.embedded import RowImages
from scramble.evaluation.benchmarks.item_checks import check_items
from scramble.evaluation.benchmarks.rejected import read_items
from scramble.evaluation.items import Benchmark, EvaluationError, Item
from scramble.records import Question


def load(root: str | Path, *, images: str | Path | None = None, partial: bool = False) -> Benchmark:
    """Load the 96 questions from a JSON or JSON lines file. ``images`` is the folder of the images (default: the file's
    folder).
    """
    path = find_file("mmhal", root, "response_template.json", "*mmhal*.json", "*mmhal*.jsonl")
    pictures, rows = RowImages(), enumerate(json_rows("mmhal", path))
    items = read_items("mmhal", path, rows, lambda number, row: _item(number, row, pictures), partial)
    files = pictures.find("mmhal", Path(images or path.parent))
    version = check_count("mmhal", len(items), {96: "mmhal-96"}, partial)
    return Benchmark("mmhal", version, check_items("mmhal", items), files, "mmhal")


def _item(number: int, row: dict[str, Any], pictures: RowImages) -> Item:
    where = f"row {number}"
    question, answer, kind = texts("mmhal", row, where, "question", "gt_answer", "question_type")
    contents = row.get("image_content")
    if not isinstance(contents, list) or not all(isinstance(name, str) for name in contents):
        raise EvaluationError(
            f"mmhal: {where}: image_content is {contents!r:.60}, not a list of object names: download the data again"
        )
    image = row.get("image")
    if image is None:
        (source,) = texts("mmhal", row, where, "image_src")
        image = source.rpartition("/")[2]
    picture = pictures.add("mmhal", where, str(number), image)
    details = {"judge": "mmhal", "fields": {"contents": ", ".join(contents)}}
    return Item(Question(str(number), (picture,), question, answer, kind), "free", details=details)
