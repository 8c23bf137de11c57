"""2x2 sets kept as a JSON list beside an image folder: EqBen-mini, COLA multi-object, NaturalBench-Retrieval.

EqBen-mini. Paper: Wang et al., ICCV 2023 (arXiv 2303.14465). Data: ``eqben_vllm/all_select.json`` and images (Google
Drive, linked from Wangt-CN/EqBen). Counts: not published, so any is taken and named. Chance: 25 / 25 / 16.67. Human:
not published.

COLA multi-object. Paper: Ray et al., NeurIPS 2023 (arXiv 2305.03689). Data:
``COLA_multiobjects_matching_benchmark.json``; images from its URLs, kept by file name. Counts: 210. Chance: 25 (the
official accuracy is the image score). Human: 83.9 (third-party report).

NaturalBench-Retrieval. Paper: Li et al., NeurIPS 2024 (arXiv 2410.14669). Data: ``metadata.json`` and images. Counts:
not published. Chance: 25 / 25 / 16.67.

Compared with a reference implementation: same definition as EqBen's and t2v_metrics' scorers, hand-worked vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scramble.evaluation.benchmarks.data import FolderImages, check_count, fields, find_file, load_json
from scramble.evaluation.benchmarks.winoground import CHANCE
from scramble.evaluation.items import Benchmark, EvaluationError, Item, check_items
from scramble.records import Quad


def load_eqben_mini(root: str | Path, *, images: str | Path | None = None, partial: bool = False) -> Benchmark:
    """EqBen-mini from the folder with ``all_select.json``; kinds are its subsets."""
    path = find_file("eqben_mini", root, "all_select.json")
    rows = _numbered(load_json("eqben_mini", path))
    quads = []
    for key, row in rows:
        first, second, one, two = fields("eqben_mini", row, f"row {key}", "image0", "image1", "caption0", "caption1")
        quads.append(Quad(key, (str(first), str(second)), (one, two), str(row.get("subset") or _subset(str(first)))))
    return _benchmark("eqben_mini", quads, images or path.parent, check_count("eqben_mini", len(quads), {}, partial))


def load_cola(root: str | Path, *, images: str | Path | None = None, partial: bool = False) -> Benchmark:
    """COLA multi-object from its JSON list (or the folder that holds it); images by file name below ``images``."""
    path = find_file("cola", root, "COLA_multiobjects_matching_benchmark.json", "*multiobject*.json")
    quads = []
    for number, row in enumerate(load_json("cola", path)):
        if not isinstance(row, Sequence) or len(row) != 4:
            raise EvaluationError(f"cola: entry {number} of {path} is not [image, caption, image, caption]")
        first, one, second, two = row
        quads.append(Quad(str(number), (Path(first).name, Path(second).name), (one, two)))
    version = check_count("cola", len(quads), {210: "cola-multiobject-210"}, partial)
    return _benchmark("cola", quads, images or path.parent, version, "cola", {"image": 83.9, "cola_official": 83.9})


def load_naturalbench_retrieval(
    root: str | Path, *, images: str | Path | None = None, partial: bool = False
) -> Benchmark:
    """NaturalBench-Retrieval from the folder with ``metadata.json``."""
    name = "naturalbench_retrieval"
    path = find_file(name, root, "metadata.json")
    quads = []
    for key, row in _numbered(load_json(name, path)):
        first, second, one, two = fields(name, row, f"row {key}", "image_0", "image_1", "caption_0", "caption_1")
        quads.append(Quad(str(row.get("index", key)), (str(first), str(second)), (one, two)))
    return _benchmark(name, quads, images or path.parent, check_count(name, len(quads), {}, partial))


def _benchmark(
    name: str,
    quads: list[Quad],
    images: str | Path,
    version: str,
    scoring: str = "plain",
    human: dict[str, float] | None = None,
) -> Benchmark:
    files = FolderImages(name, Path(images), [image for quad in quads for image in quad.image_ids])
    items = check_items(name, [Item(quad, "quad") for quad in quads])
    chance = CHANCE | ({"cola_official": 25.0} if scoring == "cola" else {})
    return Benchmark(name, version, items, files, scoring, chance=chance, human=human or {})


def _numbered(rows: Any) -> list[tuple[str, dict[str, Any]]]:
    pairs = rows.items() if isinstance(rows, dict) else enumerate(rows)
    return [(str(key), row) for key, row in pairs]


def _subset(image: str) -> str:
    """EqBen's subset from an image path (``images/eqbenag/...``), or nothing."""
    return next((part for part in Path(image).parts if part.startswith("eqben")), "")
