"""A scene graph lists the objects of an image, with attributes and boxes, and the relations between these objects.

The embedded world writes exact graphs. :mod:`~scramble.scenegraphs.files` reads the graphs of Visual Genome and GQA,
:mod:`~scramble.scenegraphs.captions` parses captions, and :mod:`~scramble.scenegraphs.describe` requests graphs from a
model.
"""

from scramble.scenegraphs.graph import GraphError, Link, Node, SceneGraph, read_graph

__all__ = ["GraphError", "Link", "Node", "SceneGraph", "read_graph"]
