"""Object HalBench: objects that a detailed description mentions but the image does not contain.

Paper: Yu et al., CVPR 2024 (RLHF-V, arXiv 2312.00849). Data: ``obj_halbench_300_with_image.jsonl`` of RLHF-V/RLAIF-V
(image_id, question, image in base64), and COCO 2014's ``instances_*.json`` and ``captions_*.json`` for train and val.
Counts: 300 questions. Chance: none. Human: not published.

A language model lists the objects that a response says are in the image (the authors' code uses gpt-3.5-turbo-0613).
Responses of up to three words count as responses without objects. A spaCy pipeline reduces the names of the objects to
lemmas (the authors' code uses en_core_web_trf). Each object counts once per response. ``extraction=plain`` needs no
judge. It counts every occurrence of an object word in the response, as the authors' code does without its judge.

| score | meaning |
|---|---|
| ``response_rate`` | share of responses with a hallucination among responses with a COCO object (CHAIRs_refine) |
| ``mention_rate`` | share of hallucinated mentions (CHAIRi) |
| ``chair_s`` | share of responses with a hallucination among all responses |
| ``recall`` | share of the image's categories that are mentioned |

Lower values are better, except for ``recall``.

Tests compare all scores with those of the authors' code on recorded responses and object lists, without the judge and
without spaCy.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from scramble.evaluation.benchmarks import coco_objects
from scramble.evaluation.benchmarks.data import check_count, check_option, find_file, json_rows, texts
from scramble.evaluation.benchmarks.embedded import RowImages
from scramble.evaluation.benchmarks.item_checks import check_items
from scramble.evaluation.benchmarks.rejected import read_items
from scramble.evaluation.benchmarks.versions import changed_options
from scramble.evaluation.items import Benchmark, EvaluationError, Item
from scramble.grading import objects
from scramble.language.spacy_pipeline import DEFAULT_PIPELINE, PipelineError
from scramble.records import Question

EXTRACTIONS = ("judge", "plain")


def load(
    root: str | Path,
    *,
    annotations: str | Path | None = None,
    images: str | Path | None = None,
    extraction: str = "judge",
    pipeline: str = DEFAULT_PIPELINE,
    partial: bool = False,
) -> Benchmark:
    """Load the 300 questions.

    Args:
        root: the JSON lines file of the questions, or its folder.
        annotations: folder of COCO's annotations (default: the file's folder).
        images: folder of images, if the file contains paths instead of images.
        extraction: ``judge``, or ``plain`` for extraction by rule.
        pipeline: spaCy pipeline that reduces the objects that a judge names to lemmas.
        partial: accept an incomplete copy, and skip rows that cannot be used.
    """
    check_option("object_halbench", "extraction", extraction, EXTRACTIONS)
    if extraction == "judge":
        try:
            objects.named_objects([], pipeline)
        except PipelineError as error:
            raise EvaluationError(f"object_halbench: {error}") from error
    path = find_file("object_halbench", root, "obj_halbench_300*.jsonl", "*halbench*.jsonl")
    rows = json_rows("object_halbench", path)
    wanted = set()
    for row in rows:
        with suppress(EvaluationError):  # raised again below, where the message names the row
            wanted.add(coco_objects.image_number("object_halbench", "", row))
    coco = coco_objects.read("object_halbench", annotations or path.parent, objects.object_halbench(), wanted)
    pictures = RowImages()
    items = read_items(
        "object_halbench",
        path,
        enumerate(rows),
        lambda number, row: _item(number, row, coco, pictures, extraction, pipeline),
        partial,
    )
    version = f"{check_count('object_halbench', len(items), {300: 'object_halbench-300'}, partial)}-{extraction}"
    if extraction == "judge":
        version += changed_options(pipeline=(pipeline, DEFAULT_PIPELINE))
    files = pictures.find("object_halbench", Path(images or path.parent))
    return Benchmark("object_halbench", version, check_items("object_halbench", items), files, "object_halbench")


def _item(
    number: int,
    row: dict[str, Any],
    coco: coco_objects.CocoImages,
    pictures: RowImages,
    extraction: str,
    pipeline: str,
) -> Item:
    where = f"row {number}"
    image_id = coco_objects.image_number("object_halbench", where, row)
    (question,) = texts("object_halbench", row, where, "question")
    truth = coco.truth("object_halbench", where, image_id)
    picture = pictures.add("object_halbench", where, str(image_id), row.get("image"))
    details: dict[str, Any] = {"truth": truth}
    if extraction == "plain":
        details |= {"rule": "object_halbench_plain", "grading": "objects by rule (words of the response), no judge"}
    else:
        details |= {"judge": "object_halbench", "pipeline": pipeline}
    return Item(Question(f"{image_id}/{number}", (picture,), question, ""), "free", details=details)
