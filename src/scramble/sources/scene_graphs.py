"""Reads GQA and Visual Genome: images with scene graphs, and questions about the images."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scramble.console import counted
from scramble.formats.bad_rows import BadRows, SourceError
from scramble.formats.checks import clean_id, load_image
from scramble.records import ImageRecord, Question, RecordError
from scramble.scenegraphs import GraphError
from scramble.scenegraphs.files import read_graphs
from scramble.sources.bundles import Bundle
from scramble.storage.files import StoreError, read_json
from scramble.storage.similar_paths import did_you_mean

log = logging.getLogger(__name__)

_SUFFIXES = (".jpg", ".jpeg", ".png")


def bundles(
    path: str | Path,
    bad: BadRows,
    *,
    graphs: str,
    questions: str | None = None,
    images: str | None = None,
    source: str = "scene_graphs",
    embed: bool = False,
    verify: bool = True,
) -> Iterator[Bundle]:
    """Stream each image that has a scene graph, with its questions, in the order of the graph file.

    The graph file and the question file are loaded into memory (see :mod:`scramble.scenegraphs.files`). Graphs are not
    changed; the defects of a graph are counted when the graph is used.

    Args:
        path: the folder that contains the files and the images.
        graphs: file of scene graphs in the layout of GQA or Visual Genome, relative to ``path``.
        questions: file of questions in the layout of GQA (``{id: {imageId, question, answer}}``) or Visual Genome
            (``[{id, qas: [{qa_id, question, answer}]}]``); if None, only images are read.
        images: folder of images relative to ``path`` (by default ``path``). Images are looked up by id in this folder
            and its sub-folders.

    Raises:
        SourceError: a file is missing or does not have a supported layout.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise SourceError(
            f"{folder} is not a folder: set data.path to the folder with graphs, questions and images"
            f"{did_you_mean(path)}"
        )
    for key, name in (("graphs", graphs), ("questions", questions)):
        if name is not None and not (folder / name).is_file():
            raise SourceError(
                f"{folder / name} is not a file: set data.{key} to the path of the file, relative to data.path"
                f"{did_you_mean(folder / name)}"
            )
    questions_of = {} if questions is None else _questions(folder / questions, bad)
    files = _files(folder / images if images else folder)
    with_graph: set[str] = set()
    try:
        for image_id, graph in read_graphs(folder / graphs):
            with_graph.add(image_id)
            if graph is None:
                bad.reject(graphs, image_id, "no scene graph")
                continue
            matches = files.get(image_id, [])
            if len(matches) != 1:
                where = " and ".join(str(file) for file in matches[:2])
                bad.reject(graphs, image_id, "several images with this name" if matches else "missing image", where)
                continue
            try:
                image = load_image(matches[0], embed=embed, verify=verify)
            except RecordError as error:
                bad.reject(graphs, image_id, "unreadable image", str(error))
                continue
            bad.use()
            record = ImageRecord(image_id, image, source=source, graph=graph)
            yield Bundle(image_id, (record,), questions=tuple(questions_of.get(image_id, ())))
    except GraphError as error:
        raise SourceError(str(error)) from error
    if left := sum(len(questions_of[image_id]) for image_id in questions_of.keys() - with_graph):
        log.info(f"data: skipped {counted(left, 'questions')} about images without a scene graph in {graphs}")


def _files(folder: Path) -> dict[str, list[Path]]:
    """Return a mapping from file names without suffix to the image files below ``folder``."""
    files: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in _SUFFIXES:
            files.setdefault(file.stem, []).append(file)
    return files


def _questions(file: Path, bad: BadRows) -> dict[str, list[Question]]:
    try:
        value = read_json(file)
    except StoreError as error:
        raise SourceError(str(error)) from error
    rows: list[tuple[Any, Any, Any]] = []  # question id, image id, entry
    if isinstance(value, Mapping):
        rows = [(key, row.get("imageId"), row) for key, row in value.items() if isinstance(row, Mapping)]
    elif isinstance(value, list):
        rows = [
            (qa.get("qa_id"), qa.get("image_id", entry.get("id")), qa)
            for entry in value
            if isinstance(entry, Mapping)
            for qa in (entry["qas"] if isinstance(entry.get("qas"), list) else ())
            if isinstance(qa, Mapping)
        ]
    if not rows:
        raise SourceError(
            f"{file} has no questions in the layout of GQA or Visual Genome: set data.questions to a file in "
            "one of these layouts"
        )
    questions_of: dict[str, list[Question]] = {}
    seen: set[str] = set()
    for number, (key, image_id, row) in enumerate(rows, 1):
        question, answer, steps = row.get("question"), row.get("answer"), row.get("rationale")
        try:
            key, image_id = clean_id(key), clean_id(image_id)
        except RecordError as error:
            bad.reject(file, f"question {number}", str(error))
            continue
        if key in seen:
            bad.reject(file, key, "duplicate id")
            continue
        if not isinstance(question, str) or not isinstance(answer, str) or not answer.strip():
            bad.reject(file, key, "question without image, text or answer")
            continue
        seen.add(key)
        steps = [step for step in steps if isinstance(step, str) and step.strip()] if isinstance(steps, list) else []
        types = row.get("types")
        kind = types.get("structural", "") if isinstance(types, Mapping) else ""
        answer = answer.strip().removesuffix(".")
        record = Question(key, (image_id,), question.strip(), answer, str(kind), rationale=tuple(steps))
        questions_of.setdefault(image_id, []).append(record)
    return questions_of
