"""SceneAlign on a data set folder: its images with graphs and questions with rationales, as a stream of pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from scramble import rationales
from scramble.negatives.scenealign import KINDS
from scramble.negatives.scenealign.cases import SceneAlignError, Settings
from scramble.negatives.scenealign.interventions import Cooccurrence
from scramble.negatives.scenealign.pairs import Interventions, OnSkip, build_pairs, cases
from scramble.records import ImageRecord, PreferencePair, Question
from scramble.scenegraphs import GraphError, Node, read_graph
from scramble.store import read_table, table_path

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
        engine: of ``rewrite="engine"``: kind and options, see :func:`scramble.engines.open_engine`.
        rewrite: ``template`` (the embedded world), ``words`` (rules) or ``engine`` (a language model).
        kinds, edits, distance, answer, balance: see :class:`scramble.negatives.scenealign.cases.Settings`.
        own: options of the rewriting: see ``words.WordInterventions`` and ``rewrite.EngineInterventions``.
    Raises:
        SceneAlignError: settings that do not go together, or a folder without questions.
    """
    if rewrite not in REWRITES:
        raise SceneAlignError(f"no rewriting is called {rewrite!r}: choose among {', '.join(REWRITES)}")
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
    interventions = _interventions(rewrite, settings, folder, engine, stack, own)
    problems: Counter[str] = Counter()
    misses: Counter[str] = Counter()
    found = cases(read_table(folder, ImageRecord), read_table(folder, Question), on_skip, problems)
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


def _interventions(
    rewrite: str,
    settings: Settings,
    folder: Path,
    engine: Mapping[str, Any] | None,
    stack: ExitStack,
    own: Mapping[str, Any],
) -> Interventions:
    if rewrite == "template":
        from scramble.negatives.scenealign.world_pairs import WorldInterventions, label

        if own:
            raise SceneAlignError(f"rewrite=template has no option {sorted(own)[0]!r}")
        return WorldInterventions(settings, seen_together(folder, label))
    from scramble.negatives.scenealign.words import WordInterventions

    seen = seen_together(folder, lambda node: node.name)
    if rewrite == "words":
        return WordInterventions(settings, seen, **own)
    from scramble.engines import ReplyStore, open_engine
    from scramble.negatives.scenealign.rewrite import EngineInterventions

    if engine is None:
        raise SceneAlignError("rewrite=engine asks a language model: give negatives.engine (kind, model, base_url)")
    opened = stack.enter_context(open_engine(**engine))
    store = stack.enter_context(ReplyStore(folder / "replies"))
    return EngineInterventions(settings, seen, opened, store, **own)


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
