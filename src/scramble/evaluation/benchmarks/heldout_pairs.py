"""Held-out preference pairs of a run: is the chosen text more likely than the rejected text?

Paper: none; the benchmark was designed for this project. It applies SugarCrepe's task to the held-out part of the
run's data set. Data version: content key of the table. Counts: as generated. Chance: 50. Human: not measured. There is
no reference implementation with which the scores could be compared.
"""

from __future__ import annotations

import logging
from pathlib import Path

from scramble.evaluation.benchmarks.image_files import table_images
from scramble.evaluation.benchmarks.item_checks import check_items
from scramble.evaluation.items import Benchmark, CaptionChoice, EvaluationError, Item
from scramble.records import ImageRecord, PreferencePair
from scramble.storage.hashing import file_key
from scramble.storage.tables import read_table, table_path

log = logging.getLogger(__name__)


def load(root: str | Path) -> Benchmark:
    """Load the pairs in a split's folder (``pairs.parquet``). The likelihoods of the chosen and the rejected text are
    compared, given the prompt of the pair.

    Conversations and pairs that do not have exactly one image are skipped.
    """
    is_empty = table_path(root, ImageRecord).exists() and not table_path(root, PreferencePair).exists()
    pairs = [] if is_empty else [single for pair in read_table(root, PreferencePair) for single in pair.singles()]
    if not pairs:
        raise EvaluationError(
            f"heldout_pairs: {root} contains no pairs: generate the data with a larger data.test_fraction, or choose "
            "other benchmarks (benchmark=[...])"
        )
    items = [
        Item(CaptionChoice(p.pair_id, p.image_ids[0], (p.chosen, p.rejected), kind=p.kind, prompt=p.prompt), "captions")
        for p in pairs
        if len(p.image_ids) == 1 and not p.history
    ]
    if not items:
        raise EvaluationError(
            f"heldout_pairs: no pair of {root} can be scored, because all {len(pairs)} pairs are conversations or do "
            "not have exactly one image: choose other benchmarks (benchmark=[...])"
        )
    if skipped := len(pairs) - len(items):
        log.info(
            f"heldout_pairs: {skipped} of {len(pairs)} pairs of {root} are not scored, because these pairs are "
            "conversations or do not have exactly one image"
        )
    return Benchmark(
        "heldout_pairs",
        f"generated-{file_key(table_path(root, PreferencePair))}",
        check_items("heldout_pairs", items),
        table_images("heldout_pairs", root, items),
        "plain",
        chance={"accuracy": 50.0},
        default_protocol="caption_sum",
    )
