"""SceneAlign on a data set folder: its images with graphs and questions with rationales, as a stream of pairs."""

from __future__ import annotations

import dataclasses
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scramble.grading import rationales
from scramble.pairs.rationales import KINDS
from scramble.pairs.rationales.assemble_rationales import Interventions, OnSkip, build_pairs, cases
from scramble.pairs.rationales.cases import SceneAlignError, Settings
from scramble.pairs.rationales.graph_edits import Cooccurrence
from scramble.records import ImageFile, ImageRecord, PreferencePair, Question
from scramble.scenegraphs import GraphError, Node, read_graph
from scramble.storage.tables import read_table, table_path

if TYPE_CHECKING:
    from scramble.engines import Engine, ReplyStore

GRAPHS = ("given", "captions", "engine")
REWRITES = ("template", "words", "engine")


def folder_pairs(
    folder: Path,
    stack: ExitStack,
    on_skip: OnSkip,
    *,
    seed: int,
    engine: Mapping[str, Any] | None = None,
    prompt: str = rationales.ASK,
    rewrite: str = "template",
    graphs: str = "given",
    pipeline: str | None = None,
    kinds: Mapping[str, float] | None = None,
    per_question: int = 1,
    edits: Mapping[int, float] | None = None,
    distance: tuple[int, int] | None = None,
    answer: str = "follow",
    balance: str = "pad",
    **own: Any,
) -> tuple[Iterator[PreferencePair], Callable[[], dict[str, Any]]]:
    """The pairs of a split's folder, and a function that says what was counted (call it when the stream has ended).

    Args:
        stack: closes what is opened (engine, store of replies).
        engine: of ``rewrite="engine"`` and ``graphs="engine"``: kind and options, see
            :func:`scramble.engines.open_engine`.
        graphs: ``given``; for images that come without one also ``captions`` (parsed by a spaCy ``pipeline``) or
            ``engine`` (a multimodal model is asked).
        rewrite: ``template`` (the embedded world), ``words`` (rules) or ``engine`` (a language model).
        kinds, edits, distance, answer, balance: see :class:`scramble.pairs.rationales.cases.Settings`.
        own: options of the rewriting: see ``words.WordInterventions`` and ``rewrite.EngineInterventions``.
    Raises:
        SceneAlignError: settings that do not go together, or a folder without questions.
    """
    if rewrite not in REWRITES:
        raise SceneAlignError(f"no rewriting is called {rewrite!r}: choose among {', '.join(REWRITES)}")
    if graphs not in GRAPHS:
        raise SceneAlignError(f"no source of graphs is called {graphs!r}: choose among {', '.join(GRAPHS)}")
    if not table_path(folder, Question).exists():
        raise SceneAlignError(
            f"{folder} has no questions: rationales come with questions (data=world, data=gqa, or a questions.parquet)"
        )
    settings = Settings(
        kinds=dict.fromkeys(KINDS, 1.0) if kinds is None else {k: float(w) for k, w in kinds.items() if w is not None},
        edits={1: 1.0} if edits is None else {int(n): float(w) for n, w in edits.items()},
        distance=None if distance is None else (distance[0], distance[1]),
        answer=answer,
        balance=balance,
    )
    asked = _open(engine, folder, stack) if "engine" in (rewrite, graphs) else None
    interventions = _interventions(rewrite, settings, folder, asked, own)
    problems: Counter[str] = Counter()
    misses: Counter[str] = Counter()
    questions = list(read_table(folder, Question))
    wanted = {name for question in questions for name in question.image_ids}
    images: Iterable[ImageRecord]
    images = (record for record in read_table(folder, ImageRecord) if record.image_id in wanted)
    if graphs == "captions":
        images = graphs_of_captions(images, pipeline)
    elif asked is not None and graphs == "engine":
        images = graphs_of_model(images, *asked, problems)
    found = cases(images, questions, on_skip, problems)
    pairs = build_pairs(
        found, interventions, prompt=prompt, per_question=per_question, seed=seed, on_skip=on_skip, misses=misses
    )

    def counted() -> dict[str, Any]:
        totals = getattr(interventions, "totals", None)
        return {
            "graph_defects": dict(problems.most_common()),
            "kinds_without_room": dict(misses.most_common()),
            **({"engine": totals()} if totals else {}),
        }

    return pairs, counted


def _open(engine: Mapping[str, Any] | None, folder: Path, stack: ExitStack) -> tuple[Engine, ReplyStore]:
    from scramble.engines import ReplyStore, open_engine

    if engine is None:
        raise SceneAlignError("a model is to be asked: give negatives.engine (kind, model, base_url)")
    return stack.enter_context(open_engine(**engine)), stack.enter_context(ReplyStore(folder / "replies"))


def _interventions(
    rewrite: str,
    settings: Settings,
    folder: Path,
    asked: tuple[Engine, ReplyStore] | None,
    own: Mapping[str, Any],
) -> Interventions:
    if rewrite == "template":
        from scramble.pairs.rationales.interventions.world_rationales import WorldInterventions, label

        if own:
            raise SceneAlignError(f"rewrite=template has no option {sorted(own)[0]!r}")
        return WorldInterventions(settings, seen_together(folder, label))
    from scramble.pairs.rationales.interventions.english import WordInterventions
    from scramble.pairs.rationales.interventions.language_model import EngineInterventions

    seen = seen_together(folder, lambda node: node.name)
    if rewrite == "engine" and asked is not None:
        return EngineInterventions(settings, seen, *asked, **own)
    return WordInterventions(settings, seen, **own)


def graphs_of_captions(images: Iterable[ImageRecord], pipeline: str | None = None) -> Iterator[ImageRecord]:
    """Images without a scene graph get the one that their captions give: what has one name is one object."""
    from scramble.scenegraphs.captions import load_caption_parser, merged, parse_captions

    nlp = load_caption_parser(pipeline)
    for image in images:
        if image.graph is None and image.captions:
            graph = merged(parsed.graph for parsed in parse_captions(image.captions, nlp))
            image = dataclasses.replace(image, graph=graph.to_json() if graph.nodes else None)
        yield image


def graphs_of_model(
    images: Iterable[ImageRecord], engine: Engine, store: ReplyStore, problems: Counter[str]
) -> Iterator[ImageRecord]:
    """Images without a scene graph get the one that a model reports of them."""
    from scramble.scenegraphs.describe import describe

    waiting: deque[ImageRecord] = deque()

    def without() -> Iterator[ImageFile]:
        for image in images:
            waiting.append(image)
            if image.graph is None:
                yield image.image

    for graph in describe(without(), engine, store, problems):
        while waiting[0].graph is not None:
            yield waiting.popleft()
        yield dataclasses.replace(waiting.popleft(), graph=None if graph is None else graph.to_json())
    yield from waiting


def seen_together(folder: Path, label: Callable[[Node], str]) -> Cooccurrence:
    """What is seen together in the training images (in the folder's own where there is no training split)."""
    train = folder.parent / "train"
    source = train if table_path(train, ImageRecord).exists() else folder

    def scenes() -> Iterator[list[str]]:
        for record in read_table(source, ImageRecord):
            if record.graph is None:
                continue
            try:
                graph = read_graph(record.graph, Counter())
            except GraphError:
                continue  # reported where its questions are skipped
            yield [label(node) for node in graph.nodes]

    return Cooccurrence(scenes())
