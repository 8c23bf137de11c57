"""BiVLC: 2x2 sets that add a generated image of the negative caption to SugarCrepe's pairs.

Paper: Miranda et al., NeurIPS 2024 (arXiv 2406.09952). Data: ``imirandam/BiVLC``, split test. Counts: 2,933 items
(replace obj 1,200, replace rel 462, replace att 437, add obj 399, add att 76, swap att 278, swap obj 81). Chance: text
25, image 25, group 16.67, group matching 50, and 50 for each of BiVLC's four comparisons. Human: published only as a
figure. The kind of an item combines its type and subtype, and its tag is the type. ``text`` is the paper's I2T, and
``image`` is the paper's T2I.

Tests compare all seven outcomes with those of the authors' code on recorded scores.
"""

from __future__ import annotations

from pathlib import Path

from scramble.evaluation.benchmarks.data import HubImages, check_count, columns, hub_rows, text_rows, texts
from scramble.evaluation.benchmarks.item_checks import check_items
from scramble.evaluation.benchmarks.rejected import RejectedRows
from scramble.evaluation.items import Benchmark, Item
from scramble.evaluation.scoring.metrics import ONE_WAY, TWO_BY_TWO_CHANCE
from scramble.records import TwoByTwoItem

HUB_ID = "imirandam/BiVLC"


def load(root: str | Path | None = None, *, partial: bool = False) -> Benchmark:
    """Load the 2,933 items from the hub, or from a folder with its parquet files."""
    data = hub_rows("bivlc", HUB_ID, "test", root)
    columns("bivlc", data, ("image", "caption", "negative_caption", "negative_image", "type", "subtype"))
    images, items, bad = HubImages(data), [], RejectedRows("bivlc", root or HUB_ID)
    for number, row in enumerate(text_rows("bivlc", data)):
        with bad.row(number):
            captions = texts("bivlc", row, f"row {number}", "caption", "negative_caption")
            kind, subkind = texts("bivlc", row, f"row {number}", "type", "subtype")
            first, second = (
                images.add(f"{number}/{k}", number, column) for k, column in enumerate(("image", "negative_image"))
            )
            quad = TwoByTwoItem(str(number), (first, second), (captions[0], captions[1]), f"{kind}-{subkind}")
            items.append(Item(quad, "quad", tags=(kind,)))
    bad.finish(len(items), partial)
    version = check_count("bivlc", len(items), {2933: "bivlc-2933"}, partial)
    chance = TWO_BY_TWO_CHANCE | dict.fromkeys(ONE_WAY, 50.0)
    return Benchmark("bivlc", version, check_items("bivlc", items), images, "bivlc", chance=chance)
