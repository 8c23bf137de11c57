"""Writes the results browser for one or several runs."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scramble.pipeline import StageError
from scramble.records import RecordError
from scramble.storage.files import StoreError

if TYPE_CHECKING:
    from scramble.evaluation.items import Benchmark

log = logging.getLogger(__name__)


def browse(
    runs: Sequence[str | Path],
    publish: str | Path | None = None,
    *,
    run: str | Path | None = None,
    data: str | Path | None = None,
    benchmarks: Mapping[str, Mapping[str, Any]],
    baselines: Sequence[str] = ("base", "sft"),
    items: int | None = None,
    pairs_per_split: int | None = 5000,
    pixels: int = 384,
) -> Path:
    """Write a static site with scores, items, preference pairs, training curves and settings of runs.

    Args:
        runs: run folders to show.
        publish: folder of the website, which a web server, GitHub Pages or a Space of the hub can serve; None means
            ``report/browser`` in the folder of a single run.
        run, data: the run folder and the data set folder of the configuration, which may differ from ``<run>/data``.
            Benchmarks whose ``root`` is in ``data`` are read from the first of ``runs`` that contains them.
        benchmarks: options by name of the benchmark, as for evaluation. Only benchmarks with results are loaded.
        baselines: methods with which the other methods are compared. With several runs, a method is a baseline only
            within its own run; ``<run>: <method>`` is a baseline for all runs.
        items: maximum number of items per benchmark; None shows all; 0 shows none and loads no benchmark.
        pairs_per_split: maximum number of preference pairs per split; None shows all, 0 none.
        pixels: longer side of the images.

    Returns:
        The path of the page to open.

    Raises:
        StageError: if a run has no results or is named twice, or if there are several runs and no ``publish``.
        StoreError: if the folder contains an ``index.html`` that was not written by this function.
    """
    from scramble.reporting.browser.site import SiteOptions, write_site
    from scramble.reporting.browser.sources import gather, run_names

    folders = [Path(folder) for folder in runs]
    if not folders:
        raise StageError("runs=[] names no run: omit runs, or name run folders (runs=[runs/quickstart])")
    for folder in folders:
        if not any((folder / "evaluation").glob("*/*/result.json")):
            raise StageError(f"{folder}/evaluation has no results: run scripts/evaluate.py for this run first")
    if len({folder.resolve() for folder in folders}) != len(folders):
        raise StageError("a run is named twice: name each run once (runs=[...])")
    if publish is not None and not str(publish).strip():  # an empty path would be the current folder
        raise StageError("publish is empty: set publish to a folder, or to null for report/browser in the run folder")
    if publish is None and len(folders) > 1:
        raise StageError("several runs need a folder for their website: set publish=<folder>")
    data_folders = {
        folder: Path(data)
        if run is not None and data is not None and Path(run).resolve() == folder.resolve()
        else folder / "data"
        for folder in folders
    }
    sources = gather(data_folders)
    site = folders[0] / "report" / "browser" if publish is None else Path(publish)
    relocated = {name: _relocate(options, data, list(data_folders.values())) for name, options in benchmarks.items()}
    loaded, reasons = _load(relocated if items != 0 else {}, sources.folders)
    reasons = write_site(
        site,
        sources,
        loaded,
        title=f"Results of {' and '.join(run_names(folders).values())}",
        options=SiteOptions(baselines, items, pairs_per_split, pixels),
        reasons=reasons,
        publish=publish is not None,
    )
    for name, reason in reasons.items():
        log.info(f"browser: the items of {name} are shown without texts and images: {reason}")
    log.info(f"browser (scores, items, pairs, training curves): {site / 'index.html'}")
    return site / "index.html"


def _relocate(options: Mapping[str, Any], data: str | Path | None, data_folders: Sequence[Path]) -> dict[str, Any]:
    """Return a benchmark's options. A ``root`` in the configuration's data set is replaced with the same folder in the
    data set of a shown run.
    """
    root = options.get("root")
    if root is None or data is None or not Path(root).is_relative_to(data):
        return dict(options)
    roots = [folder / Path(root).relative_to(data) for folder in data_folders]
    return {**options, "root": str(next((path for path in roots if path.is_dir()), roots[0]))}


def _load(
    benchmarks: Mapping[str, Mapping[str, Any]], with_results: Collection[str]
) -> tuple[dict[str, Benchmark], dict[str, str]]:
    """Return the benchmarks with results by name, and the reasons why other benchmarks with results cannot be read. The
    items of these other benchmarks are shown without texts and images.
    """
    from scramble.evaluation.benchmarks import load_benchmark
    from scramble.evaluation.items import EvaluationError

    loaded: dict[str, Benchmark] = {}
    reasons: dict[str, str] = {}
    for name, options in benchmarks.items():
        if names := [other for other in with_results if other == name or other.startswith(f"{name}-")]:
            try:
                benchmark = load_benchmark(name, **options)
                loaded[benchmark.name] = benchmark
            except (EvaluationError, RecordError, StoreError) as error:
                reasons |= dict.fromkeys(names, str(error))
    return loaded, reasons
