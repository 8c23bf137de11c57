"""Held-out preference pairs of a run: is the chosen text more likely than the rejected text?

Paper: none; the benchmark was designed for this project. It applies SugarCrepe's task to the held-out part of the
run's data set. Data version: content key of the table. Counts: as generated. Chance: 50. Human: not measured. There is
no reference implementation with which the scores could be compared.
"""

from __future__ import annotations

from pathlib import Path

from scramble.evaluation.benchmarks.image_files import table_images
from scramble.evaluation.benchmarks.item_checks import check_items
from scramble.evaluation.items import Benchmark, CaptionChoice, EvaluationError, Item
from scramble.records import ImageRecord, PreferencePair
from scramble.storage.hashing import file_key
from scramble.storage.tables import read_table, table_path


def load(root: str | Path) -> Benchmark:
    """Load the pairs in a split's folder (``pairs.parquet``). The likelihoods of the chosen and the rejected text are
    compared, given the conversation of the pair: its earlier turns, its prompt and its images.
    """
    is_empty = table_path(root, ImageRecord).exists() and not table_path(root, PreferencePair).exists()
    pairs = [] if is_empty else [single for pair in read_table(root, PreferencePair) for single in pair.singles()]
    if not pairs:
        raise EvaluationError(
            f"heldout_pairs: {root} contains no pairs: generate the data with a larger data.test_fraction, or choose "
            "other benchmarks (benchmark=[...])"
        )
    items = [
        Item(
            CaptionChoice(
                pair.pair_id,
                pair.image_ids,
                (pair.chosen, pair.rejected),
                kind=pair.kind,
                prompt=pair.prompt,
                history=pair.history,
            ),
            "captions",
        )
        for pair in pairs
    ]
    return Benchmark(
        "heldout_pairs",
        f"generated-{file_key(table_path(root, PreferencePair))}",
        check_items("heldout_pairs", items),
        table_images("heldout_pairs", root, items),
        "plain",
        chance={"accuracy": 50.0},
        default_protocol="caption_sum",
    )
