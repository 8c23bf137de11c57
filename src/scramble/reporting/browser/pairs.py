"""Converts the preference pairs of a data set to rows for the browser.

The keys of a row are ``id``, ``images`` (file names), ``prompt``, ``chosen`` and ``rejected`` (lists of parts that are
alternately unchanged and changed), ``kind``, ``rule``, ``scores`` (of the filters), ``text_only`` (text-only score) and
``others`` (further rejected texts). Keys without a value are omitted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scramble.formats.word_diff import word_edits
from scramble.pairs.audit.text_only import (
    CLASSIFIERS,
    FOLDS,
    cross_fit,
    folds,
    group_of,
    judgeable,
    other_images,
    sampled,
)
from scramble.records import SPLITS, ImageRecord, PreferencePair, conversation_text
from scramble.reporting.browser.images import SiteImages
from scramble.reporting.browser.sampling import sample
from scramble.reporting.pages.texts import marked
from scramble.storage.image_table import ImageTable
from scramble.storage.tables import read_table, table_path

CLASSIFIER = "bigram"
MAX_FITTED = 20_000
"""Maximum number of pairs on which the classifier is fitted. Fitting takes about one second per 10,000 pairs."""


@dataclass(frozen=True)
class PairTable:
    """The rows of one split of a data set. ``total`` is the number of all pairs in the split."""

    data: str
    split: str
    rows: list[dict[str, Any]]
    total: int
    fitted_on: str


def pair_tables(name: str, folder: Path, images: SiteImages, limit: int | None) -> list[PairTable]:
    """Return one table per split of a data set. Splits without pairs are omitted.

    Args:
        name: name of the data set on the page.
        folder: the data set's folder.
        images: writer of the site's images, which receives the images of the pairs.
        limit: maximum number of pairs per split. If there are more, a random sample is drawn with a fixed seed.
    """
    splits = {split: folder / split for split in SPLITS if table_path(folder / split, PreferencePair).exists()}
    pairs = {split: list(read_table(path, PreferencePair)) for split, path in splits.items()}
    tables = []
    for split, own in pairs.items():
        if not own:
            continue
        shown = sample(own, limit)
        others = other_images([pair for other, them in pairs.items() if other != split for pair in them], shown)
        scores, fitted_on = text_only_scores(shown, others)
        has_images = table_path(splits[split], ImageRecord).exists()
        files = ImageTable(splits[split]) if has_images else {}
        image_ids = dict.fromkeys(image_id for pair in shown for image_id in pair.image_ids)
        names = {image_id: images.add(files, image_id) for image_id in image_ids}
        rows = [_row(pair, [names[image_id] for image_id in pair.image_ids]) for pair in shown]
        for row, score in zip(rows, scores, strict=False):
            row["text_only"] = round(score, 3)
        tables.append(PairTable(name, split, rows, len(own), fitted_on))
    return tables


def text_only_scores(pairs: Sequence[PreferencePair], others: Sequence[PreferencePair]) -> tuple[list[float], str]:
    """Return the log-odds with which a bigram classifier that does not see the images picks the chosen text.

    The classifier is fitted on ``others``, which are pairs about other images. If there are too few of them, the
    classifier is fitted out of fold on ``pairs``.

    Returns:
        One score per pair, and a description of the pairs on which the classifier was fitted. There are no scores if
        ``others`` contains too few pairs and ``pairs`` contains either too few or more than :data:`MAX_FITTED`.
    """
    classifier = CLASSIFIERS[CLASSIFIER]
    if judgeable(others):
        fitted = sampled(others, 0, MAX_FITTED)
        score = classifier.fit(classifier.features(fitted), None)
        return score(classifier.features(pairs)).tolist(), f"{len(fitted):,} pairs of other images"
    if not judgeable(pairs) or len(pairs) > MAX_FITTED:
        return [], ""
    fold = folds([group_of(pair) for pair in pairs], FOLDS, 0)
    return cross_fit(classifier, classifier.features(pairs), fold).tolist(), "these pairs, out of fold"


def _row(pair: PreferencePair, images: list[str]) -> dict[str, Any]:
    edits = pair.edits or word_edits(pair.chosen, pair.rejected)
    row = {
        "id": pair.pair_id,
        "kind": pair.kind,
        "rule": pair.rule,
        "images": images,
        "prompt": conversation_text(pair.prompt, pair.history),
        "chosen": marked(pair.chosen, [edit.chosen for edit in edits]),
        "rejected": marked(pair.rejected, [edit.rejected for edit in edits]),
        "others": list(pair.other_rejected),
        "scores": {name: round(score, 4) for name, score in sorted(pair.scores.items()) if math.isfinite(score)},
    }
    return {key: value for key, value in row.items() if value not in ("", [], {})}
