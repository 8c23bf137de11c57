"""Define scene graphs and their layout as plain JSON in image records.

The layout is ``{"width", "height", "objects": [{"id", "name", "attributes": [...], "bbox": [x0, y0, x1, y1]}],
"relations": [{"subject", "predicate", "object"}]}``. Boxes are in pixels. ``width``, ``height`` and ``bbox`` may be
missing. Relations may form cycles ("left of" and "right of" always do).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

Fact = tuple[str, ...]
"""``("object", id, name)``, ``("attribute", id, word)`` or ``("relation", subject id, predicate, object id)``."""


class GraphError(ValueError):
    """Raised if a scene graph is malformed or cannot be read."""


@dataclass(frozen=True, slots=True)
class Node:
    """Represents an object. ``box`` is (left, top, right, bottom) in pixels, or None if unknown."""

    id: str
    name: str
    attributes: tuple[str, ...] = ()
    box: tuple[float, float, float, float] | None = None

    @property
    def label(self) -> str:
        """The attributes and the name as a phrase."""
        return " ".join((*self.attributes, self.name))


@dataclass(frozen=True, slots=True)
class Link:
    """Represents a relation between two nodes, which are given by their ids."""

    subject: str
    predicate: str
    object: str


@dataclass(frozen=True)
class SceneGraph:
    """Holds the nodes of a graph and the links between them."""

    nodes: tuple[Node, ...]
    links: tuple[Link, ...] = ()
    width: float | None = None
    height: float | None = None

    @cached_property
    def by_id(self) -> dict[str, Node]:
        return {node.id: node for node in self.nodes}

    @cached_property
    def neighbours(self) -> dict[str, tuple[str, ...]]:
        """The ids of the nodes to which each node is linked, in either direction, in the order of the links."""
        linked: dict[str, dict[str, None]] = {node.id: {} for node in self.nodes}
        for link in self.links:
            linked[link.subject][link.object] = None
            linked[link.object][link.subject] = None
        return {node: tuple(others) for node, others in linked.items()}

    @cached_property
    def facts(self) -> frozenset[Fact]:
        """All facts of the graph: one per name, attribute and relation."""
        facts: set[Fact] = {("object", node.id, node.name) for node in self.nodes}
        facts |= {("attribute", node.id, word) for node in self.nodes for word in node.attributes}
        facts |= {("relation", link.subject, link.predicate, link.object) for link in self.links}
        return frozenset(facts)

    def degree(self, node: str) -> int:
        """Return the number of links of a node."""
        return sum(node in (link.subject, link.object) for link in self.links)

    def distances(self, start: Iterable[str]) -> dict[str, int]:
        """Return the minimum number of links from any start node to each reachable node. Cycles are allowed."""
        lengths = dict.fromkeys(start, 0)
        queue = deque(lengths)
        while queue:
            node = queue.popleft()
            for other in self.neighbours[node]:
                if other not in lengths:
                    lengths[other] = lengths[node] + 1
                    queue.append(other)
        return lengths

    def without(self, node: str) -> SceneGraph:
        """Return the graph without a node and its links."""
        nodes = tuple(n for n in self.nodes if n.id != node)
        return replace(self, nodes=nodes, links=tuple(k for k in self.links if node not in (k.subject, k.object)))

    def with_node(self, node: Node) -> SceneGraph:
        """Return the graph in which ``node`` replaces the node with the same id."""
        return replace(self, nodes=tuple(node if n.id == node.id else n for n in self.nodes))

    def part(self, ids: Iterable[str]) -> SceneGraph:
        """Return the graph of the given nodes and the links between them."""
        selected = set(ids)
        links = tuple(k for k in self.links if {k.subject, k.object} <= selected)
        return replace(self, nodes=tuple(n for n in self.nodes if n.id in selected), links=links)

    def say(self, fact: Fact) -> str:
        """Return a fact in words, with the names of nodes instead of their ids."""
        names = {node.id: node.name for node in self.nodes}
        if fact[0] == "object":
            return fact[2]
        if fact[0] == "attribute":
            return f"{names.get(fact[1], fact[1])} is {fact[2]}"
        return f"{names.get(fact[1], fact[1])} {fact[2]} {names.get(fact[3], fact[3])}"

    def to_json(self) -> dict[str, Any]:
        """Convert the graph to the layout of image records."""
        objects = [
            {"id": n.id, "name": n.name, "attributes": list(n.attributes)} | ({"bbox": list(n.box)} if n.box else {})
            for n in self.nodes
        ]
        links = [{"subject": k.subject, "predicate": k.predicate, "object": k.object} for k in self.links]
        size = {"width": self.width, "height": self.height} if self.width and self.height else {}
        return {**size, "objects": objects, "relations": links}


def read_graph(value: Any, problems: Counter[str] | None = None) -> SceneGraph:
    """Parse a scene graph from its JSON layout.

    Args:
        problems: counts defects (a dangling id, a duplicate object, a relation of an object to itself, ...) by reason.
            The parts with defects are removed. With None, the first defect raises GraphError.
    Raises:
        GraphError: the value is not a graph, has no usable object, or (without ``problems``) has a defect.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("objects"), (list, tuple)):
        raise GraphError(
            "a scene graph must be a JSON object whose list 'objects' contains objects with 'id' and 'name'"
        )

    def wrong(reason: str, what: object) -> None:
        if problems is None:
            raise GraphError(f"the scene graph contains a defect ({reason}): correct or remove {what}")
        problems[reason] += 1

    nodes: dict[str, Node] = {}
    looks: dict[tuple[Any, ...], str] = {}  # all fields of a node except its id -> the id
    same: dict[str, str] = {}  # id of a duplicate -> id of the object that it repeats
    for entry in value["objects"]:
        node = _node(entry)
        if node is None:
            wrong("object without id or name", entry)
        elif node.id in nodes or node.id in same:
            wrong("duplicate id", node.id)
        elif node.box is not None and (node.name, node.attributes, node.box) in looks:
            wrong("duplicate object", node.id)
            same[node.id] = looks[node.name, node.attributes, node.box]
        else:
            nodes[node.id] = node
            looks[node.name, node.attributes, node.box] = node.id
    if not nodes:
        raise GraphError("the scene graph has no object with 'id' and 'name'")
    links: dict[Link, None] = {}
    for entry in value.get("relations") or ():
        link = _link(entry, same)
        if link is None:
            wrong("relation without subject, predicate or object", entry)
        elif link.subject not in nodes or link.object not in nodes:
            wrong("dangling relation", f"{link.subject} {link.predicate} {link.object}")
        elif link.subject == link.object:
            wrong("relation of an object to itself", f"{link.subject} {link.predicate}")
        elif link in links:
            wrong("duplicate relation", f"{link.subject} {link.predicate} {link.object}")
        else:
            links[link] = None
    return SceneGraph(tuple(nodes.values()), tuple(links), _number(value.get("width")), _number(value.get("height")))


