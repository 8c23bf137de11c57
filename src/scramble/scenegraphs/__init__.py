"""Scene graphs: what an image holds as objects with attributes and boxes, and how they relate.

The embedded world writes its own exactly; :mod:`~scramble.scenegraphs.files` reads Visual Genome and GQA,
:mod:`~scramble.scenegraphs.captions` parses captions, :mod:`~scramble.scenegraphs.describe` asks a model.
"""

from scramble.scenegraphs.graph import GraphError, Link, Node, SceneGraph, read_graph

__all__ = ["GraphError", "Link", "Node", "SceneGraph", "read_graph"]
