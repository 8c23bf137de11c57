"""Reproduces a paper's table: runs or reuses the required stages, and lists measured and published scores."""

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

from scramble.console import show_table
from scramble.launch.pool import Task, run_pool
from scramble.pipeline import StageError
from scramble.pipeline.evaluate import results_folder
from scramble.pipeline.provenance import environment
from scramble.project import SCRIPTS
from scramble.storage.files import STAGE_FILE, read_json, stage_status, write_json, write_text

if TYPE_CHECKING:
    from scramble.reporting.comparison import ScoreRow
    from scramble.reporting.reproduced import PaperColumn

log = logging.getLogger(__name__)

TABLE_SIZES = ("full", "tiny")
KEY_SEPARATOR = "/"


@dataclass(frozen=True)
class Step:
    """Describes a command: a script with its overrides.

    ``makes`` lists the files that exist when the command has finished.
    """

    run: str
    script: str
    overrides: tuple[str, ...]
    makes: tuple[Path, ...]

    @property
    def title(self) -> str:
        """The script's name, with the name of the evaluation if a run has several evaluations."""
        folder = next((o.partition("=")[2] for o in self.overrides if o.startswith("folder=")), "evaluation")
        return self.script + (f" ({folder.removeprefix('evaluation-')})" if folder != "evaluation" else "")

    @property
    def command(self) -> list[str]:
        return [sys.executable, str(SCRIPTS / f"{self.script}.py"), *self.overrides]

    def line(self) -> str:
        """Return the command as it is typed in the project's folder."""
        return shlex.join(["python", f"scripts/{self.script}.py", *self.overrides])

    def missing(self) -> list[Path]:
        """Return the files that do not exist or that record an unfinished stage."""
        return [
            path
            for path in self.makes
            if not path.exists() or (path.name == STAGE_FILE and stage_status(path.parent) != "finished")
        ]


def plan(
    runs: Mapping[str, Mapping[str, Any]],
    folder: str | Path,
    *,
    size: str,
    seeds: Sequence[int],
    more: Sequence[str] = (),
    judge: Sequence[str] = (),
) -> list[Step]:
    """Return the steps that reproduce a table.

    A run consists of a training sweep over objectives and seeds, followed by evaluations.

    Args:
        runs: the runs by name. A run has the keys ``objectives``, ``full`` and ``tiny``. Each of the last two contains
            ``config`` (overrides of every command) and ``evaluations`` (overrides by folder). All runs without
            ``own_data`` share a data folder.
        folder: folder of the table.
        size: ``full`` or ``tiny``.
        seeds: training seeds.
        more: overrides to append to every command.
        judge: overrides to append to the evaluations.
    """
    steps = []
    for name, run in runs.items():
        run_dir = Path(folder) / name
        settings = run[size]
        data = f"run.data={(run_dir if run.get('own_data') else Path(folder)) / 'data'}"
        shared = (*settings["config"], f"run.dir={run_dir}", data)
        arms = [f"{objective}-seed{seed}" for objective in run["objectives"] for seed in seeds]
        sweep = (f"objective={','.join(run['objectives'])}", f"seed={','.join(map(str, seeds))}")
        stage_files = tuple(run_dir / "train" / arm / STAGE_FILE for arm in arms)
        steps.append(Step(name, "train", ("-m", *shared, *sweep, *more), stage_files))
        for evaluation, overrides in settings["evaluations"].items():
            result_files = tuple(
                run_dir / _results(evaluation, (*overrides, *more)) / arm / benchmark / "result.json"
                for arm in ("base", *arms)
                for benchmark in _benchmarks(overrides)
            )
            values = (*shared, *overrides, f"folder={evaluation}", *more, *judge)
            steps.append(Step(name, "evaluate", values, result_files))
    return steps


def _results(evaluation: str, overrides: Sequence[str]) -> str:
    """Return the folder that an evaluation writes to. A ``limit`` in the overrides changes the folder's name."""
    limits = [override.partition("=")[2] for override in overrides if override.startswith("limit=")]
    return results_folder(evaluation, int(limits[-1]) if limits and limits[-1] != "null" else None)


def _benchmarks(overrides: Sequence[str]) -> list[str]:
    for override in overrides:
        if override.startswith("benchmark="):
            return [name.strip() for name in override.partition("=")[2].strip("[]").split(",")]
    raise StageError(
        f"the overrides {' '.join(overrides)} of an evaluation name no benchmark: add benchmark=[...] to the "
        "evaluation in configs/table"
    )


def reproduce(
    table: Mapping[str, Any],
    folder: str | Path,
    *,
    size: str,
    seeds: Sequence[int] = (0,),
    more: Sequence[str] = (),
    judge: Sequence[str] = (),
    only: Sequence[str] | None = None,
    list_only: bool = False,
) -> Path | None:
    """Run the missing steps of a table and write ``table.md`` and ``table.json`` to ``folder``.

    Args:
        table: mapping with the keys ``name``, ``notes``, ``columns``, ``runs``, ``against`` (the method with which all
            other methods of a run are compared; by default the base model) and ``published_only`` (published rows to
            show without a run); see ``configs/table``.
        folder: folder of the table and its runs.
        size: ``full`` or ``tiny``.
        seeds: training seeds.
        more: overrides to append to every command.
        judge: overrides to append to the evaluations, to select a judge.
        only: names of runs and objectives to select; None selects all.
        list_only: whether to log which steps are finished, without running any step.

    Returns:
        The table's Markdown file, or None if ``list_only`` is true.

    Raises:
        StageError: a size or run is unknown, or a command fails.
    """
    if size not in TABLE_SIZES:
        raise StageError(f"size must be {' or '.join(map(repr, TABLE_SIZES))}, not {size!r}")
    runs = _selected(table["runs"], only)
    steps = plan(runs, folder, size=size, seeds=seeds, more=more, judge=judge)
    _list(steps)
    if list_only:
        return None
    journal = Path(folder) / "finished.json"
    finished: list[str] = read_json(journal) if journal.exists() else []
    for step in steps:
        # If another command wrote the files, run the step too. Its stages compare the settings, and then either reuse
        # the files or report the differences.
        if step.missing() or step.line() not in finished:
            _run(step)
            finished.append(step.line())
            write_json(journal, finished)
    return _write(table, runs, Path(folder), size, seeds, more)


