"""2x2 sets that are stored as a JSON list and an image folder: EqBen-mini, COLA multi-object, NaturalBench-Retrieval.

EqBen-mini. Paper: Wang et al., ICCV 2023 (arXiv 2303.14465). Data: ``eqben_vllm/all_select.json`` and images (Google
Drive, linked from Wangt-CN/EqBen). Counts: not published, so any number of items is accepted and recorded. Chance: text
25, image 25, group 16.67. Human: not published.

COLA multi-object. Paper: Ray et al., NeurIPS 2023 (arXiv 2305.03689). Data:
``COLA_multiobjects_matching_benchmark.json``, and the images at the URLs in this file, stored by file name. Counts: 210
items. Chance: image 25 (COLA's official accuracy is the image score). Human: image 83.9 (third-party report).

NaturalBench-Retrieval. Paper: Li et al., NeurIPS 2024 (arXiv 2410.14669). Data: ``metadata.json`` and images. Counts:
not published. Chance: text 25, image 25, group 16.67.

The scores are defined as in the scorers of EqBen and t2v_metrics. Tests compare the scores with values computed by
hand.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from scramble.evaluation.benchmarks.data import check_count, find_file, ids, json_entries, json_rows, load_json, texts
from scramble.evaluation.benchmarks.image_files import folder_images
from scramble.evaluation.benchmarks.item_checks import check_items
from scramble.evaluation.items import Benchmark, EvaluationError, Item
from scramble.evaluation.scoring.metrics import TWO_BY_TWO_CHANCE
from scramble.records import TwoByTwoItem


def load_eqben_mini(root: str | Path, *, images: str | Path | None = None, partial: bool = False) -> Benchmark:
    """Load EqBen-mini from the folder with ``all_select.json``. The kind of an item is its EqBen subset."""
    path = find_file("eqben_mini", root, "all_select.json")
    rows = _numbered("eqben_mini", path)
    quads = []
    for key, row in rows:
        first, second = ids("eqben_mini", row, f"row {key}", "image0", "image1")
        one, two = texts("eqben_mini", row, f"row {key}", "caption0", "caption1")
        quads.append(TwoByTwoItem(key, (first, second), (one, two), str(row.get("subset") or _subset(first))))
    return _benchmark("eqben_mini", quads, images or path.parent, check_count("eqben_mini", len(quads), {}, partial))


def load_cola(root: str | Path, *, images: str | Path | None = None, partial: bool = False) -> Benchmark:
    """Load COLA multi-object from its JSON list, or from the folder that contains the list. Images are matched by name
    below ``images``.
    """
    path = find_file("cola", root, "COLA_multiobjects_matching_benchmark.json", "*multiobject*.json")
    entries = load_json("cola", path)
    if not isinstance(entries, list):
        raise EvaluationError(
            f"cola: {path} is not a list of [image, caption, image, caption]: download the file again"
        )
    for number, row in enumerate(entries):
        if (
            not isinstance(row, list)
            or len(row) != 4
            or not all(isinstance(part, str) and part.strip() for part in row)
        ):
            raise EvaluationError(
                f"cola: entry {number} of {path} is not [image, caption, image, caption]: download the file again"
            )
    names = _file_names([row[k] for row in entries for k in (0, 2)])
    quads = [TwoByTwoItem(str(n), (names[row[0]], names[row[2]]), (row[1], row[3])) for n, row in enumerate(entries)]
    version = check_count("cola", len(quads), {210: "cola-multiobject-210"}, partial)
    return _benchmark("cola", quads, images or path.parent, version, "cola", {"image": 83.9, "cola_official": 83.9})


def load_naturalbench_retrieval(
    root: str | Path, *, images: str | Path | None = None, partial: bool = False
) -> Benchmark:
    """Load NaturalBench-Retrieval from the folder with ``metadata.json``."""
    name = "naturalbench_retrieval"
    path = find_file(name, root, "metadata.json")
    quads = []
    for number, row in _numbered(name, path):
        first, second = ids(name, row, f"row {number}", "image_0", "image_1")
        one, two = texts(name, row, f"row {number}", "caption_0", "caption_1")
        key = ids(name, row, f"row {number}", "index")[0] if "index" in row else number
        quads.append(TwoByTwoItem(key, (first, second), (one, two)))
    return _benchmark(name, quads, images or path.parent, check_count(name, len(quads), {}, partial))


def _benchmark(
    name: str,
    quads: list[TwoByTwoItem],
    images: str | Path,
    version: str,
    scoring: str = "plain",
    human: dict[str, float] | None = None,
) -> Benchmark:
    files = folder_images(name, images, [image for quad in quads for image in quad.image_ids])
    items = check_items(name, [Item(quad, "quad") for quad in quads])
    chance = TWO_BY_TWO_CHANCE | ({"cola_official": 25.0} if scoring == "cola" else {})
    return Benchmark(name, version, items, files, scoring, chance=chance, human=human or {})


def _numbered(name: str, path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the keys and rows of a file that contains a JSON list or a JSON object of rows."""
    if isinstance(load_json(name, path), dict):
        return list(json_entries(name, path).items())
    return [(str(number), row) for number, row in enumerate(json_rows(name, path))]


def _file_names(urls: list[str]) -> dict[str, str]:
    """Return a dictionary from URLs to file names. If several URLs have the same file name, their paths are returned
    instead.
    """
    paths = {url: PurePosixPath(urlsplit(url).path.lstrip("/")) for url in dict.fromkeys(urls)}
    shared = Counter(path.name for path in paths.values())
    return {url: path.name if shared[path.name] == 1 else str(path) for url, path in paths.items()}


def _subset(image: str) -> str:
    """Return the EqBen subset that an image path names (``images/eqbenag/...``), or "" if the path names no subset."""
    return next((part for part in Path(image).parts if part.startswith("eqben")), "")
