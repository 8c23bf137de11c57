"""Questions that are answered with a rationale. Each step of the rationale is judged against the image's scene graph.

Paper: none; the benchmark was designed for this project, because SceneAlign's metrics are not public.
:mod:`scramble.evaluation.faithfulness` defines the scores. Data version: content key of the tables. Counts: as
generated. Chance: none, because answers are free text. Human: not measured. There is no reference implementation with
which the scores could be compared. In the embedded world, the judge is exact.
"""

from __future__ import annotations

from pathlib import Path

from scramble.evaluation.benchmarks.item_checks import check_items
from scramble.evaluation.benchmarks.versions import changed_options
from scramble.evaluation.items import Benchmark, EvaluationError, Item
from scramble.grading import rationales
from scramble.records import ImageRecord, Question
from scramble.scenegraphs.world import derive
from scramble.storage.hashing import content_key, file_key
from scramble.storage.image_table import ImageTable
from scramble.storage.tables import read_table, table_path

MAX_NEW_TOKENS = 160
ENGLISH_MAX_NEW_TOKENS = 512


def load_world(root: str | Path, *, prompt: str = rationales.ASK, max_new_tokens: int = MAX_NEW_TOKENS) -> Benchmark:
    """Load the questions of a split of the embedded world. Rationales are judged by the world's grammar and scene
    graphs.
    """
    items = _items("world_rationales", root, prompt, {"language": "world", "max_new_tokens": max_new_tokens})
    for item in items:
        assert isinstance(item.record, Question)
        if derive(item.details["graph"], item.record.question) is None:
            raise EvaluationError(
                f"world_rationales: question {item.item_id!r} has no answer in its scene graph. This benchmark "
                "needs data of the embedded world: for real images, set benchmark=[rationales]"
            )
    changed = changed_options(prompt=(prompt, rationales.ASK), max_new_tokens=(max_new_tokens, MAX_NEW_TOKENS))
    return _benchmark("world_rationales", root, items, changed)


def load(
    root: str | Path,
    *,
    prompt: str = rationales.ASK,
    max_new_tokens: int = ENGLISH_MAX_NEW_TOKENS,
    pipeline: str | None = None,
) -> Benchmark:
    """Load the questions of a split about images with scene graphs. The rationales are judged by a parser for English.

    Args:
        pipeline: spaCy pipeline (package name or folder) that parses the steps. If it is None, the default pipeline is
            used.
    """
    details = {"language": "english", "max_new_tokens": max_new_tokens, "pipeline": pipeline}
    changed = changed_options(
        prompt=(prompt, rationales.ASK),
        max_new_tokens=(max_new_tokens, ENGLISH_MAX_NEW_TOKENS),
        pipeline=(pipeline, None),
    )
    return _benchmark("rationales", root, _items("rationales", root, prompt, details), changed)


def _items(name: str, root: str | Path, prompt: str, details: dict[str, object]) -> tuple[Item, ...]:
    questions = [q for q in read_table(root, Question) if len(q.image_ids) == 1]
    image_ids = {q.image_ids[0] for q in questions}
    graphs = {r.image_id: r.graph for r in read_table(root, ImageRecord) if r.image_id in image_ids and r.graph}
    with_graph = [q for q in questions if q.image_ids[0] in graphs]
    if not with_graph:
        raise EvaluationError(
            f"{name}: no question in {root} is about an image with a scene graph: choose other benchmarks "
            "(benchmark=[...])"
        )
    return check_items(
        name,
        (
            Item(
                q,
                "rationale",
                details={**details, "graph": graphs[q.image_ids[0]], "prompt": rationales.ask(q.question, prompt)},
            )
            for q in with_graph
        ),
    )


def _benchmark(name: str, root: str | Path, items: tuple[Item, ...], changed: str) -> Benchmark:
    version = content_key(file_key(table_path(root, Question)), file_key(table_path(root, ImageRecord)))
    version = f"generated-{version}{changed}"
    return Benchmark(name, version, items, ImageTable(root), "plain", default_protocol="world")
