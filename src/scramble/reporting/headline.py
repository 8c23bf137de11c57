"""The headline of a run: what its arms did to the score that counts, and what got worse, in a few plain lines.

The same lines end ``scripts/report.py`` and open ``report.md`` and the results browser.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scramble.reporting import published
from scramble.reporting.comparison import ALPHA, ScoreRow, has_interval, is_few, points, sign
from scramble.reporting.table import Column, Table, escape_markdown
from scramble.storage.files import STAGE_FILE, read_json

MAX_LINES = 8
"""Of the whole headline, so that it ends a terminal's output together with the paths of report and browser."""
MAX_CHANGES = 4
MAX_METHODS = 2
"""Of scores that changed, and of methods named for one of them."""
FEW_ITEMS = 30
CONTROL = "sft"
"""The method that is trained on the chosen captions alone."""

_SCORES = {
    "group": "both images matched with both captions",
    "text": "the right caption picked for both images",
    "image": "the right image picked for both captions",
    "accuracy": "right answers",
}


@dataclass(frozen=True)
class HeadlineRow:
    """One method: its name, its label with its role, the score, and the difference to ``reference`` as text.

    ``sign`` is ``good`` or ``bad`` where the difference is larger than chance explains, else empty.
    """

    method: str
    label: str
    value: str
    difference: str = ""
    sign: str = ""


@dataclass(frozen=True)
class Headline:
    """``benchmark`` and ``score`` say what leads; ``title``, ``rows`` and ``notes`` are shown, in this order."""

    benchmark: str
    score: str
    title: str
    rows: tuple[HeadlineRow, ...]
    notes: tuple[str, ...]


def build(
    rows: Sequence[ScoreRow],
    baselines: Sequence[str] = ("base", CONTROL),
    trained: Collection[str] = (),
    arm_notes: Sequence[str] = (),
) -> Headline:
    """The headline of measured rows (:func:`scramble.reporting.comparison.compare`, at least one).

    Args:
        baselines: in the order of :func:`scramble.reporting.comparison.compare`; a method is compared with the last of
            them that it has a difference to, and what got worse is said against the first.
        trained: the kinds of negatives that the arms were trained on; empty if all or unknown. Of a 2x2 benchmark that
            scores other kinds too, the first trained kind leads.
        arm_notes: what the rows do not show of the run's arms, see :func:`scramble.reporting.arms.arm_notes`.
    """
    benchmark, score = _lead(rows, trained)
    shown = [row for row in rows if (row.benchmark, row.score) == (benchmark, score)]
    others = _others(rows, benchmark, score)
    notes = [*_changes(others, baselines, benchmark), *_caveats(shown, baselines), *arm_notes]
    kept, left_out = _fit(shown, baselines, MAX_LINES - 1 - len(notes))
    if left_out:
        notes.insert(0, f"{_more(left_out, 'arm')} {'is' if left_out == 1 else 'are'} in the report.")
    return Headline(
        benchmark,
        score,
        _title(shown),
        tuple(_row(row, baselines) for row in kept),
        tuple(notes),
    )


def trained_kinds(data: Path | None) -> list[str]:
    """The kinds of negatives in a data set, as its settings name them; empty for all kinds, or without a data set."""
    if data is None or not (data / STAGE_FILE).exists():
        return []
    config = read_json(data / STAGE_FILE)["config"]
    return list((config.get("pairs") or {}).get("kinds") or ())


def as_text(headline: Headline) -> list[str]:
    """The lines for a terminal: the method's columns aligned, no line break within a line."""
    label = max(len(row.label) for row in headline.rows)
    value = max(len(row.value) for row in headline.rows)
    lines = [f"  {row.label:<{label}}  {row.value:>{value}}  {row.difference}".rstrip() for row in headline.rows]
    return [headline.title, *lines, *headline.notes]


