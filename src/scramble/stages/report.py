"""Stage 4: tables and figures of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING

from scramble.app import environment
from scramble.console import console, say
from scramble.records import PreferencePair
from scramble.stages import StageError
from scramble.store import read_jsonl, read_table, table_path, write_json, write_text

if TYPE_CHECKING:
    from scramble.report.comparison import Row


def report(run: str | Path, data: str | Path, *, baselines: Sequence[str] = ("base", "sft")) -> Path:
    """Write ``<run>/report/``: ``report.md`` and ``report.json`` (all scores), ``table.md``, ``table.tex`` and
    ``table.json`` (headline scores beside published numbers), ``training.png`` and ``contact_sheet.png``.

    Raises:
        StageError: nothing has been evaluated yet.
    """
    from scramble.report import comparison, figures, table

    run, folder = Path(run), Path(run) / "report"
    found = comparison.find_methods(run / "evaluation")
    if not found:
        raise StageError(f"{run}/evaluation holds no results: run scripts/evaluate.py with the same settings first")
    rows = comparison.compare(found, baselines)
    pictures = []
    metrics = {path.parent.name: list(read_jsonl(path)) for path in sorted((run / "train").glob("*/metrics.jsonl"))}
    if metrics:
        pictures.append(figures.training_curves(metrics, folder / "training.png"))
    if table_path(Path(data) / "train", PreferencePair).exists():
        pictures.append(_contact_sheet(Path(data) / "train", folder / "contact_sheet.png"))
    write_json(
        folder / "report.json", {"rows": [dataclasses.asdict(row) for row in rows], "environment": environment()}
    )
    headlines = table.build(rows)
    write_json(folder / "table.json", table.as_json(headlines))
    write_text(folder / "table.md", table.as_markdown(headlines))
    write_text(folder / "table.tex", table.as_latex(headlines))
    write_text(folder / "report.md", _markdown(run, rows, table.as_markdown(headlines), baselines, pictures))
    print_rows(rows, baselines)
    say(f"report: {folder / 'report.md'}")
    return folder / "report.md"


def _contact_sheet(split: Path, path: Path, count: int = 12) -> Path:
    from scramble.report import figures
    from scramble.store import ImageTable

    images = ImageTable(split)
    seen: dict[str, PreferencePair] = {}
    for pair in islice(read_table(split, PreferencePair), 50 * count):
        if pair.image_ids:
            seen.setdefault(pair.image_ids[0], pair)
        if len(seen) == count:
            break
    return figures.contact_sheet(list(seen.values()), images, path)


def _markdown(
    run: Path, rows: Sequence[Row], headlines: str, baselines: Sequence[str], pictures: Sequence[Path]
) -> str:
    from scramble.report import comparison

    parts = [
        f"# Report of {run.name}\n",
        "Scores in percent, plus or minus a standard error over items; differences to baselines are paired by item "
        "(and seed), with 95 % intervals. Published numbers stand beside ours; those marked were measured otherwise.\n",
        headlines,
        "## All scores\n",
        comparison.markdown(rows, baselines),
        *(f"![{picture.stem}]({picture.name})\n" for picture in pictures),
    ]
    return "\n".join(parts)


def print_rows(rows: Sequence[Row], baselines: Sequence[str]) -> None:
    """A table a benchmark on the terminal: whole scores, and group scores by kind. The files hold all of them."""
    from rich.table import Table

    from scramble.report import comparison

    for benchmark, found in groupby(rows, key=lambda row: row.benchmark):
        table = Table(title=f"{benchmark}: percent, differences in points with 95 % intervals")
        for name in comparison.heads(baselines)[1:]:
            table.add_column(name, overflow="fold")
        for score, members in groupby(found, key=lambda row: row.score):
            if "/" not in score or score.startswith("group/swap"):
                for row in members:
                    table.add_row(*comparison.cells(row, baselines)[1:])
                table.add_section()
        console().print(table)
