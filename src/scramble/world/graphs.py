"""Scene graphs: what a scene holds as plain JSON, in the form that every other module reads.

``{"width", "height", "objects": [{"id", "name", "attributes": [colour, size], "bbox": [x0, y0, x1, y1]}],
"relations": [{"subject", "predicate", "object"}]}`` with boxes in pixels. All true relations are listed, both ways
round, so what is not listed is false.
"""

from __future__ import annotations

from typing import Any

from scramble.world.scenes import Scene, relations

Graph = dict[str, Any]


def scene_graph(scene: Scene, image_size: int) -> Graph:
    """The complete scene graph of a scene drawn with ``image_size`` pixels a side."""
    objects = [
        {
            "id": f"o{index}",
            "name": thing.shape,
            "attributes": [thing.colour, thing.size],
            "bbox": [round(edge * image_size, 2) for edge in thing.box],
        }
        for index, thing in enumerate(scene.things)
    ]
    found = [
        {"subject": f"o{i}", "predicate": relation, "object": f"o{j}"}
        for i, a in enumerate(scene.things)
        for j, b in enumerate(scene.things)
        if i != j
        for relation in relations(a, b)
    ]
    return {"width": image_size, "height": image_size, "objects": objects, "relations": found}
