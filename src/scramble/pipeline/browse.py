"""The results browser of a run, or of several side by side."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
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
    out: str | Path | None = None,
    *,
    run: str | Path | None = None,
    data: str | Path | None = None,
    benchmarks: Mapping[str, Mapping[str, Any]],
    baselines: Sequence[str] = ("base", "sft"),
    items: int = 12,
    pixels: int = 160,
) -> Path:
    """Write one HTML file with scores, curves and changed items of runs. See :func:`scramble.reporting.browser`.

    Args:
        out: the page; None is ``report/browser.html`` of a single run.
        run, data: the configuration's own run and its data set, which may be another folder than ``<run>/data``.
            Benchmarks whose ``root`` is in ``data`` are read from the first of ``runs`` that has it.
        benchmarks: name -> options, as for evaluation; only those that have results are loaded.
        baselines: methods that the others are compared with; of several runs, those of each run, or ``<run>: <method>``
            for one that all are compared with.
        items: most items shown for each comparison and direction; 0 shows none and loads no benchmark.

    Raises:
        StageError: a run without results, or given twice; several runs without ``out``.
    """
    from scramble.reporting.browser import gather, run_names, write_browser

    folders = [Path(folder) for folder in runs]
    if not folders:
        raise StageError("runs=[] names no run: leave it out, or name run folders (runs=[runs/quickstart])")
    for folder in folders:
        if not any((folder / "evaluation").glob("*/*/result.json")):
            raise StageError(f"{folder}/evaluation holds no results: run scripts/evaluate.py for it first")
    if len({folder.resolve() for folder in folders}) != len(folders):
        raise StageError("one run is named twice: name each once (runs=[...])")
    if out is None and len(folders) > 1:
        raise StageError("several runs on one page: name the file (out=both.html)")
    own = {
        folder: Path(data)
        if run is not None and data is not None and Path(run).resolve() == folder.resolve()
        else folder / "data"
        for folder in folders
    }
    sources = gather(own)
    page = folders[0] / "report" / "browser.html" if out is None else Path(out)
    moved = {name: _moved(options, data, list(own.values())) for name, options in benchmarks.items()}
    loaded, reasons = _load({k: v for k, v in moved.items() if k in sources.folders} if items else {})
    reasons = write_browser(
        page,
        sources,
        loaded,
        title=f"Results of {' and '.join(run_names(folders).values())}",
        baselines=baselines,
        items=items,
        pixels=pixels,
        reasons=reasons,
    )
    for name, reason in reasons.items() if items else ():
        log.info(f"browser: no items of {name}: {reason}")
    log.info(f"browser (scores, curves, items that changed): {page}")
    return page


def _moved(options: Mapping[str, Any], data: str | Path | None, own: Sequence[Path]) -> dict[str, Any]:
    """A benchmark's options; a ``root`` in the configuration's data set becomes that of the runs that are shown."""
    root = options.get("root")
    if root is None or data is None or not Path(root).is_relative_to(data):
        return dict(options)
    roots = [folder / Path(root).relative_to(data) for folder in own]
    return {**options, "root": str(next((found for found in roots if found.is_dir()), roots[0]))}


def _load(benchmarks: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Benchmark], dict[str, str]]:
    """Benchmarks by name, and why the others cannot be read: a page without their items is better than none."""
    from scramble.evaluation.benchmarks import load_benchmark
    from scramble.evaluation.items import EvaluationError

    loaded: dict[str, Benchmark] = {}
    reasons: dict[str, str] = {}
    for name, options in benchmarks.items():
        try:
            loaded[name] = load_benchmark(name, **options)
        except (EvaluationError, RecordError, StoreError) as error:
            reasons[name] = str(error)
    return loaded, reasons
