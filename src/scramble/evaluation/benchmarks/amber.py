"""AMBER: hallucinations in descriptions, and yes/no questions about existence, attributes and relations.

Paper: Wang et al. 2023 (arXiv 2311.07397). Data: the repository's ``data`` folder (``query/query_all.json``,
``annotations.json``, ``relation.json``, ``safe_words.txt``) and the images. Counts: 1,004 descriptions and 14,216
questions: existence 4,924 (all answers are "no"), attribute state 4,764, attribute number 2,072, attribute action 792,
relation 1,664. Chance: accuracy 50. Human: not published.

Scores of descriptions (lower is better, except for ``cover``):

| score | meaning |
|---|---|
| ``chair`` | share of hallucinated nouns |
| ``hal`` | share of responses with a hallucinated noun |
| ``cog`` | share of the likely hallucinations (annotated per image) that are mentioned |
| ``cover`` | share of the annotated objects that are mentioned |

A spaCy pipeline finds the nouns, whereas the authors' code uses NLTK. If the pipeline has word vectors, words with a
similarity above 0.8 count as the same object (the authors' code uses en_core_web_lg). Without vectors, only equal
words count as the same object, which changes CHAIR by one to three points.

Scores of questions: ``accuracy``, and ``precision``, ``recall`` and ``f1`` of the answer "no". The authors compare the
likelihoods of Yes and No without any further prompt (``protocol=amber``, the default). In generated replies, they count
only the exact words ``Yes`` and ``No`` (``protocol.yes_no_form=generate``), whereas VLMEvalKit asks for yes or no and
searches the reply for these words. ``accuracy_macro`` is the mean accuracy over the kinds of questions, as in
VLMEvalKit. ``amber_score`` is (100 - CHAIR + F1) / 2. This formula appears only in a figure of the paper and has not
been checked.

Tests compare all scores with those of the authors' code on recorded nouns, similarities and replies.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from scramble.evaluation.benchmarks.data import (
    by_id,
    check_count,
    check_option,
    find_file,
    json_rows,
    load_json,
    one_of,
    texts,
    whole_ids,
)
from scramble.evaluation.benchmarks.image_files import item_images
from scramble.evaluation.benchmarks.item_checks import check_items
from scramble.evaluation.benchmarks.rejected import read_items
from scramble.evaluation.items import Benchmark, EvaluationError, Item
from scramble.grading.amber import AmberVocabulary, has_vectors
from scramble.language.spacy_pipeline import DEFAULT_PIPELINE, PipelineError
from scramble.records import Question
from scramble.storage.files import StoreError, read_text

log = logging.getLogger(__name__)

PARTS = ("all", "generative", "discriminative")
KNOWN = {15220: "amber-15220", 1004: "amber-generative-1004", 14216: "amber-discriminative-14216"}
# Kind and tags of an item, by the type of its annotation.
ANNOTATION_TYPES: dict[str, tuple[str, tuple[str, ...]]] = {
    "discriminative-hallucination": ("existence", ()),
    "discriminative-attribute-state": ("attribute", ("state",)),
    "discriminative-attribute-number": ("attribute", ("number",)),
    "discriminative-attribute-action": ("attribute", ("action",)),
    "discriminative-relation": ("relation", ()),
    "relation": ("relation", ()),
}


def load(
    root: str | Path,
    *,
    images: str | Path | None = None,
    part: str = "all",
    pipeline: str = DEFAULT_PIPELINE,
    partial: bool = False,
) -> Benchmark:
    """Load the descriptions, the questions, or both.

    Args:
        root: the repository's ``data`` folder.
        images: folder of the images (default: ``root``).
        part: ``all``, ``generative`` (descriptions) or ``discriminative`` (questions).
        pipeline: spaCy pipeline that finds the nouns of descriptions.
        partial: accept an incomplete copy, and skip rows that cannot be used.
    """
    check_option("amber", "part", part, PARTS)
    queries = find_file("amber", root, "query_all.json", "*query*.json")
    annotations = find_file("amber", root, "annotations.json", "*annotations.json")
    notes = by_id("amber", annotations, "id", lambda row, where: row)
    lexicon = AmberVocabulary({}, frozenset()) if part == "discriminative" else _lexicon(root)
    rows = enumerate(json_rows("amber", queries))
    items = read_items(
        "amber", queries, rows, lambda number, row: _item(number, row, notes, lexicon, pipeline), partial
    )
    if part != "all":
        items = [item for item in items if (part == "generative") == (item.style == "free")]
    version = check_count("amber", len(items), KNOWN, partial)
    if any(item.style == "free" for item in items):
        version += f"-{_similarity(pipeline)}"
    files = item_images("amber", images or root, items)
    return Benchmark(
        "amber",
        version,
        check_items("amber", items),
        files,
        "amber",
        chance={"accuracy": 50.0, "accuracy_macro": 50.0},
        default_protocol="amber",
    )


def _similarity(pipeline: str) -> str:
    """Return the part of the data version that names the pipeline. Log a message if the pipeline contains no word
    vectors.
    """
    try:
        with_vectors = has_vectors(pipeline)
    except PipelineError as error:
        raise EvaluationError(f"amber: {error}") from error
    if not with_vectors:
        log.info(
            f"amber: the pipeline {Path(pipeline).name} has no word vectors, so only equal words count as the same "
            "object: set benchmark.amber.pipeline=en_core_web_lg to compare words by similarity"
        )
    return Path(pipeline).name + ("" if with_vectors else "-no-vectors")


def _lexicon(root: str | Path) -> AmberVocabulary:
    path = find_file("amber", root, "relation.json", "*relation.json")
    relation = load_json("amber", path)
    if not isinstance(relation, dict) or not all(_are_words(words) for words in relation.values()):
        raise EvaluationError(f"amber: {path} does not map each object to a list of words: download the file again")
    safe = find_file("amber", root, "safe_words.txt", "*safe_words.txt")
    try:
        return AmberVocabulary(relation, frozenset(read_text(safe).splitlines()))
    except StoreError as error:
        raise EvaluationError(f"amber: {error}") from error


def _are_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def _item(
    number: int, row: dict[str, Any], notes: dict[str, dict[str, Any]], lexicon: AmberVocabulary, pipeline: str
) -> Item:
    where = f"row {number}"
    key, image = whole_ids("amber", row, where, "id", "image")
    (query,) = texts("amber", row, where, "query")
    if key not in notes:
        raise EvaluationError(f"amber: {where}: the id {key} has no annotation: download the data again")
    note, where = notes[key], f"annotation {key}"
    kind = one_of("amber", where, "type", str(note.get("type")), ("generative", *ANNOTATION_TYPES))
    truth = note.get("truth")
    if kind != "generative":
        answer = one_of("amber", where, "truth", str(truth), ("yes", "no"))
        category, tags = ANNOTATION_TYPES[kind]
        return Item(Question(key, (image,), query, answer, category), "yes_no", tags=tags)
    likely = note.get("hallu")
    if lexicon.associations:
        for name, words in (("truth", truth), ("hallu", likely)):
            if words is None or not _are_words(words):
                raise EvaluationError(
                    f"amber: {where}: {name} is {words!r:.60}, which is not a list of words: download the data again"
                )
            if unknown := [word for word in words if word not in lexicon.associations]:
                raise EvaluationError(
                    f"amber: {where}: {name} contains {unknown[0]!r}, which is not in relation.json: download the data "
                    "again"
                )
    details = {"rule": "amber", "truth": truth, "likely": likely, "lexicon": lexicon, "pipeline": pipeline}
    return Item(Question(key, (image,), query, ""), "free", details=details)
