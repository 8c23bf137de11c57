"""Stage 4: writes tables and figures of a run."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from itertools import groupby, islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from scramble.console import counted, show_table
from scramble.pipeline import StageError
from scramble.pipeline.provenance import environment
from scramble.records import PreferencePair
from scramble.storage.arm_names import method_of
from scramble.storage.files import write_json, write_text
from scramble.storage.jsonl import read_jsonl
from scramble.storage.tables import read_table, table_path

if TYPE_CHECKING:
    from scramble.reporting.comparison import ScoreRow
    from scramble.reporting.headline import Headline
    from scramble.reporting.published import ScoreTable

log = logging.getLogger(__name__)

SHEET_PAIRS = 12
"""Maximum number of pairs on the contact sheet."""


def report(run: str | Path, data: str | Path, *, baselines: Sequence[str] = ("base", "sft")) -> Path:
    """Write ``<run>/report/`` and print the main result.

    The folder contains ``report.md`` (main result, figures, all scores), ``report.json`` (all scores), ``table.md``,
    ``table.tex`` and ``table.json`` (main scores and published numbers), ``training.png`` and ``contact_sheet.png``.

    Raises:
        StageError: if no arm has been evaluated.
    """
    from scramble.reporting import arms, charts, comparison, figures, headline, published

    run, data, folder = Path(run), Path(data), Path(run) / "report"
    results = comparison.find_methods(run / "evaluation")
    if not results:
        raise StageError(f"{run}/evaluation has no results: run scripts/evaluate.py with the same settings first")
    rows = comparison.compare(results, baselines)
    folders = [path for methods in results.values() for paths in methods.values() for path in paths]
    main = headline.build(rows, baselines, headline.trained_kinds(data), arms.arm_notes(folders))
    rows = headline.lead_first(rows, main)
    pictures = []
    files = {arm: path / "metrics.jsonl" for arm, path in arms.shown_arms(run, folders).items()}
    metrics = {arm: list(read_jsonl(file)) for arm, file in files.items() if file.exists()}
    if metrics:
        methods = [row.method for row in rows] + [method_of(arm) for arm in metrics]
        pictures.append(figures.training_curves(metrics, folder / "training.png", charts.colour_numbers(methods)))
    if table_path(data / "train", PreferencePair).exists():
        pictures += _contact_sheet(data / "train", folder / "contact_sheet.png")
    write_json(
        folder / "report.json", {"rows": [dataclasses.asdict(row) for row in rows], "environment": environment()}
    )
    scores = published.build(rows)
    write_json(folder / "table.json", published.as_json(scores))
    write_text(folder / "table.md", published.as_markdown(scores))
    write_text(folder / "table.tex", published.as_latex(scores))
    write_text(folder / "report.md", _markdown(run, main, rows, scores, baselines, pictures))
    for line in headline.as_text(main):
        log.info(line)
    log.info(f"report (all scores, figures): {folder / 'report.md'}")
    return folder / "report.md"


def _contact_sheet(split: Path, path: Path) -> list[Path]:
    """Draw a contact sheet of pairs with different images. Return a list with its path, which is empty if no pair has
    an image.
    """
    from scramble.reporting.contact_sheet import contact_sheet, undrawable
    from scramble.storage.image_table import ImageTable

    images = ImageTable(split)
    pairs: dict[str, PreferencePair] = {}
    for pair in islice(read_table(split, PreferencePair), 50 * SHEET_PAIRS):
        if pair.image_ids:
            pairs.setdefault(pair.image_ids[0], pair)
        if len(pairs) == SHEET_PAIRS:
            break
    if not pairs:
        return []
    texts = [text for pair in pairs.values() for text in (pair.chosen, pair.rejected)]
    if number := undrawable(texts):
        log.info(
            f"{path.name}: no installed font has all characters of {counted(number, 'answers')}; the missing "
            "characters are drawn as boxes. Install a font with these characters, for example Noto Sans, and run "
            "scripts/report.py again"
        )
    return [contact_sheet(list(pairs.values()), images, path)]


CAPTIONS = {
    "training": "Training curves (each panel names its split)",
    "contact_sheet": "Training pairs: chosen answers in green, rejected answers in red",
}


def _markdown(
    run: Path,
    main: Headline,
    rows: Sequence[ScoreRow],
    scores: ScoreTable,
    baselines: Sequence[str],
    pictures: Sequence[Path],
) -> str:
    from scramble.reporting import comparison, headline, published
    from scramble.reporting.table import NOT_COMPARABLE

    note = f" Published numbers are listed next to ours. Numbers marked {NOT_COMPARABLE} are not comparable with ours."
    parts = [
        f"# Report of {run.name}\n",
        headline.as_markdown(main),
        *(f"{CAPTIONS[picture.stem]}:\n\n![{picture.stem}]({picture.name})\n" for picture in pictures),
        "## Main scores\n",
        "Scores are in percent, plus or minus one standard error over items. Differences from the baselines are paired "
        "by item (and by seed) and given in percentage points with 95 % intervals."
        f"{note if any(row.source for row in scores.rows) else ''}\n",
        published.as_markdown(scores),
        "## All scores\n",
        comparison.score_table(rows, baselines).markdown(),
    ]
    return "\n".join(parts)


def print_rows(rows: Sequence[ScoreRow], baselines: Sequence[str]) -> None:
    """Print a table per benchmark with overall scores and group scores by kind. The result files contain all scores.

    The scores are compared only with baselines that have results on the benchmark.
    """
    from scramble.reporting.comparison import score_table

    for benchmark, members in groupby(rows, key=lambda row: row.benchmark):
        shown = [row for row in members if "/" not in row.score or row.score.startswith("group/swap")]
        sections = [n for n, (above, below) in enumerate(pairwise(shown), 1) if above.score != below.score]
        compared = [name for name in baselines if any(name in row.differences for row in shown)]
        caption = f"{benchmark}: percent" + (", differences in points with 95 % intervals" if compared else "")
        table = score_table(shown, compared, caption, sections)
        show_table(table.rich())
        for note in table.notes:
            log.info(f"  {note}")
