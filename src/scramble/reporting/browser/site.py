"""Writes the website of the results browser: pages, styles, scripts, images, and data that a page loads on demand."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scramble.evaluation.items import Benchmark
from scramble.reporting import charts, comparison, headline, pages
from scramble.reporting.browser import scores
from scramble.reporting.browser.curves import curves
from scramble.reporting.browser.images import SiteImages
from scramble.reporting.browser.items import ItemTable, item_table
from scramble.reporting.browser.pairs import PairTable, pair_tables
from scramble.reporting.browser.runs import runs_page
from scramble.reporting.browser.sources import Sources
from scramble.storage.arm_names import method_of
from scramble.storage.files import StoreError, write_text

TEMPLATES = Path(__file__).parents[1] / "templates" / "browser"
PAGE_SCRIPTS = ("core", "list", "explorer", "dialogs", "items", "pairs", "training", "main")
"""The scripts in ``templates/browser`` in the order in which the page loads them."""
TOKEN_PART = 100
"""Number of items per file of token log-probabilities. The size of a file is about 0.5 MB."""
OWN_DATA = re.compile(r"site\.js|(items|pairs|tokens)-[\d-]+\.js")
"""Matches the names of the files that this module writes to ``data/``. No other files are removed."""
GENERATOR = "scramble results browser"
"""Identifies the ``index.html`` of an earlier site, so that no other page is overwritten."""
SPACE = """---
title: {title}
sdk: static
pinned: false
---