def as_markdown(headline: Headline) -> str:
    """A table with the notes below it."""
    columns = [Column("method"), Column("%", align="right"), Column("difference")]
    rows = [(row.label, row.value, row.difference) for row in headline.rows]
    return f"**{escape_markdown(headline.title)}**\n\n{Table(columns, rows, notes=headline.notes).markdown()}"


def lead_first(rows: Sequence[ScoreRow], headline: Headline) -> list[ScoreRow]:
    """The rows with the headline's benchmark first."""
    return sorted(rows, key=lambda row: row.benchmark != headline.benchmark)


# ---------------------------------------------------------------------------------------------------- what is shown


def _lead(rows: Sequence[ScoreRow], trained: Collection[str]) -> tuple[str, str]:
    """The score that leads: a 2x2 benchmark's (the trained kind where it scores others too), held-out pairs, any."""
    main = _main_scores(rows)
    for benchmark, score in main.items():
        kinds = [r.score.partition("/")[2] for r in rows if r.benchmark == benchmark and _is_kind(r.score, score)]
        hit = next((kind for kind in trained if kind in kinds), None)
        # Tags such as "seen" are scored as kinds are: what tells kinds apart is that some were not trained on.
        if score == "group" and hit is not None and not set(kinds) <= set(trained):
            return benchmark, f"{score}/{hit}"
    for benchmark, score in main.items():
        if score == "group":
            return benchmark, score
    benchmark = "heldout_pairs" if "heldout_pairs" in main else next(iter(main))
    return benchmark, main[benchmark]


def _main_scores(rows: Sequence[ScoreRow]) -> dict[str, str]:
    """Benchmark -> the one score it is quoted by (of text, image and group the group score)."""
    return {column.benchmark: column.score for column in published.headlines(rows)}


def _is_kind(score: str, main: str) -> bool:
    return score.startswith(f"{main}/") and score.count("/") == 1


def _others(rows: Sequence[ScoreRow], benchmark: str, score: str) -> list[ScoreRow]:
    """Rows of the other main scores and of their kinds."""
    main = _main_scores(rows)
    return [
        row
        for row in rows
        if (row.score == main[row.benchmark] or _is_kind(row.score, main[row.benchmark]))
        and (row.benchmark, row.score) != (benchmark, score)
    ]


def _title(shown: Sequence[ScoreRow]) -> str:
    first = shown[0]
    score, _, kind = first.score.partition("/")
    name, what = first.benchmark, _SCORES.get(score, score)
    if name == "heldout_pairs":
        name, what = "Held-out pairs", "true caption likelier than the false one"
    if kind:
        name = f"{_kind(kind).capitalize()} ({name})"
    items = "items" if not first.n else "1 item" if first.n == 1 else f"{first.n:,} items"
    limit = f", of which only the first {first.limit:,} were scored" if first.limit else ""
    guessing = "" if first.chance is None else f" (guessing: {first.chance:.1f})"
    return f"{name}: {what}, percent of {items}{limit}{guessing}"


def _kind(kind: str) -> str:
    """A kind in words: ``swap-object`` are object swaps."""
    edit, _, what = kind.partition("-")
    return f"{what} {edit}s" if what and edit in ("swap", "replace", "add") else kind


def _role(method: str) -> str:
    return {"base": "base model", CONTROL: f"{CONTROL} (supervised control)"}.get(method, method)


def _row(row: ScoreRow, baselines: Sequence[str]) -> HeadlineRow:
    value = f"{row.value:.1f}"
    name = next((b for b in reversed(baselines) if b in row.differences), None)
    if name is None:
        return HeadlineRow(row.method, _role(row.method), value, f"not comparable: {row.reason}" if row.reason else "")
    test = row.differences[name]
    against = {"base": "the base model", CONTROL: "the control"}.get(name, name)
    return HeadlineRow(row.method, _role(row.method), value, _difference(test, against), sign(test))


def _difference(test: Mapping[str, Any], against: str) -> str:
    if test["difference"] == 0 and test["standard_error"] == 0:
        return f"the same as {against} on every item"
    return f"{points(test)} against {against}"


