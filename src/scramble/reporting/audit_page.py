"""Renders the audit as tables for the terminal, and as a self-contained HTML page with example pairs.

The texts of the pairs are untrusted, so the template escapes all of them. The page loads nothing from the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scramble.formats.word_diff import word_edits
from scramble.pairs.audit.audit import RATIO_EDGES, classifiers
from scramble.pairs.audit.faults import FAULTS, faults
from scramble.pairs.audit.text_only import FOLDS, MIN_PAIRS
from scramble.pairs.base import seeded
from scramble.records import PreferencePair
from scramble.reporting import pages
from scramble.reporting.pages.texts import marked
from scramble.reporting.table import Column, Table

if TYPE_CHECKING:
    from PIL import Image

TEMPLATES = Path(__file__).parent / "templates"
EXAMPLES = 40
"""Maximum number of pairs per kind that the page shows."""


def write_audit_page(
    path: str | Path,
    result: dict[str, Any],
    pairs: Sequence[PreferencePair],
    *,
    open_image: Callable[[str], Image.Image | None] | None = None,
    title: str = "Audit of preference pairs",
    seed: int = 0,
    is_refined: bool | None = None,
) -> None:
    """Write the HTML page for a result of :func:`~scramble.pairs.audit.audit.audit_pairs`.

    Args:
        path: path of the page.
        result: the audit's result.
        pairs: the audited pairs.
        open_image: function that returns the image with a given id. With None, the page shows no images.
        title: title of the page.
        seed: seed of :func:`shown_pairs`.
        is_refined: whether the pairs were refined; None if unknown.
    """
    shown = shown_pairs(pairs, seed)
    pages.write_page(
        path,
        TEMPLATES,
        "audit.html.j2",
        title=title,
        audit={**result, "kinds": _shown_kinds(result)},
        is_refined=is_refined,
        classifiers=classifiers(result),
        needed=f"{MIN_PAIRS} pairs and {FOLDS} images",
        faults=FAULTS,
        ratios=[f"{low:g} to {high:g}" for low, high in pairwise(RATIO_EDGES)],
        examples=[_example(pair, open_image) for pair in shown],
        kinds=sorted({pair.kind for pair in shown}),
    )


def shown_pairs(pairs: Sequence[PreferencePair], seed: int) -> list[PreferencePair]:
    """Return the pairs that the page shows: a random sample of at most :data:`EXAMPLES` pairs per kind."""
    by_kind: dict[str, list[PreferencePair]] = {}
    for pair in pairs:
        by_kind.setdefault(pair.kind, []).append(pair)
    return [
        pair
        for kind in sorted(by_kind)
        for pair in seeded(seed, "page", kind).sample(by_kind[kind], min(EXAMPLES, len(by_kind[kind])))
    ]


def audit_tables(result: dict[str, Any]) -> list[Table]:
    """Return the tables for the terminal: text-only accuracies by kind, faults by rule, and the vocabulary shift."""
    text_only = [
        _text_only(result, "blind", "In-sample text-only accuracy, percent (standard error); 50 is chance"),
        _text_only(result, "transfer", "Transfer text-only accuracy (classifiers fitted on pairs of other images)"),
    ]
    rules = Table(
        _numeric("rule", "pairs") + [Column(fault, "{:.1f}".format, "right") for fault in FAULTS],
        [[rule, row["n"], *(row[fault] for fault in FAULTS)] for rule, row in result["rules"].items()],
        "Faults in the texts, percent of pairs",
    )
    sides = ("more_in_chosen", "more_in_rejected")
    words = Table(
        [Column(side.replace("_", " "), _words) for side in sides],
        [[result["vocabulary"][side] for side in sides]],
        f"Vocabulary shift (total variation {result['vocabulary']['total_variation']:.3f})",
    )
    return [*(table for table in text_only if table is not None), rules, words]


def _text_only(result: dict[str, Any], key: str, title: str) -> Table | None:
    names = classifiers(result)
    if not any(row[key] for row in result["kinds"].values()):
        return None
    return Table(
        _numeric("kind", "pairs", "images")
        + [Column(name, _accuracy, "right") for name in names]
        + [Column("same words", "{:.0f} %".format, "right")],
        [
            [kind, row["n"], row["images"], *(row[key].get(name) for name in names), row["same_bag"]]
            for kind, row in _shown_kinds(result).items()
        ],
        title,
    )


def _shown_kinds(result: dict[str, Any]) -> dict[str, Any]:
    """Return the statistics by kind. The kind ``unknown`` is omitted if it is the only kind, because its row would
    repeat the row ``all``.
    """
    kinds = result["kinds"]
    return {"all": kinds["all"]} if set(kinds) == {"all", "unknown"} else kinds


def _numeric(label: str, *counts: str) -> list[Column]:
    return [Column(label), *(Column(count, align="right") for count in counts)]


def _accuracy(score: dict[str, float] | None) -> str:
    return "-" if score is None else f"{score['accuracy']:.1f} ({score['error']:.1f})"


def _words(words: Sequence[dict[str, Any]]) -> str:
    return ", ".join(f"{w['word']} {w['chosen']}/{w['rejected']}" for w in words[:12])


def _example(pair: PreferencePair, open_image: Callable[[str], Image.Image | None] | None) -> dict[str, Any]:
    edits = pair.edits or word_edits(pair.chosen, pair.rejected)
    image = open_image(pair.image_ids[0]) if open_image is not None and pair.image_ids else None
    return {
        "id": pair.pair_id,
        "kind": pair.kind,
        "rule": pair.rule,
        "chosen": marked(pair.chosen, [e.chosen for e in edits]),
        "rejected": marked(pair.rejected, [e.rejected for e in edits]),
        "faults": sorted(faults(pair)),
        "scores": {name: f"{score:.3f}" for name, score in sorted(pair.scores.items())},
        "thumbnail": pages.thumbnail(image),
        "image": ", ".join(pair.image_ids),
    }
