"""Find the objects on which an answer depends, by ablation of the objects that a question and its rationale mention.

A mentioned object is critical if removing it from the graph, or changing one of its properties, changes the answer or
removes it. Objects whose removal changes the answer come first. Ties are ordered by degree in the graph, then by
mention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from scramble.scenegraphs import SceneGraph

Answer = Callable[[SceneGraph], str | None]


@dataclass(frozen=True, slots=True)
class Critical:
    """A critical object. If ``by_removal``, removing it changes the answer. ``degree`` and ``mention`` break ties."""

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
    """Return the critical objects among the mentioned objects, most critical first.

    Args:
        mentioned: ids of objects in order of mention.
        answer: returns the answer that follows from a graph, or None.
        variants: yields the graphs in which one property of a node is changed.
    """
    original = answer(graph)
    critical = []
    for place, node in enumerate(dict.fromkeys(mentioned)):
        by_removal = answer(graph.without(node)) != original
        if by_removal or any(answer(variant) != original for variant in variants(graph, node)):
            critical.append(Critical(node, by_removal, graph.degree(node), place))
    return sorted(critical, key=lambda c: (not c.by_removal, -c.degree, c.mention))
