"""Winoground: which of two captions with the same words fits which of two images?

Paper: Thrush et al., CVPR 2022 (arXiv 2204.03162). Data: ``facebook/winoground`` (gated), split test, or the folder of
a mirror (``examples.jsonl`` and ``images/``). Counts: 400 items. Chance: text 25, image 25, group 16.67, group matching
50. Human: text 89.5, image 88.5, group 85.5 (paper, table 3).

The three scores are defined as on the data card. The scores have not been compared with published scores of models,
because the published scores are gated and were not available.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scramble.evaluation.benchmarks.data import (
    HubImages,
    check_count,
    columns,
    find_file,
    hub_rows,
    ids,
    json_rows,
    load_json,
    text_rows,
    texts,
)
from scramble.evaluation.benchmarks.image_files import folder_images
from scramble.evaluation.benchmarks.item_checks import check_items
from scramble.evaluation.items import Benchmark, EvaluationError, Item
from scramble.evaluation.scoring.metrics import TWO_BY_TWO_CHANCE
from scramble.records import ImageFile, TwoByTwoItem

HUB_ID = "facebook/winoground"
HUMAN = {"text": 89.5, "image": 88.5, "group": 85.5}


def load(root: str | Path | None = None, *, why_hard: str | Path | None = None, partial: bool = False) -> Benchmark:
    """Load the 400 items with their tags.

    Args:
        root: folder with ``examples.jsonl`` and images, or with the parquet files of the hub (default: the hub).
        why_hard: ``new_tag_assignments.json`` (Diwan et al. 2022), which contains the tags by id (default: a file named
            ``why_winoground_hard.json`` or ``new_tag_assignments.json`` below ``root``, if there is one).
        partial: accept an incomplete copy.
    """
    images: Mapping[str, ImageFile]
    rows: list[dict[str, Any]]
    if root is not None and list(Path(root).rglob("examples.jsonl")):
        listing = find_file("winoground", root, "examples.jsonl")
        rows = json_rows("winoground", listing)
        names = [ids("winoground", row, f"row {n} of {listing}", "image_0", "image_1") for n, row in enumerate(rows)]
        images = folder_images("winoground", root, [n for pair in names for n in pair], "root")
    else:
        data = hub_rows("winoground", HUB_ID, "test", root)
        columns("winoground", data, ("id", "image_0", "image_1", "caption_0", "caption_1"))
        rows = text_rows("winoground", data)
        images = hub = HubImages(data)
        names = [[hub.add(f"{row['id']}/{i}", n, f"image_{i}") for i in (0, 1)] for n, row in enumerate(rows)]
    hard = _why_hard(root, why_hard)
    items = [_item(row, pair, hard) for row, pair in zip(rows, names, strict=True)]
    version = check_count("winoground", len(items), {400: "winoground-400"}, partial)
    return Benchmark(
        "winoground", version, check_items("winoground", items), images, "plain", chance=TWO_BY_TWO_CHANCE, human=HUMAN
    )


def _item(row: dict[str, Any], images: list[str], hard: Mapping[str, list[str]]) -> Item:
    where = f"row {row.get('id')}"
    (key,), (first, second) = (
        ids("winoground", row, where, "id"),
        texts("winoground", row, where, "caption_0", "caption_1"),
    )
    predicates = row.get("num_main_preds")
    if predicates is not None and not str(predicates).isdecimal():
        raise EvaluationError(
            f"winoground: {where}: num_main_preds is {predicates!r:.60}, not an integer: download the data again"
        )
    tags = [
        *([f"collapsed:{row['collapsed_tag']}"] if row.get("collapsed_tag") else []),
        *([f"{predicates} main pred{'s' if int(predicates) > 1 else ''}"] if predicates else []),
        *(f"tag:{tag.strip()}" for tag in str(row.get("tag") or "").split(",") if tag.strip()),
        *(f"why-hard:{tag}" for tag in hard.get(key, [])),
    ]
    return Item(TwoByTwoItem(key, (images[0], images[1]), (first, second)), "quad", tags=tuple(tags))


def _why_hard(root: str | Path | None, path: str | Path | None) -> Mapping[str, list[str]]:
    if path is None:
        names = ("why_winoground_hard.json", "new_tag_assignments.json")
        files = [p for n in names for p in Path(root).rglob(n)] if root is not None and Path(root).is_dir() else []
        if not files:
            return {}
        path = files[0]
    found_tags = load_json("winoground", Path(path))
    if not isinstance(found_tags, dict) or not all(isinstance(tags, list) for tags in found_tags.values()):
        raise EvaluationError(
            f"winoground: {path} does not map ids to lists of tags: set benchmark.winoground.why_hard to the "
            "path of new_tag_assignments.json"
        )
    return {str(key): [str(tag) for tag in tags] for key, tags in found_tags.items()}
