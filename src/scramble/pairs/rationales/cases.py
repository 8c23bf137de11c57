"""Define the inputs, settings and results of interventions, for both the embedded world and real images."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from scramble.pairs.rationales import INTERVENTION_KINDS
from scramble.pairs.rationales.graph_edits import GraphChange
from scramble.records import Question
from scramble.scenegraphs import SceneGraph

T = TypeVar("T")


class SceneAlignError(ValueError):
    """Raised for settings or data that SceneAlign cannot use. The message names the setting or the data."""


@dataclass(frozen=True)
class RationaleCase:
    """A question, which may contain the faithful rationale, and the scene graph of its image."""

    image_id: str
    question: Question
    graph: SceneGraph
    source: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of interventions. All defaults are our choice.

    Attributes:
        kinds: weight of each kind of intervention.
        edits: weight of each number of changes.
        distance: minimum and maximum number of steps from the last changed step to the conclusion. At distance 0, the
            conclusion itself is changed. None allows any step to be changed.
        answer: ``follow`` (the rejected answer follows from the changed steps) or ``keep`` (the rejected answer is
            correct).
        balance: ``pad`` or ``none``. With ``pad``, a true but unneeded step replaces an omitted step, and the chosen
            side states the true detail where a false detail is added to the rejected side.
    """

    kinds: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(INTERVENTION_KINDS, 1.0))
    edits: Mapping[int, float] = field(default_factory=lambda: {1: 1.0})
    distance: tuple[int, int] | None = None
    answer: str = "follow"
    balance: str = "pad"

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.kinds) - set(INTERVENTION_KINDS)):
            raise SceneAlignError(
                f"pairs.options.kinds: unknown kind {unknown[0]!r}: choose from {', '.join(INTERVENTION_KINDS)}"
            )
        if not any(weight > 0 for weight in self.kinds.values()) or any(w < 0 for w in self.kinds.values()):
            raise SceneAlignError(
                "pairs.options.kinds must have weights of at least 0, and at least one weight must be above 0, not "
                f"{dict(self.kinds)}"
            )
        if not self.edits or any(number < 1 or weight < 0 for number, weight in self.edits.items()):
            raise SceneAlignError(
                "pairs.options.edits must map numbers of edits (at least 1) to weights (at least 0), not "
                f"{dict(self.edits)}"
            )
        if self.answer not in ("follow", "keep"):
            raise SceneAlignError(f"pairs.options.answer must be 'follow' or 'keep', not {self.answer!r}")
        if self.balance not in ("pad", "none"):
            raise SceneAlignError(f"pairs.options.balance must be 'pad' or 'none', not {self.balance!r}")
        if self.distance is not None and not 0 <= self.distance[0] <= self.distance[1]:
            raise SceneAlignError(
                "pairs.options.distance must be [minimum, maximum] with 0 <= minimum <= maximum, not "
                f"{list(self.distance)}"
            )

    def near_enough(self, distance: int) -> bool:
        """Return whether the settings allow a change at this distance from the conclusion."""
        return self.distance is None or self.distance[0] <= distance <= self.distance[1]

    def draw_edits(self, rng: random.Random) -> int:
        return rng.choices(list(self.edits), weights=list(self.edits.values()))[0]