def _selected(runs: Mapping[str, Any], only: Sequence[str] | None) -> dict[str, Any]:
    """Return the runs and objectives named by ``only``. If ``only`` names no objective, all objectives are selected."""
    if not only:
        return dict(runs)
    objectives = {name for run in runs.values() for name in run["objectives"]}
    if unknown := [name for name in only if name not in runs and name not in objectives]:
        raise StageError(
            f"only={unknown[0]}: there is no such run or objective: choose from the runs {', '.join(runs)} and the "
            f"objectives {', '.join(sorted(objectives))}"
        )
    names = [name for name in only if name in runs] or list(runs)
    selected = {name: dict(runs[name]) for name in names}
    if any(name in objectives for name in only):
        for run in selected.values():
            run["objectives"] = [name for name in run["objectives"] if name in only]
    return {name: run for name, run in selected.items() if run["objectives"]}


def _list(steps: Sequence[Step]) -> None:
    for step in steps:
        missing = len(step.missing())
        state = "finished" if not missing else f"{len(step.makes) - missing} of {len(step.makes)} finished"
        log.info(f"{step.run}, {step.title}: {state}")
        log.info(f"    {step.line()}")


def _run(step: Step) -> None:
    log.info(f"running: {step.line()}")
    started = time.monotonic()
    codes: list[int] = []
    # run_pool lets the command save after a Ctrl-C. subprocess.run would kill it.
    run_pool([Task(step.command, None)], 1, None, lambda _, code: codes.append(code))
    if codes[0] or step.missing():
        missing = ", ".join(map(str, step.missing()[:3]))
        reason = f"exited with status {codes[0]}" if codes[0] else f"did not write {missing}"
        raise StageError(
            f"{step.line()}\nthis command {reason}; finished work is stored: run scripts/reproduce.py again to resume"
        )
    log.info(f"{step.run}, {step.title}: finished in {time.monotonic() - started:.0f} s")


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
    base = next(iter(runs.values()))["rows"]["base"]
    methods |= {f"published{KEY_SEPARATOR}{label}": (label, base) for label in table.get("published_only", ())}
    against = table.get("against", "base")
    measured = _measured(runs, folder, size, against, more)
    comparison = reproduced.compare_with_paper(columns, methods, measured, baseline=against)
    comparison.notes = [*_preface(size, seeds, against), *table.get("notes", ()), *comparison.notes]
    title = f"{table['name']}, {size}"
    write_text(folder / "table.md", reproduced.as_markdown(comparison, title))
    write_json(
        folder / "table.json",
        {
            "table": table["name"],
            "size": size,
            "seeds": list(seeds),
            "columns": [column.title for column in columns],
            "rows": {label: [dataclasses.asdict(cell) for cell in cells] for label, cells in comparison.rows.items()},
            "notes": comparison.notes,
            "environment": environment(),
        },
    )
    for shown in reproduced.by_column(comparison, title):
        show_table(shown.rich())
    for note in comparison.notes:
        log.info(f"- {note}")
    log.info(f"table: {folder / 'table.md'}")
    return folder / "table.md"


def _preface(size: str, seeds: Sequence[int], against: str) -> Iterator[str]:
    if size == "tiny":
        yield (
            "size=tiny uses tiny models, the embedded world and a few steps. It is a smoke test of the whole pipeline; "
            "the scores are meaningless."
        )
    yield (
        f"Measured scores are in percent ± standard error over items ({len(seeds)} training "
        f"seed{'s' * (len(seeds) > 1)}). Brackets show the difference from "
        f"{'the base' if against == 'base' else f'{against} of the same run'} on the same items, in points, with a "
        "95 % interval. Published scores are as in the paper; brackets show the gain over the published base."
    )


def _column(column: Mapping[str, Any], size: str) -> PaperColumn:
    from scramble.reporting.reproduced import PaperColumn, ScoreSource

    measured, published = column.get(size), column.get("published")
    places = [ScoreSource(**place) if place else None for place in (measured, published)]
    return PaperColumn(places[0], places[1], column.get("deviation"))


def _measured(
    runs: Mapping[str, Mapping[str, Any]], folder: Path, size: str, against: str, more: Sequence[str]
) -> dict[str, list[ScoreRow]]:
    """Return the measured scores by evaluation folder. The methods are named ``<run>/<objective>``."""
    from scramble.reporting import comparison

    rows_by_folder: dict[str, list[ScoreRow]] = {}
    for name, run in runs.items():
        for evaluation, overrides in run[size]["evaluations"].items():
            place = folder / name / _results(evaluation, (*overrides, *more))
            rows = comparison.compare(comparison.find_methods(place), [against])
            rows_by_folder.setdefault(evaluation, []).extend(
                dataclasses.replace(row, method=f"{name}{KEY_SEPARATOR}{row.method}") for row in rows
            )
    return rows_by_folder
