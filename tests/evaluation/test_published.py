"""Tests the comparison table with real results of a tiny model, and the file of published numbers."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from scramble.evaluation.benchmarks import load_benchmark
from scramble.evaluation.runner import evaluate, identify
from scramble.reporting import comparison, published
from scramble.reporting.table import NOT_COMPARABLE


@pytest.fixture(scope="module")
def runs(world, vlm, model_folder, tmp_path_factory):
    """Return three runs, two under the world's protocol and one under another protocol."""
    root = tmp_path_factory.mktemp("runs")
    identity = identify(model_folder)
    benchmarks = [load_benchmark(name, world) for name in ("world_winoground", "world_vqa")]
    for name, protocol in (("base", "world"), ("mpo", "world"), ("yes", "world_yes")):
        evaluate(vlm, benchmarks, protocol, root / name, model_id=replace(identity, name=name), test_groups=0)
    return {name: sorted((root / name).iterdir()) for name in ("base", "mpo", "yes")}


def measured(runs, baselines=("base",)):
    return comparison.compare(comparison.by_method([path for folders in runs.values() for path in folders]), baselines)


def test_runs_and_their_tests(runs):
    table = published.build(measured(runs))
    titles = [column.title for column in table.columns]
    scores = ("text", "image", "group_match", "group")
    assert titles == ["world_vqa accuracy"] + [f"world_winoground {score}" for score in scores]
    base, mpo, yes = table.rows
    group = table.columns[-1]
    assert base.cells[group].tests == {}
    assert mpo.cells[group].tests["base"]["difference"] == 0
    assert mpo.cells[group].tests["base"]["p_value"] == 1
    assert not yes.cells[group].comparable
    assert yes.cells[group].tests == {}
    assert any("yes, world_winoground: the protocols differ" in note for note in table.notes)
    text = published.as_markdown(table)
    assert "| mpo | base | world_winoground group | +0.0 [+0.0, +0.0] p = 1.000 | McNemar exact |" in text
    assert NOT_COMPARABLE in text
    latex = published.as_latex(table)
    assert latex.count(r"\\") == 4
    assert "(+0.0 vs base, p = 1.000)" in latex
    assert r"world\_winoground" in latex
    assert published.as_json(table)["rows"][1]["cells"]["world_winoground group"]["protocol"] == "world"


def as_published(runs, tmp_path, **changes):
    """Return the result on the embedded world, relabelled as Winoground under the paper's protocol."""
    folder = tmp_path / "mine" / "winoground"
    shutil.copytree(runs["base"][1], folder)
    result = json.loads((folder / "result.json").read_text())
    result["benchmark"] |= {"name": "winoground"} | {k: v for k, v in changes.items() if k == "limit"}
    result["protocol"]["name"] = "scramble"
    result["protocol"] |= {k: v for k, v in changes.items() if k == "grading"}
    result["scores"]["group"] |= {"value": 49.3, "standard_error": 2.5}
    (folder / "result.json").write_text(json.dumps(result))
    return comparison.compare(comparison.by_method([folder]))


def test_published_rows_say_whether_they_compare(runs, tmp_path):
    table = published.build(as_published(runs, tmp_path))
    column = published.ScoreColumn("winoground", "group")
    rows = {row.name: row.cells[column] for row in table.rows if column in row.cells}
    assert rows["LLaVA-1.5-13B + SCRAMBLe"].value == 39.3
    assert rows["LLaVA-1.5-13B + SCRAMBLe"].comparable
    assert not rows["GPT-4o"].comparable
    assert "generated two-choice" in rows["GPT-4o"].reason
    assert any("CR3" in note for note in table.notes)
    test = rows["mine"].tests["LLaVA-1.5-13B + SCRAMBLe [scramble-poster]"]
    assert test["difference"] == pytest.approx(10)
    assert test["p_value"] == pytest.approx(0.00468, abs=1e-4)  # z = 10 / (2.5 * sqrt 2)
    assert not any("GPT-4o" in name for name in rows["mine"].tests)
    assert "| mine | LLaVA-1.5-13B + SCRAMBLe [scramble-poster] | winoground group | +10.0 " in published.as_markdown(
        table
    )


@pytest.mark.parametrize(("changes", "why"), [({"limit": 20}, "first 20 items"), ({"grading": "by x"}, "by x")])
def test_parts_and_other_graders_compare_with_nothing_published(runs, tmp_path, changes, why):
    table = published.build(as_published(runs, tmp_path, **changes))
    column = published.ScoreColumn("winoground", "group")
    others = [row.cells[column] for row in table.rows if row.source and column in row.cells]
    assert others and not any(cell.comparable for cell in others)
    assert all(why in cell.reason for cell in others)
    assert not table.rows[0].cells[column].tests


def test_scores_that_are_no_means_are_tested_too():
    """F1 of two runs on the same images: the difference is that of the scores, and identical runs have none."""
    from scramble.evaluation.scoring.aggregation import ratios, scores
    from scramble.evaluation.scoring.outcomes import Outcome
    from scramble.evaluation.scoring.paired import _ratio_test

    def run(wrong):
        return [
            Outcome(
                str(k),
                "random",
                "",
                (),
                f"i{k // 3}",
                {"accuracy": float(k % wrong > 0)},
                ("yes" if k % 2 else "no") if k % wrong else ("no" if k % 2 else "yes"),
                "yes" if k % 2 else "no",
            )
            for k in range(300)
        ]

    good, bad = run(7), run(3)
    test = _ratio_test("f1", [ratios("pope", good)["f1"]], [ratios("pope", bad)["f1"]])
    values = [scores("pope", side)["f1"]["value"] for side in (good, bad)]
    assert test["difference"] == pytest.approx(values[0] - values[1])
    assert test["p_value"] < 0.01
    assert test["low"] < test["difference"] < test["high"]
    assert _ratio_test("f1", [ratios("pope", good)["f1"]], [ratios("pope", good)["f1"]])["p_value"] == 1


def test_published_numbers_have_sources():
    data = published.published_numbers()
    assert len(data["scores"]) > 200
    for entry in data["scores"]:
        assert entry["source"] in data["sources"], entry
        assert entry["protocol"]
        if "unit" not in entry:
            assert 0 <= entry["value"] <= 100, entry
    keys = [(e["model"], e["benchmark"], e["score"], e["source"], e["protocol"]) for e in data["scores"]]
    assert len(keys) == len(set(keys))
