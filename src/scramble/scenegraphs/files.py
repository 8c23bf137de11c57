"""Read scene graphs of Visual Genome and GQA, and convert each entry to the layout of image records.

Visual Genome's file (``scene_graphs.json``) is a list of ``{"image_id", "objects": [{"object_id", "names" or "name",
"attributes", "x", "y", "w", "h"}], "relationships": [{"subject_id", "predicate", "object_id"}]}``, with ids and boxes
as numbers. GQA's files (``*_sceneGraphs.json``) map image ids to ``{"width", "height", "objects": {id: {"name", "x",
"y", "w", "h", "attributes", "relations": [{"name", "object"}]}}}``. Files are loaded into memory: GQA's largest file
needs about 2 GB, and Visual Genome's file needs about 5 GB.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scramble.scenegraphs.graph import GraphError
from scramble.storage.files import StoreError, read_json


def read_graphs(path: str | Path) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Yield the image id and the graph of each entry of a file. The graph of an invalid entry is None.

    The layout is detected from the content of the file. The graphs can have defects, which
    :func:`scramble.scenegraphs.read_graph` counts and removes.

    Raises:
        GraphError: the file cannot be read, or has neither of the two layouts.
    """
    try:
        value = read_json(path)
    except StoreError as error:
        raise GraphError(str(error)) from error
    if isinstance(value, Mapping):
        for image_id, entry in value.items():
            yield str(image_id), gqa_graph(entry)
    elif isinstance(value, list):
        for number, entry in enumerate(value, 1):
            has_id = isinstance(entry, Mapping) and entry.get("image_id") is not None
            yield (str(entry["image_id"]), visual_genome_graph(entry)) if has_id else (f"entry {number}", None)
    else:
        raise GraphError(
            f"{path} must contain a JSON object (scene graphs of GQA) or a JSON list (scene graphs of Visual Genome)"
        )


def gqa_graph(entry: Any) -> dict[str, Any] | None:
    """Convert an entry of GQA to the layout of image records. Return None if the entry contains no objects."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("objects"), Mapping):
        return None
    objects: list[dict[str, Any]] = []
    links: list[dict[str, Any]] = []
    for ident, thing in entry["objects"].items():
        if not isinstance(thing, Mapping):
            objects.append({"id": str(ident)})
            continue
        objects.append(
            {
                "id": str(ident),
                "name": thing.get("name"),
                "attributes": _list(thing.get("attributes")),
                "bbox": _corners(thing),
            }
        )
        links += [
            {"subject": str(ident), "predicate": link.get("name"), "object": _ident(link.get("object"))}
            for link in _list(thing.get("relations"))
            if isinstance(link, Mapping)
        ]
    size = {side: entry[side] for side in ("width", "height") if isinstance(entry.get(side), (int, float))}
    return {**size, "objects": objects, "relations": links}


def visual_genome_graph(entry: Any) -> dict[str, Any] | None:
    """Convert an entry of Visual Genome to the layout of image records.

    Return None if the entry contains no objects.
    """
    if not isinstance(entry, Mapping) or not isinstance(entry.get("objects"), list):
        return None
    objects = []
    for thing in entry["objects"]:
        if not isinstance(thing, Mapping):
            continue
        names = _list(thing.get("names")) or [thing.get("name")]
        objects.append(
            {
                "id": _ident(thing.get("object_id")),
                "name": names[0],
                "attributes": _list(thing.get("attributes")),
                "bbox": _corners(thing),
            }
        )
    links = [
        {
            "subject": _ident(link.get("subject_id", _inner(link, "subject"))),
            "predicate": link.get("predicate"),
            "object": _ident(link.get("object_id", _inner(link, "object"))),
        }
        for link in _list(entry.get("relationships"))
        if isinstance(link, Mapping)
    ]
    return {"objects": objects, "relations": links}


def _corners(thing: Mapping[str, Any]) -> list[float] | None:
    sides = [thing.get(side) for side in ("x", "y", "w", "h")]
    if any(not isinstance(side, (int, float)) for side in sides):
        return None
    x, y, w, h = (float(side) for side in sides if side is not None)
    return [x, y, x + w, y + h]


def _inner(link: Mapping[str, Any], side: str) -> Any:
    """Return the id of an object that a relationship contains as a mapping, as in Visual Genome's older files."""
    thing = link.get(side)
    return thing.get("object_id") if isinstance(thing, Mapping) else None


def _list(value: Any) -> list[Any]:
    """Convert a value to a list. A single value becomes a list with one element, and None becomes an empty list."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _ident(value: Any) -> str | None:
    return None if value is None else str(value)
