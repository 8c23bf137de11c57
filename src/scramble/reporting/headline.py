"""Builds the headline of a run: a few lines that compare the arms on the main score and list other changed scores.

``scripts/report.py`` prints these lines at the end; ``report.md`` and the results browser begin with them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scramble.console import counted
from scramble.evaluation.scoring.hallucination import lower_is_better
from scramble.evaluation.scoring.statistics import is_few
from scramble.reporting import published
from scramble.reporting.comparison import ALPHA, ScoreRow, has_interval, points, sign
from scramble.reporting.table import Column, Table, escape_markdown
from scramble.storage.files import STAGE_FILE, read_json

MAX_LINES = 8
"""Maximum number of lines of the headline."""
MAX_CHANGES = 4
"""Maximum number of scores to list as changed, besides the main score."""
MAX_METHODS = 2
"""Maximum number of methods to list per changed score."""
FEW_ITEMS = 30
"""With fewer test items than this number, the headline warns that the items are too few for conclusions."""
CONTROL = "sft"
"""The method that is trained only on the chosen answers."""

_SCORES = {
    "group": "both images and both captions matched correctly",
    "group_match": "both captions assigned to the right images",
    "text": "the right caption picked for each image",
    "image": "the right image picked for each caption",
    "accuracy": "correct answers",
}


@dataclass(frozen=True)
class HeadlineRow:
    """One method: its name, its label, its score, and its difference from a baseline as text.

    ``sign`` is ``good`` or ``bad`` if the difference is statistically significant, and "" otherwise.
    """

    method: str
    label: str
    value: str
    difference: str = ""
    sign: str = ""


@dataclass(frozen=True)
class Headline:
    """``benchmark`` and ``score`` identify the main score.

    ``title``, ``rows`` and ``notes`` are shown in this order.
    """

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
    """Build the headline from measured rows.

    Args:
        rows: at least one row returned by :func:`scramble.reporting.comparison.compare`.
        baselines: the baselines that were passed to ``compare``, in the same order. On the main score, a method
            is compared with the last baseline for which it has a difference. Changes of other scores are relative to
            the first baseline for which any of these scores has a difference.
        trained: kinds of pairs that the arms were trained on; empty if the arms were trained on all kinds, or if the
            kinds are unknown. If a 2x2 benchmark also scores kinds that are not in ``trained``, the main score is the
            group score of the first kind in ``trained`` that the benchmark scores.
        arm_notes: notes on the arms of the run (:func:`scramble.reporting.arms.arm_notes`).
    """
    benchmark, score = _lead(rows, trained)
    shown = [row for row in rows if (row.benchmark, row.score) == (benchmark, score)]
    others = _others(rows, benchmark, score)
    notes = [*_changes(others, baselines, benchmark), *_caveats(shown, baselines), *arm_notes]
    selected, num_omitted = _fit(shown, baselines, MAX_LINES - 1 - len(notes))
    if num_omitted:
        notes.insert(0, f"{_more(num_omitted, 'arm')} {'is' if num_omitted == 1 else 'are'} in the report.")
    return Headline(
        benchmark,
        score,
        _title(shown),
        tuple(_row(row, baselines) for row in selected),
        tuple(notes),
    )


def trained_kinds(data: Path | None) -> list[str]:
    """Return the kinds of pairs in the settings of a data set. The list is empty if the settings select all kinds, or
    if there is no data set.
    """
    if data is None or not (data / STAGE_FILE).exists():
        return []
    config = read_json(data / STAGE_FILE)["config"]
    return list((config.get("pairs") or {}).get("kinds") or ())


def as_text(headline: Headline) -> list[str]:
    """Return the headline as lines for a terminal, with aligned columns."""
    label = max(len(row.label) for row in headline.rows)
    value = max(len(row.value) for row in headline.rows)
    lines = [f"  {row.label:<{label}}  {row.value:>{value}}  {row.difference}".rstrip() for row in headline.rows]
    return [headline.title, *lines, *headline.notes]


def as_markdown(headline: Headline) -> str:
    """Return the headline as a Markdown table with notes below it."""
    columns = [Column("method"), Column("%", align="right"), Column("difference")]
    rows = [(row.label, row.value, row.difference) for row in headline.rows]
    return f"**{escape_markdown(headline.title)}**\n\n{Table(columns, rows, notes=headline.notes).markdown()}"


def lead_first(rows: Sequence[ScoreRow], headline: Headline) -> list[ScoreRow]:
    """Sort the rows so that the headline's benchmark comes first."""
    return sorted(rows, key=lambda row: row.benchmark != headline.benchmark)


# ---------------------------------------------------------------------------------------------------- what is shown


def _lead(rows: Sequence[ScoreRow], trained: Collection[str]) -> tuple[str, str]:
    """Return the benchmark and the name of the main score.

    The main score is the group score of a 2x2 benchmark. If the benchmark also scores kinds that are not in
    ``trained``, the main score is the group score of a kind in ``trained``. Without a 2x2 benchmark, the main score is
    the accuracy on the held-out pairs. Without held-out pairs, it is the main score of the first benchmark.
    """
    main = _main_scores(rows)
    for benchmark, score in main.items():
        kinds = [r.score.partition("/")[2] for r in rows if r.benchmark == benchmark and _is_kind(r.score, score)]
        trained_kind = next((kind for kind in trained if kind in kinds), None)
        # Scores by tag, such as "seen", look like scores by kind. Select a kind only if others were not trained on.
        if score == "group" and trained_kind is not None and not set(kinds) <= set(trained):
            return benchmark, f"{score}/{trained_kind}"
    for benchmark, score in main.items():
        if score == "group":
            return benchmark, score
    benchmark = "heldout_pairs" if "heldout_pairs" in main else next(iter(main))
    return benchmark, main[benchmark]


