"""Apply changes to a scene graph. The changes are plain JSON, so that a reader of a pair can rebuild the edited graph.

* ``{"op": "swap", "what": "links" | "name" | "attribute", "nodes": [a, b]}``, with ``"words": [x, y]`` for attributes
  and, in English text, ``"names"`` for links
* ``{"op": "replace", "nodes": [a], "name": ..., "attributes": [...]}``; ``"was"`` is the previous name
* ``{"op": "detail", "nodes": [a], "word": ...}``; ``"instead"`` is the attribute that the word replaces
* ``{"op": "leave-out", "step": ...}`` omits a step and does not change the graph
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from scramble.scenegraphs import GraphError, Link, Node, SceneGraph

GraphChange = dict[str, Any]


def apply(graph: SceneGraph, changes: Iterable[Mapping[str, Any]]) -> SceneGraph:
    """Apply the changes in order. Raises GraphError if a change names an object that the graph does not contain."""
    for change in changes:
        if missing := [node for node in change.get("nodes", ()) if node not in graph.by_id]:
            raise GraphError(
                f"the change {change['op']!r} names the object {missing[0]!r}, which the graph does not contain: apply "
                "changes only to the graph for which they were recorded"
            )
        graph = _OPS[change["op"]](graph, change)
    return graph


def _swap(graph: SceneGraph, change: Mapping[str, Any]) -> SceneGraph:
    a, b = (graph.by_id[node] for node in change["nodes"])
    if change["what"] == "links":
        other = {a.id: b.id, b.id: a.id}
        links = tuple(
            Link(other.get(k.subject, k.subject), k.predicate, other.get(k.object, k.object)) for k in graph.links
        )
        moved = graph.with_node(replace(a, box=b.box)).with_node(replace(b, box=a.box))
        return replace(moved, links=links)
    if change["what"] == "name":
        return graph.with_node(replace(a, name=b.name)).with_node(replace(b, name=a.name))
    x, y = change["words"]
    return graph.with_node(_with(a, x, y)).with_node(_with(b, y, x))


def _with(node: Node, old: str, new: str) -> Node:
    return replace(node, attributes=tuple(new if word == old else word for word in node.attributes))


def _replace(graph: SceneGraph, change: Mapping[str, Any]) -> SceneGraph:
    node = graph.by_id[change["nodes"][0]]
    return graph.with_node(replace(node, name=change["name"], attributes=tuple(change["attributes"])))


def _detail(graph: SceneGraph, change: Mapping[str, Any]) -> SceneGraph:
    node = graph.by_id[change["nodes"][0]]
    others = tuple(word for word in node.attributes if word != change.get("instead"))
    return graph.with_node(replace(node, attributes=(*others, change["word"])))


_OPS: dict[str, Callable[[SceneGraph, Mapping[str, Any]], SceneGraph]] = {
    "swap": _swap,
    "replace": _replace,
    "detail": _detail,
    "leave-out": lambda graph, change: graph,
}


def facts_changed(before: SceneGraph, after: SceneGraph) -> dict[str, list[str]]:
    """Return, in words, the facts that are only in ``before`` (``removed``) or only in ``after`` (``added``)."""
    removed, added = before.facts - after.facts, after.facts - before.facts
    return {"removed": sorted(before.say(f) for f in removed), "added": sorted(after.say(f) for f in added)}


class Cooccurrence:
    """Counts how often objects occur together, to estimate how plausible an absent object is."""

    def __init__(self, scenes: Iterable[Sequence[str]]) -> None:
        """Count the labels in ``scenes``. Each scene is the list of labels of an image's objects."""
        self.counts: Counter[str] = Counter()
        self._pairs: Counter[tuple[str, str]] = Counter()
        for labels in scenes:
            unique_labels = sorted(set(labels))
            self.counts.update(unique_labels)
            self._pairs.update((a, b) for a in unique_labels for b in unique_labels if a != b)

    def weight(self, label: str, others: Iterable[str]) -> float:
        """Return how often a label occurs with the other labels, plus one, or 0 for a label that never occurs."""
        if not self.counts[label]:
            return 0.0
        return 1.0 + sum(self._pairs[label, other] for other in others)
