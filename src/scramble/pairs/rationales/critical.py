"""Find the objects on which an answer depends, by ablation of the objects that a question and its rationale mention.

A mentioned object is critical if the answer changes or becomes undefined when the object is removed from the graph or
when one of its properties is changed. Objects whose removal changes the answer come first. Ties are broken by the
number of links in the graph, and then by the order of mention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from scramble.scenegraphs import SceneGraph

Answer = Callable[[SceneGraph], str | None]


def critical_nodes(
    graph: SceneGraph,
    mentioned: Sequence[str],
    answer: Answer,
    variants: Callable[[SceneGraph, str], Iterable[SceneGraph]],
) -> tuple[str, ...]:
    """Return the ids of the critical objects among the mentioned objects, most critical first.

    Args:
        mentioned: ids of objects in order of mention.
        answer: function that returns the answer that follows from a graph, or None.
        variants: function that yields the graphs in which one property of a node is changed.
    """
    original = answer(graph)
    critical = []
    for node in dict.fromkeys(mentioned):
        by_removal = answer(graph.without(node)) != original
        if by_removal or any(answer(variant) != original for variant in variants(graph, node)):
            critical.append((not by_removal, -graph.degree(node), node))
    return tuple(node for *_, node in sorted(critical, key=lambda entry: entry[:2]))