def _fit(shown: Sequence[ScoreRow], baselines: Sequence[str], count: int) -> tuple[list[ScoreRow], int]:
    """The baselines and the best others, at most ``count`` (at least 3) and one less if some are left out."""
    if len(shown) <= max(count, 3):
        return list(shown), 0
    best = sorted(shown, key=lambda row: (row.method not in baselines, -row.value))[: max(count - 1, 3)]
    return [row for row in shown if row in best], len(shown) - len(best)


# -------------------------------------------------------------------------------------------------------- in words


def _changes(others: Sequence[ScoreRow], baselines: Sequence[str], lead: str) -> list[str]:
    """What else got worse or better than the first baseline, beyond chance."""
    tested = [
        (row, name, row.differences[name])
        for row in others
        for name in [next((b for b in baselines if b in row.differences), None)]
        if name is not None and not is_few(row.n)
    ]
    if not tested:
        return []
    against = "the base model" if tested[0][1] == "base" else tested[0][1]
    found: dict[str, dict[str, list[tuple[float, str]]]] = {"bad": {}, "good": {}}
    for row, _, test in tested:
        if way := sign(test):
            found[way].setdefault(_name(row, lead), []).append((test["difference"], row.method))
    if not found["bad"]:
        worse = f"Nothing else got worse than {against} beyond chance (p < {ALPHA}; {len(tested)} comparisons)."
    else:
        worse = f"Got worse than {against} (p < {ALPHA}): {_listed(found['bad'])}"
    return [worse, *([f"Got better than {against}, too: {_listed(found['good'])}"] if found["good"] else [])]


def _listed(found: Mapping[str, Sequence[tuple[float, str]]]) -> str:
    """``size swaps (dpo -8.5, mpo -2.4), ...``, the largest change first."""
    largest = sorted(found, key=lambda name: -max(abs(difference) for difference, _ in found[name]))
    parts = []
    for name in largest[:MAX_CHANGES]:
        by_size = sorted(found[name], key=lambda change: -abs(change[0]))
        changes = [f"{method} {difference:+.1f}" for difference, method in by_size[:MAX_METHODS]]
        more = len(by_size) - MAX_METHODS
        parts.append(f"{name} ({', '.join([*changes, _more(more, 'arm')] if more > 0 else changes)})")
    more = len(largest) - MAX_CHANGES
    return ", ".join(parts) + (f", and {_more(more, 'score')}" if more > 0 else "") + "."


def _more(count: int, what: str) -> str:
    return f"{count} more {what}{'' if count == 1 else 's'}"


def _name(row: ScoreRow, lead: str) -> str:
    kind = row.score.partition("/")[2]
    if row.benchmark == lead:
        return _kind(kind) if kind else "all kinds together"
    return f"{row.benchmark} {_kind(kind)}" if kind else row.benchmark


def _caveats(shown: Sequence[ScoreRow], baselines: Sequence[str]) -> list[str]:
    notes = []
    arms = [row for row in shown if row.method not in ("base", CONTROL)]
    n = min((row.n for row in shown if row.n), default=0)
    if 0 < n < FEW_ITEMS:
        notes.append(f"Only {n} test {'item' if n == 1 else 'items'}: too few to conclude anything from.")
    if not any(row.method != "base" for row in shown):
        notes.append("Only the base model was scored: train an arm with scripts/train.py, then evaluate again.")
    elif arms and CONTROL in baselines and not any(row.method == CONTROL for row in shown):
        notes.append(f"No supervised control to compare with: train one with objective={CONTROL}.")
    if any(has_interval(test) for row in shown for test in row.differences.values()):
        seeds = max(row.seeds for row in shown)
        over = f"items and {seeds} training seeds" if seeds > 1 else "the items; one training seed each"
        notes.append(f"In brackets: 95 % intervals, over {over}.")
    return notes
