"""A paper's table: the runs it needs, run or reused through the scripts, and measured next to published numbers."""

from __future__ import annotations

import dataclasses
import logging
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scramble.console import show
from scramble.launch.pool import Task, run_pool
from scramble.pipeline import StageError
from scramble.pipeline.evaluate import results_folder
from scramble.pipeline.provenance import environment
from scramble.project import SCRIPTS
from scramble.storage.files import STAGE_FILE, read_json, write_json, write_text

if TYPE_CHECKING:
    from scramble.reporting.comparison import ScoreRow
    from scramble.reporting.reproduced import PaperColumn

log = logging.getLogger(__name__)

SIZES = ("full", "tiny")
KEY_SEPARATOR = "/"


@dataclass(frozen=True)
class Step:
    """One command: a script with its overrides; ``makes`` are files that stand when it is finished."""

    run: str
    script: str
    overrides: tuple[str, ...]
    makes: tuple[Path, ...]

    @property
    def title(self) -> str:
        """The script, and which evaluation it is where a run has several."""
        folder = next((o.partition("=")[2] for o in self.overrides if o.startswith("folder=")), "evaluation")
        return self.script + (f" ({folder.removeprefix('evaluation-')})" if folder != "evaluation" else "")

    @property
    def command(self) -> list[str]:
        return [sys.executable, str(SCRIPTS / f"{self.script}.py"), *self.overrides]

    def line(self) -> str:
        """The command as one types it in the project's folder."""
        return shlex.join(["python", f"scripts/{self.script}.py", *self.overrides])

    def missing(self) -> list[Path]:
        """What is not there or not finished."""
        return [path for path in self.makes if not _finished(path)]


def _finished(path: Path) -> bool:
    return path.exists() and (path.name != STAGE_FILE or read_json(path)["status"] == "finished")


def plan(
    runs: Mapping[str, Mapping[str, Any]],
    folder: str | Path,
    *,
    size: str,
    seeds: Sequence[int],
    more: Sequence[str] = (),
) -> list[Step]:
    """The steps of a table: for each run a training sweep over objectives and seeds, then its evaluations.

    Args:
        runs: name -> ``objectives`` and, under ``size``, ``config`` (overrides of every command) and ``evaluations``
            (folder -> overrides). The runs share their data, but for those with ``own_data``.
        more: overrides of every command that go last.
    """
    steps = []
    for name, run in runs.items():
        own = Path(folder) / name
        sized = run[size]
        data = f"run.data={(own if run.get('own_data') else Path(folder)) / 'data'}"
        shared = (*sized["config"], f"run.dir={own}", data)
        arms = [f"{objective}-seed{seed}" for objective in run["objectives"] for seed in seeds]
        sweep = (f"objective={','.join(run['objectives'])}", f"seed={','.join(map(str, seeds))}")
        made = tuple(own / "train" / arm / STAGE_FILE for arm in arms)
        steps.append(Step(name, "train", ("-m", *shared, *sweep, *more), made))
        for evaluation, overrides in sized["evaluations"].items():
            scored = tuple(
                own / _results(evaluation, (*overrides, *more)) / arm / benchmark / "result.json"
                for arm in ("base", *arms)
                for benchmark in _benchmarks(overrides)
            )
            steps.append(Step(name, "evaluate", (*shared, *overrides, f"folder={evaluation}", *more), scored))
    return steps


def _results(evaluation: str, overrides: Sequence[str]) -> str:
    """The folder that an evaluation writes to: a limit among its overrides has one of its own."""
    limits = [override.partition("=")[2] for override in overrides if override.startswith("limit=")]
    return results_folder(evaluation, int(limits[-1]) if limits and limits[-1] != "null" else None)


def _benchmarks(overrides: Sequence[str]) -> list[str]:
    for override in overrides:
        if override.startswith("benchmark="):
            return [name.strip() for name in override.partition("=")[2].strip("[]").split(",")]
    raise StageError(f"an evaluation names no benchmark: {' '.join(overrides)}")


def reproduce(
    table: Mapping[str, Any],
    folder: str | Path,
    *,
    size: str,
    seeds: Sequence[int] = (0,),
    more: Sequence[str] = (),
    only: Sequence[str] | None = None,
    list_only: bool = False,
) -> Path | None:
    """Run what a table still needs and write ``table.md`` and ``table.json`` into ``folder``.

    Args:
        table: ``name``, ``notes``, ``columns``, ``runs`` and ``against`` (the method that the others of a run are
            tested against; the base if left out), see ``configs/table``.
        only: of runs and objectives those named only.
        list_only: say what is needed and what is finished, run nothing.
    Returns:
        The table's Markdown file, None where nothing was run.
    Raises:
        StageError: an unknown size or run, a command that failed.
    """
    if size not in SIZES:
        raise StageError(f"size={size}: choose {' or '.join(SIZES)}")
    runs = _selected(table["runs"], only)
    steps = plan(runs, folder, size=size, seeds=seeds, more=more)
    _tell(steps)
    if list_only:
        return None
    journal = Path(folder) / "finished.json"
    finished: list[str] = read_json(journal) if journal.exists() else []
    for step in steps:
        # Finished by another command: the stages themselves tell whether it is the same work, and reuse or refuse it.
        if step.missing() or step.line() not in finished:
            _run(step)
            finished.append(step.line())
            write_json(journal, finished)
    return _write(table, runs, Path(folder), size, seeds, more)


