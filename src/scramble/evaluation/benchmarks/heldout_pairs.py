"""Held-out preference pairs of the training data set: is the caption more likely than its hard negative?

Paper: none; the benchmark is this project's: SugarCrepe's task on the held-out part of the training data set. Data
version: content key of the table. Counts: as generated. Chance: 50. Human: not measured. Compared with a reference
implementation: none exists.
"""

from __future__ import annotations

from pathlib import Path

from scramble.evaluation.benchmarks.data import table_images
from scramble.evaluation.items import Benchmark, CaptionChoice, EvaluationError, Item, check_items
from scramble.records import ImageRecord, PreferencePair
from scramble.storage.hashing import file_key
from scramble.storage.tables import read_table, table_path


def load(root: str | Path) -> Benchmark:
    """Load the pairs of a split's folder (``pairs.parquet``), scored by caption likelihood under their own prompt.

    Pairs in conversations are left out.
    """
    is_empty = table_path(root, ImageRecord).exists() and not table_path(root, PreferencePair).exists()
    pairs = [] if is_empty else [pair for pair in read_table(root, PreferencePair) if not pair.history]
    if not pairs:
        raise EvaluationError(
            f"heldout_pairs: {root} has no pairs: generate with a larger data.test_fraction, or choose other "
            "benchmarks (benchmark=[...])"
        )
    prompts = {pair.prompt for pair in pairs}
    if len(prompts) > 1:
        raise EvaluationError(
            f"{root}: pairs with {len(prompts)} different prompts cannot be one caption benchmark; "
            "choose others (benchmark=[...])"
        )
    items = [
        Item(CaptionChoice(p.pair_id, p.image_ids[0], (p.chosen, p.rejected), kind=p.kind), "captions")
        for p in pairs
        if len(p.image_ids) == 1
    ]
    return Benchmark(
        "heldout_pairs",
        f"generated-{file_key(table_path(root, PreferencePair))}",
        check_items("heldout_pairs", items),
        table_images("heldout_pairs", root, items),
        "plain",
        chance={"accuracy": 50.0},
        default_protocol="caption_sum",
        caption_prompt=prompts.pop() if prompts else None,
    )
