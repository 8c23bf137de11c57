"""Tests external harnesses: their command lines and their result files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scramble.evaluation.external import external_harness
from scramble.evaluation.items import EvaluationError
from scramble.evaluation.scoring import results
from scramble.pipeline import external_harness as stage
from scramble.reporting import comparison, published

MODEL = {"name": "mpo", "path": "/m", "key": "k", "revision": None, "adapter": None}


def test_lmms_eval_command():
    words = external_harness.command("lmms-eval", ["mmbench", "ai2d"], "mpo", "/m", "out", harness_model="internvl_hf")
    assert words[:3] == ["python", "-m", "lmms_eval"]
    assert words[words.index("--tasks") + 1] == "mmbench_en_dev,ai2d"
    assert words[words.index("--model_args") + 1] == "pretrained=/m"
    assert "--log_samples" in words
    arguments = {"model": "{path}", "tensor_parallel_size": 2}
    words = external_harness.command(
        "lmms-eval", ["mmstar"], "mpo", "/m", "out", harness_model="vllm", harness_args=arguments
    )
    assert words[words.index("--model_args") + 1] == "model=/m,tensor_parallel_size=2"


def test_flags_and_python_of_the_harness():
    words = external_harness.command(
        "lmms-eval",
        ["mmstar"],
        "mpo",
        "/m",
        "out",
        harness_model="vllm",
        harness_flags=["--limit", 8, "--verbose", True],  # as the configuration reads [--limit,8,--verbose,true]
        harness_python="/kit/bin/python",
    )
    assert words[0] == "/kit/bin/python" and words[-4:] == ["--limit", "8", "--verbose", "true"]


@pytest.mark.parametrize("flag", [None, "", ["a"]])
def test_flags_that_are_no_arguments(flag: Any) -> None:
    with pytest.raises(EvaluationError, match=r"harness_flags contains .*, but must be a list of strings and numbers"):
        external_harness.command("lmms-eval", ["x"], "m", "/m", "out", harness_model="vllm", harness_flags=[flag])


def test_vlmevalkit_command(tmp_path):
    words = external_harness.command(
        "vlmevalkit", ["crpe", "AI2D_TEST:ImageMCQDataset"], "mpo", "/m", tmp_path / "out", harness_model="InternVLChat"
    )
    config = json.loads(Path(words[words.index("--config") + 1]).read_text())
    assert config == {
        "model": {"mpo": {"class": "InternVLChat", "model_path": "/m"}},
        "data": {
            "CRPE_RELATION": {"class": "CRPE", "dataset": "CRPE_RELATION"},
            "AI2D_TEST": {"class": "ImageMCQDataset", "dataset": "AI2D_TEST"},
        },
    }


@pytest.mark.parametrize(
    ("harness", "tasks", "harness_model", "message"),
    [
        ("lmmseval", ["mmstar"], "x", r"unknown harness 'lmmseval'.*did you mean lmms-eval"),
        ("lmms-eval", ["m3cot"], "x", r"no task name is known for m3cot: use the harness's own"),
        ("vlmevalkit", ["mmstr"], "x", r"'mmstr' is not a known benchmark .*mmstar"),
        (
            "vlmevalkit",
            ["mmstar"],
            None,
            r"no model class is known for this model: set harness_model to the harness's model class",
        ),
    ],
)
def test_bad_input(harness, tasks, harness_model, message):
    with pytest.raises(EvaluationError, match=message):
        external_harness.command(harness, tasks, "mpo", "/m", "out", harness_model=harness_model)


def test_a_comma_in_the_path_would_be_read_as_an_argument():
    with pytest.raises(
        EvaluationError, match=r"separates arguments with commas, but the argument '/a,b\S*' contains a comma"
    ):
        external_harness.command("lmms-eval", ["mmstar"], "mpo", "/a,b", "out", harness_model="internvl_hf")


def test_one_task_may_be_named_without_a_list(tmp_path, capsys):
    model = {"path": str(Path(__file__).parents[2] / "data" / "tiny_internvl"), "family": "internvl"}
    stage.external_harness(tmp_path / "a run", model=model, harness="lmms-eval", tasks="mmstar", arms="base")
    script = tmp_path / "a run" / "external_harness" / "base" / "lmms-eval.sh"
    assert " --tasks mmstar " in script.read_text()
    assert f"run `sh '{script}'` in" in capsys.readouterr().out


def write_lmms_eval(
    folder: Path, name: str, right: list[int], date: str = "20260101_000000", total: int = 1500
) -> None:
    """Write the two files of one task in lmms-eval's layout. ``total`` is the number of all items of the task."""
    accuracy = sum(right) / len(right)
    table = {
        "alias": "mmstar",
        "average,none": accuracy,
        "average_stderr,none": 0.02,
        "average_stderr_clt,none": 0.03,
        "average_stderr_clustered,none": "N/A",
        "judged,none": 63.2,
        "judged_stderr,none": "N/A",
    }
    content = {
        "results": {"mmstar": table},
        "n-samples": {"mmstar": {"original": total, "effective": len(right)}},
        "versions": {"mmstar": "Yaml"},
        "git_hash": "abc",
        "model_name": name,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{date}_results.json").write_text(json.dumps(content))
    rows = [{"doc_id": k, "target": "A", "average": r, "judged": {"score": r}} for k, r in enumerate(right)]
    lines = [json.dumps(row) for row in reversed(rows)]
    (folder / f"{date}_samples_mmstar.jsonl").write_text("\n".join(lines) + "\n")


def test_a_trial_of_a_few_items_does_not_replace_the_result_of_all_items(tmp_path):
    for folder, rights in (("both", ([1, 0], [1])), ("trial", ([1],))):
        for number, right in enumerate(rights, 1):
            write_lmms_eval(tmp_path / folder, "mpo", right, f"2026010{number}_000000", total=2)
    results = {name: external_harness.read_results("lmms-eval", tmp_path / name, MODEL) for name in ("both", "trial")}
    benchmarks = {name: result.benchmark for name, ((result, _),) in results.items()}
    assert (benchmarks["both"]["items"], benchmarks["both"]["limit"]) == (2, None)
    assert (benchmarks["trial"]["items"], benchmarks["trial"]["limit"]) == (1, 1)


def test_lmms_eval_results_with_single_items(tmp_path):
    write_lmms_eval(tmp_path / "mpo", "mpo", [1, 1, 0, 1])
    ((result, outcomes),) = external_harness.read_results("lmms-eval", tmp_path, MODEL)
    assert (result.benchmark["name"], result.protocol["name"], result.source) == ("mmstar", "lmms-eval", "lmms-eval")
    assert result.scores["average"] | {"low": 0, "high": 0} == {
        "value": 75.0,
        "standard_error": 2.0,
        "low": 0,
        "high": 0,
        "n": 4,
        "raw": 0.75,
    }
    assert result.scores["judged"]["value"] == 63.2
    assert result.scores.keys() == {"average", "judged"}
    assert [o.values for o in outcomes] == [{"average": value} for value in (1.0, 1.0, 0.0, 1.0)]


def test_lmms_eval_scores_of_several_filters(tmp_path):
    table = {"exact_match,strict": 0.25, "exact_match_stderr,strict": 0.1, "exact_match,flexible": 0.5}
    (tmp_path / "20260101_results.json").write_text(json.dumps({"results": {"mmstar": table}}))
    ((result, _),) = external_harness.read_results("lmms-eval", tmp_path, MODEL)
    scores = {name: (score["value"], score["standard_error"]) for name, score in result.scores.items()}
    assert scores == {"exact_match,strict": (25, 10), "exact_match,flexible": (50, None)}


def test_two_arms_in_one_table_with_a_paired_test(tmp_path):
    """Imported scores are next to the world's scores, in columns that name the harness. If there are results per item,
    the difference is paired.
    """
    for arm, right in (("base", [0, 0, 0, 0, 0, 0, 1, 1]), ("mpo", [1] * 7 + [0])):
        write_lmms_eval(tmp_path / "harness" / arm, arm, right, total=8)
        ((result, outcomes),) = external_harness.read_results(
            "lmms-eval", tmp_path / "harness" / arm, MODEL | {"name": arm}
        )
        results.write(tmp_path / arm / "mmstar.lmms-eval", result, outcomes)
    rows = comparison.compare(comparison.find_methods(tmp_path), ["base"])
    table = published.build(rows)
    column = table.columns[0]
    assert column.title == "mmstar (lmms-eval) average"
    mine = {row.name: row for row in table.rows}["mpo"].cells[column]
    assert (mine.value, mine.protocol) == (87.5, "lmms-eval")
    assert mine.tests["base"]["p_value"] == pytest.approx(2 * (1 + 7) / 2**7)  # 6 won, 1 lost
    markdown = published.as_markdown(table)
    assert "- mmstar (lmms-eval): protocol lmms-eval" in markdown


def test_a_later_run_replaces_an_earlier_one(tmp_path):
    write_lmms_eval(tmp_path, "mpo", [0, 0], "20260101_000000")
    write_lmms_eval(tmp_path, "mpo", [1, 1], "20260102_000000")
    ((result, _),) = external_harness.read_results("lmms-eval", tmp_path, MODEL)
    assert result.scores["average"]["value"] == 100
    (tmp_path / "20260103_results.json").write_text("{}")
    with pytest.raises(EvaluationError, match=r"20260103_results\.json has no key 'results'"):
        external_harness.read_results("lmms-eval", tmp_path, MODEL)


def test_vlmevalkit_results(tmp_path):
    folder = tmp_path / "mpo" / "T20260101_Gabc"
    folder.mkdir(parents=True)
    (folder / "mpo_MMBench_DEV_EN_acc.csv").write_text('"split","Overall","AR"\n"dev","0.643","0.5"\n')
    subjects = "Subject,tot,hit,acc\nOverall,300,60,20.0\nalgebra,100,30,30.0\n"
    (folder / "mpo_MathVision_gpt-4o-mini_score.csv").write_text(subjects)
    (folder / "mpo_MMBench_DEV_EN.xlsx").write_bytes(b"predictions")
    results = {r.benchmark["name"]: r for r, _ in external_harness.read_results("vlmevalkit", tmp_path, MODEL)}
    assert results.keys() == {"mmbench", "mathvision"}
    assert {k: s["value"] for k, s in results["mmbench"].scores.items()} == {"Overall": pytest.approx(64.3), "AR": 50.0}
    maths = results["mathvision"].scores
    assert {k: (s["value"], s["n"]) for k, s in maths.items()} == {"acc": (20.0, 300), "acc/algebra": (30.0, 100)}
    (folder / "mpo_MMStar_acc.csv").write_text("split,Overall\n")
    with pytest.raises(EvaluationError, match="has no rows, because the evaluation in VLMEvalKit has not finished"):
        external_harness.read_results("vlmevalkit", tmp_path, MODEL)
