"""ColorSwap: 2x2 sets whose captions differ in the order of two colour words.

Paper: Burapacheep et al., ACL Findings 2024 (arXiv 2402.04492). Data: ``stanfordnlp/colorswap`` (gated), split test.
Counts: 300 items. Chance: text 25, image 25, group 16.67, group matching 50. Human: not checked. The tags of an item
are the sources of its captions and images.

``protocol=colorswap`` asks the paper's two questions (which caption fits the image, which image fits the caption) and
parses the replies by the paper's rule. Tests compare the parsed replies with those of the authors' code on recorded
replies of three models. All items are scored, whereas the authors' code skips items that raise an error, separately for
each task.
"""

from __future__ import annotations

from pathlib import Path

from scramble.evaluation.benchmarks.data import HubImages, check_count, columns, hub_rows, ids, text_rows, texts
from scramble.evaluation.benchmarks.item_checks import check_items
from scramble.evaluation.benchmarks.rejected import RejectedRows
from scramble.evaluation.items import Benchmark, Item
from scramble.evaluation.scoring.metrics import TWO_BY_TWO_CHANCE
from scramble.records import TwoByTwoItem

HUB_ID = "stanfordnlp/colorswap"


def load(root: str | Path | None = None, *, partial: bool = False) -> Benchmark:
    """Load the 300 test items from the hub, or from a folder with its parquet files."""
    data = hub_rows("colorswap", HUB_ID, "test", root)
    columns("colorswap", data, ("id", "caption_1", "caption_2", "image_1", "image_2"))
    images, items, bad = HubImages(data), [], RejectedRows("colorswap", root or HUB_ID)
    for number, row in enumerate(text_rows("colorswap", data)):
        with bad.row(number):
            (key,) = ids("colorswap", row, f"row {number}", "id")
            one, two = texts("colorswap", row, f"row {key}", "caption_1", "caption_2")
            first, second = (images.add(f"{key}/{k}", number, f"image_{k}") for k in (1, 2))
            sources = ((part, row.get(f"{part}_source")) for part in ("caption", "image"))
            tags = tuple(f"{part}:{source}" for part, source in sources if source)
            items.append(Item(TwoByTwoItem(key, (first, second), (one, two)), "quad", tags=tags))
    bad.finish(len(items), partial)
    version = check_count("colorswap", len(items), {300: "colorswap-test-300"}, partial)
    checked = check_items("colorswap", items)
    return Benchmark("colorswap", version, checked, images, "plain", chance=TWO_BY_TWO_CHANCE)