def _node(entry: Any) -> Node | None:
    if not isinstance(entry, Mapping):
        return None
    name, ident = _text(entry.get("name")), entry.get("id")
    if not name or ident is None or not str(ident):
        return None
    words = entry.get("attributes") or ()
    attributes = tuple(dict.fromkeys(filter(None, map(_text, words)))) if isinstance(words, (list, tuple)) else ()
    return Node(str(ident), name, attributes, _box(entry.get("bbox")))


def _link(entry: Any, same: Mapping[str, str]) -> Link | None:
    if not isinstance(entry, Mapping):
        return None
    subject, target = entry.get("subject"), entry.get("object")
    predicate = _text(entry.get("predicate"))
    if subject is None or target is None or not predicate:
        return None
    return Link(same.get(str(subject), str(subject)), predicate, same.get(str(target), str(target)))


def _text(value: Any) -> str:
    return " ".join(value.lower().split()) if isinstance(value, str) else ""


def _box(value: Any) -> tuple[float, float, float, float] | None:
    if not isinstance(value, (list, tuple)) or len(value) != 4:
        return None
    numbers = [_number(v) for v in value]
    if any(n is None for n in numbers):
        return None
    left, top, right, bottom = (float(n) for n in numbers if n is not None)
    return (left, top, right, bottom) if right >= left and bottom >= top else None


def _number(value: Any) -> float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
