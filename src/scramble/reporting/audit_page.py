"""The audit as one self-contained HTML page: the numbers, then pairs with the changed words marked.

Texts come from anywhere, so everything is escaped by the template; nothing is loaded from the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scramble.pairs.audit.audit import RATIO_EDGES, classifiers
from scramble.pairs.audit.faults import FAULTS, faults
from scramble.pairs.base import seeded
from scramble.records import PreferencePair
from scramble.reporting import pages
from scramble.reporting.pages.texts import marked, word_edits

if TYPE_CHECKING:
    from PIL import Image

TEMPLATES = Path(__file__).parent / "templates"


def write_page(
    path: str | Path,
    result: dict[str, Any],
    pairs: Sequence[PreferencePair],
    *,
    open_image: Callable[[str], Image.Image | None] | None = None,
    title: str = "Audit of preference pairs",
    examples: int = 40,
    seed: int = 0,
) -> None:
    """Write the page of an :func:`~scramble.pairs.audit.audit.audit` result.

    Args:
        open_image: the image of an image id, or None where there is none.
        examples: pairs shown of each kind, drawn by the seed.
    """
    by_kind: dict[str, list[PreferencePair]] = {}
    for pair in pairs:
        by_kind.setdefault(pair.kind, []).append(pair)
    shown = []
    for kind in sorted(by_kind):
        drawn = seeded(seed, "page", kind).sample(by_kind[kind], min(examples, len(by_kind[kind])))
        shown += [_example(pair, open_image) for pair in drawn]
    ratios = [f"{low:g} to {high:g}" for low, high in pairwise(RATIO_EDGES)]
    pages.write_page(
        path,
        TEMPLATES,
        "audit.html.j2",
        title=title,
        audit=result,
        classifiers=classifiers(result),
        faults=FAULTS,
        ratios=ratios,
        examples=shown,
        kinds=sorted(by_kind),
    )


def _example(pair: PreferencePair, open_image: Callable[[str], Image.Image | None] | None) -> dict[str, Any]:
    edits = pair.edits or word_edits(pair.chosen, pair.rejected)
    return {
        "id": pair.pair_id,
        "kind": pair.kind,
        "rule": pair.rule,
        "chosen": marked(pair.chosen, [e.chosen for e in edits]),
        "rejected": marked(pair.rejected, [e.rejected for e in edits]),
        "faults": sorted(faults(pair)),
        "scores": {name: f"{score:.3f}" for name, score in sorted(pair.scores.items())},
        "thumbnail": pages.thumbnail(open_image(pair.image_ids[0]))
        if open_image is not None and pair.image_ids
        else "",
        "image": ", ".join(pair.image_ids),
    }
