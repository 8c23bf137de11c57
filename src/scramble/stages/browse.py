"""The results browser of a run, or of several side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scramble.console import say
from scramble.stages import StageError

if TYPE_CHECKING:
    from scramble.evaluation.items import Benchmark


def browse(
    runs: Sequence[str | Path],
    out: str | Path,
    *,
    benchmarks: Mapping[str, Mapping[str, Any]],
    baselines: Sequence[str] = ("base", "sft"),
    items: int = 12,
    pixels: int = 160,
) -> Path:
    """Write one HTML file with scores, curves and changed items of runs. See :func:`scramble.report.browser`.

    Args:
        benchmarks: name -> options, as for evaluation; only those that have results are loaded.
        baselines: methods that the others are compared with; of several runs named ``<run>: <method>``, or the plain
            name for the first run's.
        items: most items shown for each comparison and direction; 0 shows none and loads no benchmark.

    Raises:
        StageError: a run without results.
    """
    from scramble.report.browser import RUN_SEPARATOR, gather, write_browser

    folders = [Path(run) for run in runs]
    for folder in folders:
        if not any((folder / "evaluation").glob("*/*/result.json")):
            raise StageError(f"{folder}/evaluation holds no results: run scripts/evaluate.py for it first")
    if len({folder.name for folder in folders}) != len(folders):
        raise StageError(f"two runs have one name ({', '.join(f.name for f in folders)}): they cannot be told apart")
    sources = gather(folders)
    if len(folders) > 1:
        first = f"{folders[0].name}{RUN_SEPARATOR}"
        baselines = [name if RUN_SEPARATOR in name else first + name for name in baselines]
    loaded = _load(benchmarks, sources.folders) if items else {}
    title = f"Results of {' and '.join(folder.name for folder in folders)}"
    write_browser(out, sources, loaded, title=title, baselines=baselines, items=items, pixels=pixels)
    say(f"browser: {out}")
    return Path(out)


def _load(benchmarks: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, Any]) -> dict[str, Benchmark]:
    from scramble.evaluation.benchmarks import load_benchmark

    return {name: load_benchmark(name, **options) for name, options in benchmarks.items() if name in wanted}