def _main_scores(rows: Sequence[ScoreRow]) -> dict[str, str]:
    """Return the main score of each benchmark, which is the group score if there are text, image and group scores."""
    return {column.benchmark: column.score for column in published.headlines(rows)}


def _is_kind(score: str, main: str) -> bool:
    return score.startswith(f"{main}/") and score.count("/") == 1


def _others(rows: Sequence[ScoreRow], benchmark: str, score: str) -> list[ScoreRow]:
    """Return the rows of all main scores and scores by kind, except the rows of the headline's main score."""
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
        name, what = "Held-out pairs", "the chosen answer more likely than the rejected answer"
    if kind:
        name = f"{_kind(kind).capitalize()} ({name})"
    items = counted(first.n, "items") if first.n else "items"
    limit = f" (only the first {counted(first.limit, 'items')} were scored)" if first.limit else ""
    chance = "" if first.chance is None else f" (chance: {first.chance:.1f})"
    return f"{name}: {what}, percent of {items}{limit}{chance}"


def _kind(kind: str) -> str:
    """Return a kind in words: ``swap-object`` becomes ``object swaps``."""
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
    if test["difference"] == 0 and test["standard_error"] == 0:
        difference = f"the same as {_against(name)} on every item"
    else:
        difference = f"{points(test)} against {_against(name)}"
    return HeadlineRow(row.method, _role(row.method), value, difference, sign(test, row.score))


def _against(baseline: str) -> str:
    return {"base": "the base model", CONTROL: "the control"}.get(baseline, baseline)


def _fit(shown: Sequence[ScoreRow], baselines: Sequence[str], count: int) -> tuple[list[ScoreRow], int]:
    """Select the baselines and the best of the other methods, and count the omitted rows. If there are more than
    max(``count``, 3) rows, max(``count`` - 1, 3) of them are selected, because the note on the omitted rows takes one
    line.
    """
    if len(shown) <= max(count, 3):
        return list(shown), 0
    direction = 1 if lower_is_better(shown[0].score) else -1
    best = sorted(shown, key=lambda row: (row.method not in baselines, direction * row.value))[: max(count - 1, 3)]
    return [row for row in shown if row in best], len(shown) - len(best)


# -------------------------------------------------------------------------------------------------------- in words


def _changes(others: Sequence[ScoreRow], baselines: Sequence[str], lead: str) -> list[str]:
    """Return notes on the other scores that differ significantly from the scores of a baseline. The baseline is the
    first one with which any of these scores was compared.
    """
    rows = [row for row in others if not is_few(row.n)]
    baseline = next((name for name in baselines if any(name in row.differences for row in rows)), None)
    if baseline is None:
        return []
    tested = [(row, row.differences[baseline]) for row in rows if baseline in row.differences]
    against = _against(baseline)
    changes: dict[str, dict[str, list[tuple[float, str]]]] = {"bad": {}, "good": {}}
    for row, test in tested:
        if direction := sign(test, row.score):
            changes[direction].setdefault(_name(row, lead), []).append((test["difference"], row.method))
    if not changes["bad"]:
        comparisons = counted(len(tested), "comparisons")
        worse = f"No arm is significantly worse than {against} on any other score (p < {ALPHA}; {comparisons})."
    else:
        worse = f"Worse than {against} (p < {ALPHA}): {_listed(changes['bad'])}"
    return [worse, *([f"Better than {against} (p < {ALPHA}): {_listed(changes['good'])}"] if changes["good"] else [])]


def _listed(by_score: Mapping[str, Sequence[tuple[float, str]]]) -> str:
    """Return the changes as text, with the largest change first: ``size swaps (dpo -8.5, mpo -2.4), ...``."""
    largest = sorted(by_score, key=lambda name: -max(abs(difference) for difference, _ in by_score[name]))
    parts = []
    for name in largest[:MAX_CHANGES]:
        by_size = sorted(by_score[name], key=lambda change: -abs(change[0]))
        texts = [f"{method} {difference:+.1f}" for difference, method in by_size[:MAX_METHODS]]
        num_omitted = len(by_size) - MAX_METHODS
        parts.append(f"{name} ({', '.join([*texts, _more(num_omitted, 'arm')] if num_omitted > 0 else texts)})")
    num_omitted = len(largest) - MAX_CHANGES
    return ", ".join(parts) + (f", and {_more(num_omitted, 'score')}" if num_omitted > 0 else "") + "."


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
        notes.append(f"{'One test item is' if n == 1 else f'{n} test items are'} too few for conclusions.")
    if not any(row.method != "base" for row in shown):
        notes.append("Only the base model was scored: train an arm with scripts/train.py, then evaluate again.")
    elif arms and CONTROL in baselines and not any(row.method == CONTROL for row in shown):
        notes.append(f"There is no supervised control to compare with: train one with objective={CONTROL}.")
    if any(has_interval(test) for row in shown for test in row.differences.values()):
        seeds = max(row.seeds for row in shown)
        over = f"the items and {seeds} training seeds" if seeds > 1 else "the items, for one training seed per arm"
        notes.append(f"The brackets contain 95 % intervals over {over}.")
    return notes