def _selected(runs: Mapping[str, Any], only: Sequence[str] | None) -> dict[str, Any]:
    """The runs and objectives named by ``only``; naming none of a run's objectives takes them all."""
    if not only:
        return dict(runs)
    objectives = {name for run in runs.values() for name in run["objectives"]}
    if unknown := [name for name in only if name not in runs and name not in objectives]:
        raise StageError(
            f"only={unknown[0]}: this table has the runs {', '.join(runs)} and the objectives "
            f"{', '.join(sorted(objectives))}"
        )
    wanted = [name for name in only if name in runs] or list(runs)
    kept = {name: dict(runs[name]) for name in wanted}
    if any(name in objectives for name in only):
        for run in kept.values():
            run["objectives"] = [name for name in run["objectives"] if name in only]
    return {name: run for name, run in kept.items() if run["objectives"]}


def _tell(steps: Sequence[Step]) -> None:
    for step in steps:
        missing = len(step.missing())
        state = "finished" if not missing else f"{len(step.makes) - missing} of {len(step.makes)} finished"
        log.info(f"{step.run}, {step.title}: {state}")
        log.info(f"    {step.line()}")


def _run(step: Step) -> None:
    log.info(f"running: {step.line()}")
    started = time.monotonic()
    codes: list[int] = []
    # In the pool, where a Ctrl-C lets the command save: subprocess.run would kill it.
    run_pool([Task(step.command, None, {})], 1, None, lambda _, code: codes.append(code))
    if codes[0] or step.missing():
        lacking = ", ".join(map(str, step.missing()[:3]))
        reason = f"ended with status {codes[0]}" if codes[0] else f"left {lacking} unfinished"
        raise StageError(f"{step.line()}\n{reason}; what is finished is kept, the same command resumes from there")
    log.info(f"{step.run}, {step.title}: {time.monotonic() - started:.0f} s")


# --------------------------------------------------------------------------------------------------------------- table


def _write(
    table: Mapping[str, Any],
    runs: Mapping[str, Mapping[str, Any]],
    folder: Path,
    size: str,
    seeds: Sequence[int],
    more: Sequence[str],
) -> Path:
    from scramble.reporting import reproduced

    columns = [_column(column, size) for column in table["columns"]]
    columns = [column for column in columns if column.measured or column.published]
    methods: dict[str, tuple[str, str]] = {}
    for name, run in runs.items():
        for method in ("base", *run["objectives"]):
            methods[f"{name}{KEY_SEPARATOR}{method}"] = (run["rows"][method], run["rows"]["base"])
    against = table.get("against", "base")
    measured = _measured(runs, folder, size, against, more)
    made = reproduced.beside(columns, methods, measured, baseline=against)
    made.notes = [*_preface(size, seeds, against), *table.get("notes", ()), *made.notes]
    title = f"{table['name']}, {size}"
    write_text(folder / "table.md", reproduced.as_markdown(made, title))
    write_json(
        folder / "table.json",
        {
            "table": table["name"],
            "size": size,
            "seeds": list(seeds),
            "columns": [column.title for column in columns],
            "rows": {label: [dataclasses.asdict(cell) for cell in cells] for label, cells in made.rows.items()},
            "notes": made.notes,
            "environment": environment(),
        },
    )
    for shown in reproduced.by_column(made, title):
        show(shown.rich())
    for note in made.notes:
        log.info(f"- {note}")
    log.info(f"table: {folder / 'table.md'}")
    return folder / "table.md"


def _preface(size: str, seeds: Sequence[int], against: str) -> Iterator[str]:
    if size == "tiny":
        yield (
            "size=tiny: tiny models, the embedded world and a few steps. It shows that every part fits; its numbers "
            "stand for nothing."
        )
    yield (
        f"Measured: percent ± a standard error over items, {len(seeds)} training seed{'s' * (len(seeds) > 1)}; in "
        f"brackets the difference to {'the base' if against == 'base' else f'{against} of the same run'} on the same "
        "items, in points, with its 95 % interval. Published: as printed, in brackets the gain over the published base."
    )


def _column(column: Mapping[str, Any], size: str) -> PaperColumn:
    from scramble.reporting.reproduced import PaperColumn, Place

    measured, published = column.get(size), column.get("published")
    return PaperColumn(Place(**measured) if measured else None, Place(**published) if published else None)


def _measured(
    runs: Mapping[str, Mapping[str, Any]], folder: Path, size: str, against: str, more: Sequence[str]
) -> dict[str, list[ScoreRow]]:
    """Rows by evaluation folder; methods are keyed ``<run>/<objective>``."""
    from scramble.reporting import comparison

    found: dict[str, list[ScoreRow]] = {}
    for name, run in runs.items():
        for evaluation, overrides in run[size]["evaluations"].items():
            place = folder / name / _results(evaluation, (*overrides, *more))
            rows = comparison.compare(comparison.find_methods(place), [against])
            found.setdefault(evaluation, []).extend(
                dataclasses.replace(row, method=f"{name}{KEY_SEPARATOR}{row.method}") for row in rows
            )
    return found
