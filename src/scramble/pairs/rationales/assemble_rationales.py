"""Stream preference pairs of rationales, in which a faithful rationale is preferred to a perturbed one."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from scramble.grading import rationales
from scramble.pairs.base import Skip, changed_span, seeded
from scramble.pairs.rationales import INTERVENTION_KINDS
from scramble.pairs.rationales.cases import NotPossible, Perturbed, RationaleCase, SceneAlignError, Settings
from scramble.pairs.rationales.graph_edits import apply, facts_changed
from scramble.records import ImageRecord, PreferencePair, Question
from scramble.scenegraphs import GraphError, read_graph

PREFIX = "rationale-"  # distinguishes the kinds of rationale pairs from the kinds of caption pairs


class Interventions(Protocol):
    """Perturbs rationales with the world's grammar, with rules on words, or with a language model."""

    settings: Settings

    def prepare(self, case: RationaleCase) -> Any:
        """Prepare a case for :meth:`perturb`. Raises NotPossible if the case cannot be perturbed."""
        ...

    def perturb(self, prepared: Any, kind: str, rng: random.Random) -> Perturbed:
        """Return one perturbation of a kind. Raises NotPossible if there is none."""
        ...


def cases(
    images: Iterable[ImageRecord], questions: Iterable[Question], problems: Counter[str]
) -> Iterator[RationaleCase | Skip]:
    """Yield each question with the graph of its image. Questions are loaded into memory, and images are streamed.

    Args:
        problems: counter of the removed defects of graphs, by reason (:func:`scramble.scenegraphs.read_graph`).
    """
    by_image: dict[str, list[Question]] = {}
    for question in questions:
        if len(question.image_ids) == 1:
            by_image.setdefault(question.image_ids[0], []).append(question)
        else:
            yield _skip(question, f"question about {len(question.image_ids)} images")
    for image in images:
        questions_of_image = by_image.pop(image.image_id, ())
        if not questions_of_image:
            continue
        try:
            graph = None if image.graph is None else read_graph(image.graph, problems)
            reason = "image without a scene graph"
        except GraphError:
            graph, reason = None, "unusable scene graph"
        for question in questions_of_image:
            if graph is None:
                yield _skip(question, reason)
            else:
                yield RationaleCase(image.image_id, question, graph, image.source)
    for questions_of_image in by_image.values():
        for question in questions_of_image:
            yield _skip(question, "question about a missing image")


def rationale_pairs(
    stream: Iterable[RationaleCase | Skip],
    interventions: Interventions,
    *,
    prompt: str = rationales.ASK,
    per_question: int = 1,
    seed: int = 0,
    misses: Counter[str] | None = None,
) -> Iterator[PreferencePair | Skip]:
    """Yield the pairs of a stream of cases. The selection for a question depends only on the seed and the question.

    Args:
        prompt: the prompt, which contains ``{question}``.
        per_question: number of pairs per question, each of a different kind.
        misses: counter of the reasons why a drawn kind was not possible for a question.
    Yields:
        The pairs, and a :class:`Skip` with ``image_id``, ``question`` (its id) and ``text`` for each question without a
        pair.
    Raises:
        SceneAlignError: ``per_question`` is not between 1 and the number of kinds with a weight.
    """
    skips: deque[Skip] = deque()  # questions that are skipped while later requests are already sent
    drawn = _perturbations(stream, interventions, per_question, seed, skips, misses)
    rewritten = getattr(interventions, "rewritten", None)  # exists if a language model writes the perturbed steps
    for case, result in rewritten(drawn) if rewritten else drawn:
        while skips:
            yield skips.popleft()
        if isinstance(result, str):
            yield _skip(case.question, result)
        else:
            yield _pair(case, result, prompt, seed)
    yield from skips


def _perturbations(
    stream: Iterable[RationaleCase | Skip],
    interventions: Interventions,
    per_question: int,
    seed: int,
    skips: deque[Skip],
    misses: Counter[str] | None,
) -> Iterator[tuple[RationaleCase, Perturbed]]:
    settings = interventions.settings
    kinds = [kind for kind in INTERVENTION_KINDS if settings.kinds.get(kind, 0) > 0]
    if not 1 <= per_question <= len(kinds):
        raise SceneAlignError(
            f"pairs.options.per_question must be between 1 and {len(kinds)} (the number of kinds with a weight above "
            f"0), not {per_question}"
        )
    for case in stream:
        if isinstance(case, Skip):
            skips.append(case)
            continue
        try:
            prepared = interventions.prepare(case)
        except NotPossible as error:
            skips.append(_skip(case.question, str(error)))
            continue
        rng = seeded(seed, "scenealign", case.image_id, case.question.question_id)
        count, reasons = 0, []
        for kind in _order(kinds, settings, rng):
            try:
                perturbed = interventions.perturb(prepared, kind, rng)
            except NotPossible as error:
                reasons.append(str(error))
                continue
            yield case, perturbed
            count += 1
            if count == per_question:
                break
        if misses is not None:
            misses.update(reasons)
        if not count:
            skips.append(_skip(case.question, "no intervention possible"))


def _order(kinds: list[str], settings: Settings, rng: random.Random) -> list[str]:
    """Return all kinds in a weighted random order."""
    remaining, order = list(kinds), []
    while remaining:
        (kind,) = rng.choices(remaining, weights=[settings.kinds[k] for k in remaining])
        remaining.remove(kind)
        order.append(kind)
    return order


def _pair(case: RationaleCase, perturbed: Perturbed, prompt: str, seed: int) -> PreferencePair:
    chosen = rationales.write(perturbed.chosen, perturbed.chosen_answer)
    rejected = rationales.write(perturbed.rejected, perturbed.rejected_answer)
    edited = apply(case.graph, (change for change in perturbed.changes if change["op"] != "leave-out"))
    return PreferencePair(
        pair_id=f"{case.question.question_id}-{perturbed.kind}",
        image_ids=(case.image_id,),
        prompt=rationales.ask(case.question.question, prompt),
        chosen=chosen,
        rejected=rejected,
        kind=f"{PREFIX}{perturbed.kind}",
        rule=perturbed.rule,
        edits=changed_span(chosen, rejected),
        seed=seed,
        source=case.source,
        details=perturbed.details(case.graph, facts_changed(case.graph, edited)),
    )


def _skip(question: Question, reason: str) -> Skip:
    image_id = question.image_ids[0] if question.image_ids else ""
    return Skip(reason, {"image_id": image_id, "question": question.question_id, "text": question.question[:500]})
