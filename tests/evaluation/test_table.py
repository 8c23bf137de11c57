"""The comparison table on real results of a tiny model, and the published numbers' file."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scramble.evaluation import table
from scramble.evaluation.benchmarks import load_benchmark
from scramble.evaluation.items import EvaluationError
from scramble.evaluation.runner import evaluate, identify


@pytest.fixture(scope="module")
def runs(world, loaded, model_folder, tmp_path_factory):
    """Three runs: two under the world's protocol, one under another."""
    root = tmp_path_factory.mktemp("runs")
    identity = identify(model_folder)
    benchmarks = [load_benchmark(name, world) for name in ("world_winoground", "world_vqa")]
    for name, protocol in (("base", "world"), ("mpo", "world"), ("yes", "world_yes")):
        evaluate(loaded, benchmarks, protocol, root / name, model_id=replace(identity, name=name), test_groups=0)
    return {name: sorted((root / name).iterdir()) for name in ("base", "mpo", "yes")}


def test_runs_and_their_tests(runs):
    made = table.build(runs, baselines=["base"])
    titles = [column.title for column in made.columns]
    assert titles == ["world_vqa accuracy"] + [f"world_winoground {s}" for s in ("text", "image", "group")]
    base, mpo, yes = made.rows
    group = made.columns[-1]
    assert base.cells[group].tests == {}
    assert mpo.cells[group].tests["base"]["difference"] == 0
    assert mpo.cells[group].tests["base"]["p_value"] == 1
    assert not yes.cells[group].comparable
    assert any("yes, world_winoground: different protocols" in note for note in made.notes)
    text = table.as_markdown(made)
    assert "(+0.0 vs base, p = 1.000)" in text
    assert table.MARK in text
    latex = table.as_latex(made)
    assert latex.count(r"\\") == 4
    assert r"world\_winoground" in latex
    assert table.as_json(made)["rows"][1]["cells"]["world_winoground group"]["protocol"] == "world"


def test_published_rows_say_whether_they_compare(runs, tmp_path):
    import json
    import shutil

    shutil.copytree(runs["base"][1], tmp_path / "winoground")
    path = tmp_path / "winoground" / "result.json"
    result = json.loads(path.read_text())
    result["benchmark"]["name"] = "winoground"
    result["protocol"]["name"] = "scramble"
    path.write_text(json.dumps(result))
    made = table.build({"mine": [tmp_path / "winoground"]}, [table.Column("winoground", "group")])
    rows = {row.name: row.cells[made.columns[0]] for row in made.rows}
    assert rows["LLaVA-1.5-13B + SCRAMBLe"].value == 39.3
    assert rows["LLaVA-1.5-13B + SCRAMBLe"].comparable
    assert not rows["GPT-4o"].comparable
    assert "generated two-choice" in rows["GPT-4o"].reason
    assert any("CR3" in note for note in made.notes)


def test_published_numbers_have_sources():
    data = table.published()
    assert len(data["scores"]) > 200
    for entry in data["scores"]:
        assert entry["source"] in data["sources"], entry
        assert entry["protocol"]
        if "unit" not in entry:
            assert 0 <= entry["value"] <= 100, entry
    keys = [(e["model"], e["benchmark"], e["score"], e["source"], e["protocol"]) for e in data["scores"]]
    assert len(keys) == len(set(keys))


def test_bad_input(runs):
    with pytest.raises(EvaluationError, match="no run named 'sft'"):
        table.build(runs, baselines=["sft"])
    with pytest.raises(EvaluationError, match="no results to put in a table"):
        table.build({})
