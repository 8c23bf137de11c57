"""Builds the scene graphs of the embedded world as JSON values, in the layout that
:func:`scramble.scenegraphs.read_graph` reads.

The layout is ``{"width", "height", "objects": [{"id", "name", "attributes": [colour, size], "bbox": [x0, y0, x1, y1]}],
"relations": [{"subject", "predicate", "object"}]}``. Boxes are in pixels. All true relations are listed in both
directions, so a relation that is not listed is false.
"""

from __future__ import annotations

from typing import Any

from scramble.world.scenes import Scene, spatial_relations

Graph = dict[str, Any]


def scene_graph(scene: Scene, image_size: int) -> Graph:
    """Return the complete scene graph of a scene that is drawn with ``image_size`` pixels per side."""
    objects = [
        {
            "id": f"o{index}",
            "name": thing.shape,
            "attributes": [thing.colour, thing.size],
            "bbox": [round(edge * image_size, 2) for edge in thing.box],
        }
        for index, thing in enumerate(scene.things)
    ]
    links = [
        {"subject": f"o{i}", "predicate": relation, "object": f"o{j}"}
        for i, a in enumerate(scene.things)
        for j, b in enumerate(scene.things)
        if i != j
        for relation in spatial_relations(a, b)
    ]
    return {"width": image_size, "height": image_size, "objects": objects, "relations": links}
