"""Renders the data set card, which states the counts, the sources with their licences, the rules that produced the
rejected texts, and the results of the audit.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

import scramble
from scramble.console import counted
from scramble.language.scripts import word_count
from scramble.records import ImageRecord, PreferencePair

HOMEPAGE = "https://arxiv.org/abs/2504.04740"
# The licences of known sources. For all other sources, the publisher of a data set must state the licence.
LICENCES = {
    "coco": "captions CC BY 4.0; images under their Flickr licences",
    "scramble_release": "captions CC BY 4.0 (COCO); images under their Flickr licences",
    "visual_genome": "annotations CC BY 4.0",
    "world": "Apache-2.0",
}
UNKNOWN = "not stated: state it before publishing"


def dataset_card(
    name: str,
    images: Iterable[ImageRecord],
    pairs: Iterable[PreferencePair],
    *,
    licences: Mapping[str, str] | None = None,
    own_licence: str | None = None,
    audit: tuple[Sequence[str], Sequence[Sequence[Any]]] | None = None,
    is_transfer: bool = False,
    stage: Mapping[str, Any] | None = None,
    command: str | None = None,
    card_license: str = "other",
    language: str = "en",
    notes: str = "",
) -> str:
    """Return the card as Markdown with the hub's metadata block.

    Args:
        licences: licence by source name, or by the part of the name before its colon; overrides :data:`LICENCES`.
        own_licence: licence of sources without an entry in ``licences`` or :data:`LICENCES`.
        audit: column names and rows of the audit's table.
        is_transfer: whether the audit's classifiers were fitted on pairs of other images.
        stage: the record of the data set (its ``stage.json``), which names the excluded benchmarks.
        command: the command that created the data set.
        card_license: the hub's licence identifier for the whole data set (``other`` if the sources' licences differ).
    """
    from huggingface_hub import DatasetCard, DatasetCardData

    licence_of = {**LICENCES, **(licences or {})}
    sources = Counter(image.source or "unnamed" for image in images)
    counts, rules = Counter[str](), Counter[str]()
    words: dict[str, list[int]] = {}
    for pair in pairs:
        counts[pair.kind] += 1
        rules[pair.rule or "unnamed"] += 1
        sums = words.setdefault(pair.kind, [0, 0])
        sums[0] += word_count(pair.chosen)
        sums[1] += word_count(pair.rejected)
    total = counts.total()
    kinds = [
        {
            "kind": kind,
            "count": count,
            "share": 100 * count / total,
            "chosen_words": words[kind][0] / count,
            "rejected_words": words[kind][1] / count,
        }
        for kind, count in counts.most_common()
    ]
    data = DatasetCardData(
        language=language,
        license=card_license,
        pretty_name=name,
        size_categories=size_category(total),
        task_categories=["image-text-to-text"],
        tags=["preference", "dpo", "hard-negatives", "synthetic"],
    )
    template = resources.files("scramble.formats").joinpath("card.md.j2").read_text(encoding="utf-8")
    card = DatasetCard.from_template(
        data,
        template_str=template,
        name=name,
        total=total,
        num_images=sources.total(),
        kinds=kinds,
        homepage=HOMEPAGE,
        version=scramble.__version__,
        notes=notes.strip(),
        citations=citations(),
        sources=[
            {
                "source": cell(s),
                "count": n,
                "licence": cell(source_licence(s, own_licence, licence_of)),
            }
            for s, n in sources.most_common()
        ],
        rules=[{"rule": cell(rule), "count": count} for rule, count in rules.most_common()],
        audit=audit and {"columns": [cell(c) for c in audit[0]], "rows": [[cell(c) for c in row] for row in audit[1]]},
        is_transfer=is_transfer,
        contamination=contamination(stage or {}),
        command=command and without_folders(command),
    )
    return str(card)


def source_licence(source: str, own_licence: str | None = None, licences: Mapping[str, str] = LICENCES) -> str:
    """Return the licence of an image source such as ``coco:train2017``.

    If the licence is unknown, return ``own_licence`` or, if that is None, a request to state the licence.
    """
    return licences.get(source) or licences.get(source.partition(":")[0]) or own_licence or UNKNOWN


def contamination(stage: Mapping[str, Any]) -> str:
    """Return the card's text about the exclusion of benchmark images.

    ``stage`` is the content of the data set's ``stage.json``.
    """
    excluded = stage.get("config", {}).get("pairs", {}).get("exclude_benchmarks")
    if not excluded:
        return (
            "No images of benchmarks were excluded, and overlaps were not checked. Scores on benchmarks with images "
            "from the same source can be too high."
        )
    splits = stage.get("summary", {}).get("splits", {}).values()
    count = sum(sum((split.get("excluded_images") or {}).values()) for split in splits)
    return (
        f"Images of the following benchmarks were excluded by COCO id and by file hash: {', '.join(excluded)} "
        f"({counted(count, 'images')}). Re-encoded images cannot be detected by their hash."
    )


def citations() -> str:
    """Return the BibTeX entries of the three papers that describe the methods."""
    return resources.files("scramble.formats").joinpath("citations.bib").read_text(encoding="utf-8")


# This matches an absolute path at the start of a word, value or list element, but not the "//" of a URL.
_LOCAL_PATH = re.compile(r"""(^|[=\[,:{"'])(?:~|[A-Za-z]:)?[/\\](?!/)[^,\]}"']*?([^,\]}"'/\\]*)[/\\]?(?=$|[,\]}"'])""")


def without_folders(command: str) -> str:
    """Replace the absolute paths in a command with ``path/to/<last part>``.

    Absolute paths are useless to other people and can contain the names of users and machines.
    """
    return shlex.join(_LOCAL_PATH.sub(r"\1path/to/\2", word) for word in shlex.split(command))


def cell(value: Any) -> str:
    """Format a value as a cell of a Markdown table."""
    text = f"{value:.1f}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def size_category(count: int) -> str:
    """Return the hub's size category for a number of rows."""
    if count < 1000:
        return "n<1K"
    for bound, name in ((10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M")):
        if count < bound:
            return name
    return "n>10M"
