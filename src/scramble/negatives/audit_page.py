"""The audit as one self-contained HTML page: the numbers, then pairs with the changed words marked.

Texts come from anywhere, so everything is escaped by the template; nothing is loaded from the network.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scramble import pages
from scramble.negatives.audit import RATIO_EDGES, classifiers
from scramble.negatives.base import seeded
from scramble.negatives.faults import FAULTS, faults
from scramble.records import Edit, PreferencePair

if TYPE_CHECKING:
    from PIL import Image

TEMPLATES = Path(__file__).parent / "templates"
_TOKEN = re.compile(r"\w+|\W")


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
    """Write the page of an :func:`~scramble.negatives.audit.audit` result.

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
        "thumbnail": pages.thumbnail(open_image(pair.image_ids[0])) if open_image is not None else "",
        "image": ", ".join(pair.image_ids),
    }


def word_edits(chosen: str, rejected: str) -> tuple[Edit, ...]:
    """The changed stretches of two texts by a word diff."""
    first, second = list(_TOKEN.finditer(chosen)), list(_TOKEN.finditer(rejected))
    matcher = difflib.SequenceMatcher(a=[t[0] for t in first], b=[t[0] for t in second], autojunk=False)

    def span(tokens: list[re.Match[str]], i: int, j: int, size: int) -> tuple[int, int]:
        start = tokens[i].start() if i < len(tokens) else size
        return start, (tokens[j - 1].end() if j > i else start)

    return tuple(
        Edit(span(first, i1, i2, len(chosen)), span(second, j1, j2, len(rejected)))
        for tag, i1, i2, j1, j2 in matcher.get_opcodes()
        if tag != "equal"
    )


def marked(text: str, spans: Sequence[tuple[int, int]]) -> list[tuple[str, bool]]:
    """A text cut into stretches, each with whether it is marked; the template escapes them one by one."""
    parts: list[tuple[str, bool]] = []
    at = 0
    for start, end in sorted(spans):
        start, end = max(start, at), min(end, len(text))
        if end <= start:
            continue
        parts += [(text[at:start], False), (text[start:end], True)]
        at = end
    return [part for part in [*parts, (text[at:], False)] if part[0]]
