"""Which objects an answer hangs on: those that a question and its rationale mention, tested by ablation.

A mentioned object is critical if the graph without it, or with one of its properties changed, gives another answer (or
none). Objects whose removal already changes the answer come first, then by degree in the graph, then by mention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from scramble.scenegraphs import SceneGraph

Answer = Callable[[SceneGraph], str | None]


@dataclass(frozen=True, slots=True)
class Critical:
    """A critical object: whether its removal changes the answer (or only a change of it), and the tie-breakers."""

    node: str
    by_removal: bool
    degree: int
    mention: int


def critical_nodes(
    graph: SceneGraph,
    mentioned: Sequence[str],
    answer: Answer,
    variants: Callable[[SceneGraph, str], Iterable[SceneGraph]] = lambda graph, node: (),
) -> list[Critical]:
    """The critical objects among those mentioned, most critical first.

    Args:
        mentioned: ids in order of mention.
        answer: the answer that a graph gives; None where it gives none.
        variants: the graphs in which one property of a node is another.
    """
    given = answer(graph)
    found = []
    for place, node in enumerate(dict.fromkeys(mentioned)):
        by_removal = answer(graph.without(node)) != given
        if by_removal or any(answer(variant) != given for variant in variants(graph, node)):
            found.append(Critical(node, by_removal, graph.degree(node), place))
    return sorted(found, key=lambda c: (not c.by_removal, -c.degree, c.mention))
