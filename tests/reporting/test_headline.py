"""Tests the headline: the main score, scores that got worse, and its length and wording for any results."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from scramble.evaluation.scoring.aggregation import rates, scores
from scramble.evaluation.scoring.outcomes import Outcome
from scramble.evaluation.scoring.results import Result, write
from scramble.pipeline.report import report
from scramble.reporting import comparison, headline, published
from scramble.reporting.comparison import ScoreRow
from scramble.storage.files import write_json


def test(difference: float, low: float | None = None, high: float | None = None, p: float = 0.2) -> dict[str, Any]:
    low, high = difference - 3 if low is None else low, difference + 3 if high is None else high
    return {
        "difference": difference,
        "standard_error": 1.5,
        "low": low,
        "high": high,
        "p_value": p,
        "n": 210,
        "won": 9,
        "lost": 1,
        "test": "McNemar exact",
    }


test.__test__ = False  # type: ignore[attr-defined]


def row(score: str, method: str, value: float, benchmark: str = "world_winoground", **more: Any) -> ScoreRow:
    differences: dict[str, Any] = {name: more.pop(name) for name in ("base", "sft") if name in more}
    values: dict[str, Any] = {"seeds": 1, "standard_error": 1.4, "n": 210, "chance": 16.7, "protocol": "world"} | more
    return ScoreRow(benchmark, score, method, value=value, differences=differences, **values)


def quickstart() -> list[ScoreRow]:
    """Return the numbers of docs/results/world.md."""
    rows = [
        row("group", "base", 50),
        row("group", "sft", 51, base=test(1)),
        row("group", "dpo", 51, base=test(1)),
        row("group/swap-object", "base", 28.8),
        row("group/swap-object", "sft", 31.1, base=test(2.3)),
        row("group/swap-object", "dpo", 54.0, base=test(25.2, p=1e-9), sft=test(22.9, 20.1, 25.8, p=1e-9)),
        row("group/swap-object", "mpo", 53.7, base=test(24.9, p=1e-9), sft=test(22.6, 19.9, 25.3, p=1e-9)),
        row("group/swap-size", "base", 28.2),
        row("group/swap-size", "dpo", 19.7, base=test(-8.5, p=0.001)),
        row("group/swap-size", "mpo", 25.8, base=test(-2.4)),
        row("group/swap-object/seen", "dpo", 10, base=test(-30, p=0.001)),
        row("text", "dpo", 10, base=test(-30, p=0.001)),
    ]
    return [row("accuracy", "base", 82.2, "world_vqa"), row("accuracy", "dpo", 81.6, "world_vqa"), *rows]


def test_the_quickstart_leads_with_the_trained_kind_and_says_what_got_worse() -> None:
    made = headline.build(quickstart(), trained=["swap-object", "replace-relation"])
    assert headline.as_text(made) == [
        "Object swaps (world_winoground): both images and both captions matched correctly, percent of 210 items "
        "(chance: 16.7)",
        "  base model                28.8",
        "  sft (supervised control)  31.1  +2.3 [-0.7, +5.3] against the base model",
        "  dpo                       54.0  +22.9 [+20.1, +25.8] against the control",
        "  mpo                       53.7  +22.6 [+19.9, +25.3] against the control",
        "Worse than the base model (p < 0.05): size swaps (dpo -8.5).",
        "The brackets contain 95 % intervals over the items, for one training seed per arm.",
    ]
    assert [r.sign for r in made.rows] == ["", "", "good", "good"]
    assert [r.benchmark for r in headline.lead_first(quickstart(), made)][:2] == ["world_winoground"] * 2
    assert "| dpo | 54.0 | +22.9 [+20.1, +25.8] against the control |" in headline.as_markdown(made)


@pytest.mark.parametrize("trained", [[], ["swap-object", "swap-size"], ["swap-number"]])
def test_all_kinds_lead_where_all_or_others_were_trained(trained: list[str]) -> None:
    assert headline.build(quickstart(), trained=trained).score == "group"


def test_the_group_score_leads_next_to_group_matching() -> None:
    rows = [row(score, "base", 50) for score in ("text", "image", "group", "group_match")]
    assert headline.build(rows).score == "group"


def test_held_out_pairs_of_one_arm_without_a_control() -> None:
    pairs: dict[str, Any] = {"benchmark": "heldout_pairs", "n": 24, "chance": 50.0}
    rows = [row("accuracy", "base", 61.5, **pairs), row("accuracy", "mpo", 70.1, **pairs, base=test(8.6))]
    assert headline.as_text(headline.build(rows)) == [
        "Held-out pairs: the chosen answer more likely than the rejected answer, percent of 24 items (chance: 50.0)",
        "  base model  61.5",
        "  mpo         70.1  +8.6 [+5.6, +11.6] against the base model",
        "24 test items are too few for conclusions.",
        "There is no supervised control to compare with: train one with objective=sft.",
        "The brackets contain 95 % intervals over the items, for one training seed per arm.",
    ]


def test_other_benchmarks_seeds_and_what_cannot_be_compared() -> None:
    rows = [
        row("f1", "base", 80, "pope", chance=None),
        row("f1", "mpo", 70, "pope", seeds=5, base=test(-10, p=0.01)),
        row("text", "base", 40, "winoground"),
        row("image", "base", 40, "winoground"),
        row("group", "base", 30, "winoground", limit=100),
        row("text", "mpo", 40, "winoground"),
        row("image", "mpo", 40, "winoground"),
        row("group", "mpo", 35, "winoground", seeds=5, base=test(5)),
        row("group", "other", 35, "winoground", reason="the data versions differ (a, b)"),
    ]
    lines = headline.as_text(headline.build(rows))
    assert (
        lines[0].startswith("winoground: both images and both captions matched")
        and "only the first 100 items were scored" in lines[0]
    )
    assert lines[3] == "  other       35.0  not comparable: the data versions differ (a, b)"
    assert "Worse than the base model (p < 0.05): pope (mpo -10.0)." in lines
    assert lines[-1] == "The brackets contain 95 % intervals over the items and 5 training seeds."


def test_it_stays_within_its_lines_whatever_the_number_of_arms_and_changes() -> None:
    kinds = [f"kind{k}" for k in range(30)]
    arms = [f"mpo-{k}" for k in range(20)]
    rows = [row("group", "base", 30), row("group", "sft", 31, base=test(1))]
    rows += [row("group", arm, 30 + k, base=test(k), sft=test(k - 1)) for k, arm in enumerate(arms)]
    rows += [
        row(f"group/{kind}", arm, 5, base=test(way * 9, p=0.01))
        for kind, way in zip(kinds, [1, -1] * 15, strict=True)
        for arm in arms
    ]
    lines = headline.as_text(headline.build(rows))
    assert len(lines) <= headline.MAX_LINES
    assert "  mpo-19" in "\n".join(lines) and "19 more arms are in the report." in lines
    assert all("and 11 more scores." in line for line in lines if line.startswith(("Worse", "Also")))
    assert max(map(len, lines)) < 250


def test_all_changes_are_relative_to_the_same_baseline() -> None:
    """The base was not scored on POPE, so the difference from sft on POPE is not reported as one from the base."""
    rows = [row("group", "base", 30), row("group", "sft", 31, base=test(1)), row("group", "mpo", 35, base=test(5))]
    rows += [row("accuracy", "base", 80, "gqa"), row("accuracy", "mpo", 81, "gqa", base=test(1))]
    rows += [row("accuracy", "sft", 80, "pope"), row("accuracy", "mpo", 70, "pope", sft=test(-10, p=0.01))]
    lines = headline.as_text(headline.build(rows))
    assert "No arm is significantly worse than the base model on any other score (p < 0.05; 1 comparison)." in lines
    assert not any("pope" in line for line in lines)


def test_only_the_base() -> None:
    lines = headline.as_text(headline.build([row("group", "base", 30)]))
    assert lines[2:] == ["Only the base model was scored: train an arm with scripts/train.py, then evaluate again."]


@pytest.mark.parametrize(("name", "n"), [("pope", 1), ("gqa", 2), ("pope", 7)])
def test_a_report_of_few_items_holds_no_nan(
    tmp_path: Path, name: str, n: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """With fewer than ten items texts show the count instead of an error of 0.0; JSON has null where one item is not
    enough."""
    for method in ("base", "sft-seed0", "mpo-seed0"):
        actual = [Outcome(str(k), "", "", (), str(k), {"accuracy": 1.0}, "a", "a") for k in range(n)]
        benchmark = {"name": name, "version": "v", "scoring": "plain", "items": n, "limit": None}
        result = Result(benchmark, {"path": "x", "name": method}, {"name": "p"}, scores("plain", actual), rates(actual))
        write(tmp_path / "evaluation" / method / name, result, actual)
    report(tmp_path, tmp_path / "data")
    printed = capsys.readouterr().out
    assert f"percent of {n} item" in printed
    files = sorted((tmp_path / "report").iterdir())
    assert {file.name for file in files} == {"report.md", "report.json", "table.md", "table.tex", "table.json"}
    for text in [printed, *(file.read_text(encoding="utf-8") for file in files)]:
        assert "nan" not in text.lower()
    differences = {
        tuple(r["differences"]) for r in json.loads((tmp_path / "report" / "report.json").read_text())["rows"]
    }
    assert differences == {(), ("base",), ("base", "sft")}  # and not the mirrored comparison, base minus sft
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert f"| +0.0 (n = {n}: too few for an interval) |" in text and f"(n = {n}) |" in text
    assert "±" not in text and "p = " not in text and "comparison" not in text
    assert ("Published numbers are listed" in text) == (
        name == "gqa"
    )  # there are no published numbers of POPE's accuracy


def test_formats_of_a_difference() -> None:
    assert comparison.shown(None) == ""
    assert comparison.shown(test(1.25, 0, 2.5, 0.0004)) == "+1.2 [+0.0, +2.5] p < 0.001"
    nothing = {**test(100), "low": None, "high": None, "p_value": None, "n": 1}
    assert comparison.shown(nothing) == "+100.0 (n = 1: too few for an interval)"
    no_spread = {**nothing, "low": float("nan"), "high": float("nan"), "n": 10}
    assert comparison.shown(no_spread) == "+100.0 (no interval)"
    # One item of two became wrong: t(1) = 12.7 standard errors of 50 points reach far beyond what a difference can be.
    assert comparison.shown(test(-50, -685.3, 585.3) | {"n": 2}) == "-50.0 (n = 2: too few for an interval)"
    assert comparison.points(test(-50, -185.3, 85.3)) == "-50.0 [-100.0, +85.3]"
    assert comparison.sign(test(-50, p=0.01) | {"n": 9}) == "" and not comparison.has_interval(test(1) | {"n": 9})
    assert comparison.sign(nothing) == "" and comparison.sign(test(-1, p=0.01)) == "bad"
    assert comparison.sign(test(-1, p=0.01), "hallucination_rate/other") == "good"
    cell = dataclasses.replace(published.ScoreCell(1.0), tests={"base": nothing})
    text = published.as_latex(
        published.ScoreTable(
            [published.ScoreColumn("a", "b")], [published.ModelRow("m", {published.ScoreColumn("a", "b"): cell})], []
        )
    )
    assert "nan" not in text and "(+100.0 vs base)" in text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((100.0, 0.0, 2), "100.0 (n = 2)"),
        ((50.0, 50.0, 9), "50.0 (n = 9)"),
        ((50.0, 16.7, 10), "50.0 ± 16.7"),
        ((100.0, 0.0, 40), "100.0 (n = 40)"),
        ((61.2, None, 40), "61.2"),
        ((61.2, 1.5, None), "61.2 ± 1.5"),
    ],
)
def test_a_score_of_few_items_or_without_spread_shows_their_number(values: tuple[Any, ...], text: str) -> None:
    assert comparison.score_text(*values) == text


def test_parts_of_scores_are_explained_where_they_occur() -> None:
    parts = comparison.part_notes([row("group/swap-object/unseen", "mpo", 50), row("group/swap-size", "mpo", 50)])
    assert parts == ["unseen: combinations of colour and shape that do not occur in training"]
    assert comparison.score_table([row("group", "mpo", 50)], ["base"]).notes == []


def test_the_trained_kinds_are_read_from_the_data_sets_settings(tmp_path: Path) -> None:
    assert headline.trained_kinds(None) == headline.trained_kinds(tmp_path) == []
    write_json(tmp_path / "stage.json", {"config": {"pairs": {"kinds": ["swap-object"]}}})
    assert headline.trained_kinds(tmp_path) == ["swap-object"]
    write_json(tmp_path / "stage.json", {"config": {"pairs": {"kinds": None}}})
    assert headline.trained_kinds(tmp_path) == []
