"""Provide SceneAlign as a pair method, which creates pairs of rationales from images with graphs and from questions."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from scramble.engines import Engine, ReplyStore, open_engine
from scramble.grading import rationales
from scramble.pairs.base import Skip
from scramble.pairs.method import WHOLE, PairMethod
from scramble.pairs.rationales import INTERVENTION_KINDS
from scramble.pairs.rationales.assemble_rationales import Interventions, cases, rationale_pairs
from scramble.pairs.rationales.cases import SceneAlignError, Settings
from scramble.pairs.rationales.graph_edits import Cooccurrence
from scramble.pairs.rationales.interventions.english import WordInterventions
from scramble.pairs.rationales.interventions.language_model import EngineInterventions
from scramble.pairs.rationales.interventions.world_rationales import WorldInterventions, label
from scramble.records import ImageRecord, PreferencePair, Question
from scramble.scenegraphs import GraphError, Node, read_graph
from scramble.scenegraphs.captions import load_caption_parser, merged, parse_captions
from scramble.scenegraphs.describe import graphs_of_model
from scramble.storage.tables import read_table, table_path

GRAPHS = ("given", "captions", "engine")
REWRITES = ("template", "words", "engine")


class SceneAlignRationales(PairMethod):
    """A pair method in whose pairs a faithful rationale is preferred to a perturbed one.

    Args:
        engine: kind and options of the engine for ``rewrite="engine"`` and ``graphs="engine"`` (see
            :func:`scramble.engines.open_engine`).
        prompt: the prompt, which contains ``{question}``.
        options: see :meth:`_set_options`.
    Raises:
        SceneAlignError: an option is invalid, the engine is missing, or a folder has no questions.
    """

    def __init__(
        self,
        *,
        seed: int,
        shard: tuple[int, int] = WHOLE,
        engine: Mapping[str, Any] | None = None,
        prompt: str = rationales.ASK,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(seed=seed, shard=shard)
        self._engine, self._prompt = engine, prompt
        self._set_options(**(options or {}))
        if self.asks_model and engine is None:
            raise SceneAlignError(
                "pairs.options.rewrite=engine and pairs.options.graphs=engine need a model: set pairs.engine (kind, "
                "model, base_url)"
            )
        self._problems: Counter[str] = Counter()
        self._misses: Counter[str] = Counter()
        self._interventions: Interventions | None = None

    def _set_options(
        self,
        *,
        rewrite: str = "template",
        graphs: str = "given",
        pipeline: str | None = None,
        kinds: Mapping[str, float] | None = None,
        per_question: int = 1,
        edits: Mapping[int, float] | None = None,
        distance: tuple[int, int] | None = None,
        answer: str = "follow",
        balance: str = "pad",
        **wording: Any,
    ) -> None:
        """Set the options of the method.

        Args:
            rewrite: ``template`` (the embedded world), ``words`` (rules) or ``engine`` (a language model).
            graphs: source of the scene graphs of images that come without a graph. ``given`` skips these images,
                ``captions`` parses the captions with a spaCy ``pipeline``, and ``engine`` prompts a multimodal model.
            per_question: number of pairs per question, each of a different kind.
            kinds, edits, distance, answer, balance: see :class:`scramble.pairs.rationales.cases.Settings`.
            wording: options of ``WordInterventions`` or ``EngineInterventions``.
        """
        if rewrite not in REWRITES:
            raise SceneAlignError(
                f"pairs.options.rewrite must be one of {', '.join(map(repr, REWRITES))}, not {rewrite!r}"
            )
        if graphs not in GRAPHS:
            raise SceneAlignError(f"pairs.options.graphs must be one of {', '.join(map(repr, GRAPHS))}, not {graphs!r}")
        if rewrite == "template" and wording:
            raise SceneAlignError(
                f"pairs.options.rewrite=template has no option {min(wording)!r}: remove pairs.options.{min(wording)}"
            )
        self._rewrite, self._graphs, self._pipeline = rewrite, graphs, pipeline
        self._per_question, self._wording = per_question, wording
        weights = None if kinds is None else {k: float(w) for k, w in kinds.items() if w is not None}
        self._settings = Settings(
            kinds=dict.fromkeys(INTERVENTION_KINDS, 1.0) if weights is None else weights,
            edits={1: 1.0} if edits is None else {int(n): float(w) for n, w in edits.items()},
            distance=None if distance is None else (distance[0], distance[1]),
            answer=answer,
            balance=balance,
        )

    @property
    def asks_model(self) -> bool:
        return "engine" in (self._rewrite, self._graphs)

    def pairs(self, split: Path) -> Iterator[PreferencePair | Skip]:
        if not table_path(split, Question).exists():
            raise SceneAlignError(
                f"{split} contains no questions, which rationale pairs need: use data=world, data=gqa, or a data "
                "folder with questions.parquet"
            )
        opened = self._open(split) if self.asks_model else None
        self._interventions = self._make_interventions(split, opened)
        # Assign shards by image, so that no two shards request the graph of the same image.
        questions = list(self.share(read_table(split, Question), lambda q: (*q.image_ids, q.question_id)[0]))
        image_ids = {name for question in questions for name in question.image_ids}
        images: Iterator[ImageRecord]
        images = (record for record in read_table(split, ImageRecord) if record.image_id in image_ids)
        if self._graphs == "captions":
            images = graphs_of_captions(images, self._pipeline)
        elif opened is not None and self._graphs == "engine":
            images = graphs_of_model(images, *opened, self._problems)
        yield from rationale_pairs(
            cases(images, questions, self._problems),
            self._interventions,
            prompt=self._prompt,
            per_question=self._per_question,
            seed=self.seed,
            misses=self._misses,
        )

    def totals(self) -> dict[str, Any]:
        """Return the numbers of graph defects and impossible interventions by reason, and the totals of the engine."""
        totals = getattr(self._interventions, "totals", None)
        return {
            "graph_defects": dict(self._problems.most_common()),
            "kinds_without_room": dict(self._misses.most_common()),
            **({"engine": totals()} if totals else {}),
        }

    def _open(self, split: Path) -> tuple[Engine, ReplyStore]:
        assert self._engine is not None  # checked in the constructor
        enter = self._stack.enter_context
        return enter(open_engine(**self._engine)), enter(ReplyStore(split / "replies", self.shard))

    def _make_interventions(self, split: Path, opened: tuple[Engine, ReplyStore] | None) -> Interventions:
        if self._rewrite == "template":
            return WorldInterventions(self._settings, count_cooccurrence(split, label))
        seen = count_cooccurrence(split, lambda node: node.name)
        if self._rewrite == "engine" and opened is not None:
            return EngineInterventions(self._settings, seen, *opened, **self._wording)
        return WordInterventions(self._settings, seen, **self._wording)


def graphs_of_captions(images: Iterable[ImageRecord], pipeline: str | None = None) -> Iterator[ImageRecord]:
    """Add scene graphs, parsed from captions, to images without a graph. Objects with the same name are merged."""
    nlp = load_caption_parser(pipeline)
    for image in images:
        if image.graph is None and image.captions:
            graph = merged(parsed.graph for parsed in parse_captions(image.captions, nlp))
            image = dataclasses.replace(image, graph=graph.to_json() if graph.nodes else None)
        yield image


def count_cooccurrence(folder: Path, label_of: Callable[[Node], str]) -> Cooccurrence:
    """Count co-occurring labels of objects in the training split, or in ``folder`` if there is no training split."""
    train = folder.parent / "train"
    source = train if table_path(train, ImageRecord).exists() else folder

    def scenes() -> Iterator[list[str]]:
        for record in read_table(source, ImageRecord):
            if record.graph is None:
                continue
            try:
                graph = read_graph(record.graph, Counter())
            except GraphError:
                continue  # the error is reported when the questions about the image are skipped
            yield [label_of(node) for node in graph.nodes]

    return Cooccurrence(scenes())
