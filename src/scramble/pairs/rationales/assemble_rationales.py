"""Preference pairs of rationales: the faithful one preferred to each perturbed one, streamed, every skip counted."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from scramble.grading import rationales
from scramble.pairs.base import Skip, changed_span, seeded
from scramble.pairs.rationales import KINDS
from scramble.pairs.rationales.cases import Case, NotPossible, Perturbed, SceneAlignError, Settings
from scramble.pairs.rationales.graph_edits import apply, facts_changed
from scramble.records import ImageRecord, PreferencePair, Question
from scramble.scenegraphs import GraphError, read_graph

PREFIX = "rationale-"  # of the pairs' kinds, beside those of caption pairs


class Interventions(Protocol):
    """What can perturb rationales: the world's, the word rules' or a language model's."""

    settings: Settings

    def prepare(self, case: Case) -> Any:
        """What :meth:`perturb` needs of a case. Raises NotPossible with a reason to count."""
        ...

    def perturb(self, told: Any, kind: str, rng: random.Random) -> Perturbed:
        """One perturbation of a kind. Raises NotPossible."""
        ...


def cases(
    images: Iterable[ImageRecord], questions: Iterable[Question], problems: Counter[str]
) -> Iterator[Case | Skip]:
    """Each question with the graph of its image. Questions are held in memory (text), images are streamed.

    Args:
        problems: defects of graphs by reason (dangling ids and so on); the rest of such a graph is used.
    """
    by_image: dict[str, list[Question]] = {}
    for question in questions:
        if len(question.image_ids) == 1:
            by_image.setdefault(question.image_ids[0], []).append(question)
        else:
            yield _skip(question, f"question about {len(question.image_ids)} images")
    for image in images:
        asked = by_image.pop(image.image_id, ())
        if not asked:
            continue
        try:
            graph = None if image.graph is None else read_graph(image.graph, problems)
            reason = "image without a scene graph"
        except GraphError:
            graph, reason = None, "unusable scene graph"
        for question in asked:
            if graph is None:
                yield _skip(question, reason)
            else:
                yield Case(image.image_id, question, graph, image.source)
    for asked in by_image.values():
        for question in asked:
            yield _skip(question, "question about an image that is not there")


def rationale_pairs(
    found: Iterable[Case | Skip],
    interventions: Interventions,
    *,
    prompt: str = rationales.ASK,
    per_question: int = 1,
    seed: int = 0,
    misses: Counter[str] | None = None,
) -> Iterator[PreferencePair | Skip]:
    """Pairs of a stream of cases; a question's draw depends on the seed and the question alone.

    Args:
        prompt: what is asked, with ``{question}`` in it.
        per_question: pairs a question, each of another kind.
        misses: how often a kind was drawn and the question had no room for it, by reason.
    Returns:
        Pairs, and for each question without one a :class:`Skip` with ``image_id``, ``question`` (its id) and ``text``.
    Raises:
        SceneAlignError: more pairs a question than kinds.
    """
    skips: deque[Skip] = deque()  # met while a language model, which reads ahead, drew perturbations
    drawn = _perturbations(found, interventions, per_question, seed, skips, misses)
    rewritten = getattr(interventions, "rewritten", None)  # a language model that words what was drawn
    for case, result in rewritten(drawn) if rewritten else drawn:
        while skips:
            yield skips.popleft()
        if isinstance(result, str):
            yield _skip(case.question, result)
        else:
            yield _pair(case, result, prompt, seed)
    yield from skips


def _perturbations(
    found: Iterable[Case | Skip],
    interventions: Interventions,
    per_question: int,
    seed: int,
    skips: deque[Skip],
    misses: Counter[str] | None,
) -> Iterator[tuple[Case, Perturbed]]:
    settings = interventions.settings
    wanted = [kind for kind in KINDS if settings.kinds.get(kind, 0) > 0]
    if not 1 <= per_question <= len(wanted):
        raise SceneAlignError(f"per_question={per_question}: from 1 to the number of kinds drawn ({len(wanted)})")
    for case in found:
        if isinstance(case, Skip):
            skips.append(case)
            continue
        try:
            told = interventions.prepare(case)
        except NotPossible as error:
            skips.append(_skip(case.question, str(error)))
            continue
        rng = seeded(seed, "scenealign", case.image_id, case.question.question_id)
        made, reasons = 0, []
        for kind in _order(wanted, settings, rng):
            try:
                perturbed = interventions.perturb(told, kind, rng)
            except NotPossible as error:
                reasons.append(str(error))
                continue
            yield case, perturbed
            made += 1
            if made == per_question:
                break
        if misses is not None:
            misses.update(reasons)
        if not made:
            skips.append(_skip(case.question, "no intervention possible"))


def _order(wanted: list[str], settings: Settings, rng: random.Random) -> list[str]:
    """All kinds, drawn one after the other by weight."""
    left, order = list(wanted), []
    while left:
        (kind,) = rng.choices(left, weights=[settings.kinds[k] for k in left])
        left.remove(kind)
        order.append(kind)
    return order


def _pair(case: Case, perturbed: Perturbed, prompt: str, seed: int) -> PreferencePair:
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