This site shows scores, items, preference pairs and training curves. Open `index.html`.
"""
"""``README.md`` of a published site. The hub reads the lines between the dashes as the settings of a static Space."""


@dataclass(frozen=True)
class SiteOptions:
    """Options that determine what the site shows.

    Attributes:
        baselines: methods with which the other methods of the same run are compared.
        items: maximum number of items per benchmark. None shows all items, and 0 shows none.
        pairs: maximum number of preference pairs per split. None shows all pairs, and 0 shows none.
        pixels: maximum number of pixels on the longer side of the images.
    """

    baselines: Sequence[str] = ("base", "sft")
    items: int | None = None
    pairs: int | None = 5000
    pixels: int = 384


def write_site(
    folder: Path,
    sources: Sources,
    benchmarks: Mapping[str, Benchmark],
    *,
    title: str,
    options: SiteOptions,
    reasons: Mapping[str, str] | None = None,
    publish: bool = False,
) -> dict[str, str]:
    """Write the site to ``folder``.

    Args:
        folder: a new folder, or a folder with an earlier site.
        sources: from :func:`~scramble.reporting.browser.sources.gather`.
        benchmarks: benchmarks by name, for the items' texts and images. The items of a benchmark are shown without
            texts and images if the benchmark is missing, or if the results were measured on another version of its
            data.
        title: title of the page.
        options: options that determine what the site shows.
        reasons: for each missing benchmark, the reason to show on the page.
        publish: whether to also write the files that the hub and GitHub need to serve the folder.

    Returns:
        For each benchmark whose items are shown without texts and images, the reason.

    Raises:
        StoreError: if the folder contains an ``index.html`` that was not written by this function.
    """
    index = folder / "index.html"
    if index.is_dir() or (index.exists() and GENERATOR not in index.read_text(encoding="utf-8", errors="replace")):
        raise StoreError(f"{index} was not written by this command: choose another folder (publish=...)")
    rows = comparison.compare(sources.folders, options.baselines)
    heads = scores.headlines(rows, sources, options.baselines)
    lead = next(iter(heads.values()), None)
    if lead is not None:
        rows = headline.lead_first(rows, lead)
    methods = list(dict.fromkeys(row.method for row in rows))
    methods += [name for name in map(method_of, sources.arms) if name not in methods]
    colours = charts.colour_numbers(methods)
    arms = dict(sorted(sources.arms.items(), key=lambda arm: methods.index(method_of(arm[0]))))
    images = SiteImages(folder / "images", options.pixels)
    tables = [
        item_table(
            name,
            sources.folders[name],
            methods,
            benchmarks.get(name),
            images,
            limit=options.items,
            missing=(reasons or {}).get(name, ""),
        )
        for name in dict.fromkeys(row.benchmark for row in rows)
        if options.items != 0
    ]
    pairs = [
        table
        for name, data in sources.data.items()
        if options.pairs != 0
        for table in pair_tables(name, data, images, options.pairs)
    ]
    images.remove_unused()
    _write_data(folder / "data", tables, pairs, colours)
    _write_assets(folder / "assets")
    pages.write_page(
        index,
        TEMPLATES,
        "index.html.j2",
        generator=GENERATOR,
        title=title,
        scripts=PAGE_SCRIPTS,
        headlines=heads,
        baselines=[name for name in options.baselines if any(name in row.differences for row in rows)],
        colours=colours,
        scores=scores.tables(rows, options.baselines, lead),
        charts=curves(arms, colours),
        plot=charts,
        arms={name: colours[method_of(name)] for name in arms},
        num_items=sum(len(table.rows) for table in tables),
        num_pairs=sum(len(table.rows) for table in pairs),
        runs=runs_page(arms, sources.data, sources.folders),
    )
    if publish:
        if not (folder / "README.md").exists():
            write_text(folder / "README.md", SPACE.format(title=json.dumps(title)))
        write_text(folder / ".nojekyll", "")  # otherwise GitHub runs the files through Jekyll
    return {table.benchmark: table.reason for table in tables if table.reason}


def _write_data(
    folder: Path, items: Iterable[ItemTable], pairs: Iterable[PairTable], colours: Mapping[str, int]
) -> None:
    """Write one script per table, and ``site.js`` with the data that the page needs at the start.

    The files are scripts that call a function with data, because browsers do not let a page that is opened from disk
    fetch files.
    """
    for old in folder.glob("*.js"):
        if OWN_DATA.fullmatch(old.name):
            old.unlink()
    site: dict[str, Any] = {"items": [], "pairs": []}
    for number, table in enumerate(items):
        file = f"items-{number}"
        parts = _write_tokens(folder, number, table)
        _write_script(folder / f"{file}.js", file, {"rows": table.rows, "tokens": parts})
        arms = [{"name": name, "colour": colours[method]} for name, method in table.arms]
        site["items"].append(
            {
                "name": table.benchmark,
                "file": file,
                "count": len(table.rows),
                "total": table.total,
                "note": table.note,
                "arms": arms,
            }
        )
    for number, split in enumerate(pairs):
        file = f"pairs-{number}"
        _write_script(folder / f"{file}.js", file, {"rows": split.rows})
        site["pairs"].append(
            {
                "name": f"{split.data} {split.split}",
                "file": file,
                "count": len(split.rows),
                "total": split.total,
                "fitted_on": split.fitted_on,
            }
        )
    _write_script(folder / "site.js", "site", site)


def _write_tokens(folder: Path, number: int, table: ItemTable) -> dict[str, str]:
    """Write the log-probabilities of tokens to several files, because a single file would be large. Return the name of
    the file for each item id.
    """
    ids = list(table.tokens)
    places: dict[str, str] = {}
    for part, start in enumerate(range(0, len(ids), TOKEN_PART)):
        file = f"tokens-{number}-{part}"
        members = ids[start : start + TOKEN_PART]
        _write_script(folder / f"{file}.js", file, {item_id: table.tokens[item_id] for item_id in members})
        places |= dict.fromkeys(members, file)
    return places


def _write_script(path: Path, name: str, value: Any) -> None:
    # The text is ASCII, because json.dumps escapes all other characters by default. The encoding that a server declares
    # therefore has no effect. NaN is not allowed, because it is not JSON and would be a name in JavaScript.
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    write_text(path, f"Browser.receive({json.dumps(name)}, {text});\n")


def _write_assets(folder: Path) -> None:
    for name in PAGE_SCRIPTS:
        write_text(folder / f"{name}.js", (TEMPLATES / f"{name}.js").read_text(encoding="utf-8"))
    pages.write_page(folder / "style.css", TEMPLATES, "style.css.j2", lines=charts.LINES)