@dataclass(frozen=True, slots=True)
class Perturbed:
    """A faithful and an unfaithful rationale, and a record of the faults of the unfaithful one.

    Attributes:
        chosen, rejected: the steps of both sides.
        false_steps: indices in ``rejected`` of the steps that the image does not support.
        missing: the needed steps that the rejected side lacks, including the steps that a false step replaces.
        padding: the true but unneeded steps of the rejected side that replace missing steps.
        distance: number of steps from the last changed step to the conclusion.
        critical: ids of the objects on which the answer depends.
        rule: the rule that made the change.
    """

    kind: str
    chosen: tuple[str, ...]
    rejected: tuple[str, ...]
    chosen_answer: str
    rejected_answer: str
    changes: tuple[GraphChange, ...]
    false_steps: tuple[int, ...]
    missing: tuple[str, ...]
    padding: tuple[str, ...]
    distance: int
    critical: tuple[str, ...]
    rule: str

    def details(self, graph: SceneGraph, edited: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """Return the ``details`` of a pair as plain JSON. The key ``difficulty`` describes the size of the change."""
        nodes = dict.fromkeys([*self.critical, *(n for change in self.changes for n in change.get("nodes", ()))])
        return {
            "intervention": self.kind,
            "changes": list(self.changes),
            "edited_facts": {side: list(facts) for side, facts in edited.items()},
            "false_steps": list(self.false_steps),
            "missing_steps": list(self.missing),
            "padding": list(self.padding),
            "answers": [self.chosen_answer, self.rejected_answer],
            "critical_nodes": list(self.critical),
            "graph": graph.part(nodes).to_json(),
            "difficulty": {
                "edits": len(self.changes),
                "distance": self.distance,
                "steps": len(self.chosen),
                "changed_share": round(len(set(self.chosen) - set(self.rejected)) / max(1, len(self.chosen)), 3),
            },
        }


class NotPossible(Exception):
    """Raised if an intervention is not possible for a case. The message is the reason."""


@dataclass
class PreparedCase:
    """A case with its steps, its answer, and the ids of the objects on which the answer depends (``critical``)."""

    rule: ClassVar[str]

    case: RationaleCase
    steps: tuple[str, ...]
    answer: str
    critical: tuple[str, ...]

    @property
    def graph(self) -> SceneGraph:
        return self.case.graph

    def altered(
        self,
        kind: str,
        chosen: Sequence[str],
        rejected: Sequence[str],
        changes: Sequence[GraphChange],
        answer: str | None = None,
    ) -> Perturbed:
        """Return a perturbation in which the steps that differ between the sides are false.

        ``answer`` is the rejected answer. If it is None, both sides have the same answer.
        """
        false = tuple(i for i, (right, wrong) in enumerate(zip(chosen, rejected, strict=True)) if right != wrong)
        return Perturbed(
            kind=kind,
            chosen=tuple(chosen),
            rejected=tuple(rejected),
            chosen_answer=self.answer,
            rejected_answer=self.answer if answer is None else answer,
            changes=tuple(changes),
            false_steps=false,
            missing=tuple(chosen[i] for i in false),
            padding=(),
            distance=len(rejected) - 1 - max(false),
            critical=self.critical,
            rule=self.rule,
        )

    def shortened(self, omitted: Sequence[int], padding: dict[int, str]) -> Perturbed:
        """Return a perturbation without the steps at the indices ``omitted``.

        ``padding`` maps indices of omitted steps to the steps that replace them.
        """
        remaining = {i: step for i, step in enumerate(self.steps) if i not in omitted} | padding
        return Perturbed(
            kind="shorten",
            chosen=self.steps,
            rejected=tuple(remaining[i] for i in sorted(remaining)),
            chosen_answer=self.answer,
            rejected_answer=self.answer,
            changes=tuple({"op": "leave-out", "step": self.steps[i]} for i in omitted),
            false_steps=(),
            missing=tuple(self.steps[i] for i in omitted),
            padding=tuple(padding.values()),
            distance=len(self.steps) - 1 - max(omitted),
            critical=self.critical,
            rule=self.rule,
        )


def draw_omitted(places: Sequence[int], count: int, rng: random.Random) -> list[int]:
    """Draw ``count`` indices from ``places``: the indices of the steps to omit.

    Raises NotPossible if there are fewer than ``count`` indices in ``places``.
    """
    if len(places) < count:
        raise NotPossible("no step to omit")
    return sorted(rng.sample(places, count))


def weighted_order(options: Sequence[tuple[float, T]], rng: random.Random) -> list[T]:
    """Return the options in a weighted random order.

    Each option gets the key u ** (1 / weight), where u is uniform in [0, 1). The probability that an option has the
    largest key is proportional to its weight.
    """
    keyed = sorted(((rng.random() ** (1 / weight), i) for i, (weight, _) in enumerate(options)), reverse=True)
    return [options[i][1] for _, i in keyed]
