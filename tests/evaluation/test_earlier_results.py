"""Tests that finished scores are kept: other data, another protocol or another model never replace scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scramble.evaluation.benchmarks import load_benchmark
from scramble.evaluation.benchmarks.versions import changed_options
from scramble.evaluation.items import EvaluationError
from scramble.evaluation.runner import ModelId, evaluate, identify
from scramble.evaluation.scoring import results
from scramble.evaluation.scoring.earlier import NOT_GRADED_YET, check_earlier
from scramble.evaluation.scoring.results import Result
from scramble.models import VLM
from tests.evaluation.test_tsv import picture, write

MODEL = {"path": "org/a", "key": "1", "revision": None, "adapter": None, "dtype": "auto", "engine": None}


def result(**changes: Any) -> Result:
    """Return a result without scores. ``changes`` are entries of its benchmark, model or protocol."""
    benchmark: dict[str, Any] = {"name": "pope", "version": "v", "scoring": "pope", "items": 9, "limit": None}
    model: dict[str, Any] = {**MODEL, "settings": {"max_tiles": None, "adapter": None}}
    protocol: dict[str, Any] = {"name": "standard", "tie_policy": "wrong"}
    for key, value in changes.items():
        (benchmark if key in benchmark else model if key in model else protocol)[key] = value
    return Result(benchmark, model, protocol, {"accuracy": {"value": 50.0}}, {})


def refused(tmp_path: Path, old: Result, new: Result) -> str:
    """Return the message with which ``new`` is refused in the folder of ``old``, or "" if it is accepted."""
    results.write(tmp_path, old, [])
    try:
        check_earlier(tmp_path, new)
    except EvaluationError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ({}, {}, ""),
        ({}, {"version": "w"}, "the data versions differ (v, w)"),
        ({}, {"items": 10}, "the numbers of items differ (9, 10)"),
        ({}, {"tie_policy": "half"}, "the protocols differ (tie_policy 'wrong' and 'half')"),
        ({"limit": 9}, {"version": "w"}, ""),  # partial scores may be replaced
        ({}, {"key": "2"}, ""),  # the model in this folder was trained again
        ({}, {"key": "2", "adapter": "org/b"}, "the models differ: model.adapter (None -> org/b)"),
        ({}, {"key": "2", "settings": {"max_tiles": 1}}, "the models differ: model.max_tiles (None -> 1)"),
        ({}, {"key": "2", "settings": {"max_tiles": None, "later": 1}}, ""),  # a setting of a later version
        ({}, {"adapter": "moved/b"}, ""),  # the same content in another folder
        ({"grading": NOT_GRADED_YET}, {"grading": "1 grading by gpt"}, ""),
        ({"grading": "extraction by rule, no judge"}, {"grading": "extraction by gpt, own prompt"}, ""),
        ({"grading": "1 grading by gpt"}, {"grading": NOT_GRADED_YET}, "the protocols differ (grading '1 grading by"),
        ({}, {"faithfulness": "statements judged by gpt"}, ""),
    ],
)
def test_scores_are_replaced_only_if_measured_in_the_same_way(
    tmp_path: Path, old: dict[str, Any], new: dict[str, Any], reason: str
) -> None:
    message = refused(tmp_path, result(**old), result(**new))
    if not reason:
        assert message == ""
        return
    assert message.startswith(f"{tmp_path} contains scores that the new scores must not replace, because {reason}")
    assert message.endswith(
        f"choose another results folder (folder=..., in Python out=...), or remove {tmp_path / 'result.json'}"
    )


def test_any_protocol_may_replace_a_result_without_scores(tmp_path: Path) -> None:
    """Answers that wait for a judge can be graded by rule (protocol.free_grader=contains)."""
    assert refused(tmp_path, replace(result(), scores={}), result(tie_policy="half")) == ""
    assert "the data versions differ" in refused(tmp_path, replace(result(), scores={}), result(version="w"))


def test_scores_of_another_version_of_the_software_may_be_replaced(tmp_path: Path) -> None:
    assert refused(tmp_path, replace(result(), schema=99), result(version="w")) == ""


def test_a_second_protocol_is_refused_before_the_model_is_called(
    world: Path, vlm: VLM, model_folder: Path, tmp_path: Path
) -> None:
    def refuse() -> VLM:
        raise AssertionError("the model was loaded")

    model_id = identify(model_folder, dtype="float32")
    benchmarks = [load_benchmark(name, world) for name in ("world_vqa", "world_winoground")]
    options: dict[str, Any] = {"model_id": model_id, "test_groups": 0}
    evaluate(vlm, benchmarks[1:], "world", tmp_path, **options)
    before = (tmp_path / "world_winoground" / "result.json").read_bytes()
    with pytest.raises(
        EvaluationError, match=r"world_winoground contains scores .*, because the protocols differ \(capt"
    ):
        evaluate(refuse, benchmarks, "world_yes", tmp_path, **options)
    assert (tmp_path / "world_winoground" / "result.json").read_bytes() == before
    changed = load_benchmark("world_winoground", world, caption_prompt="What is shown?")
    with pytest.raises(EvaluationError, match=r"the data versions differ .*generated-\w+-caption_prompt="):
        evaluate(refuse, [changed], "world", tmp_path, **options)


def test_files_are_scored_side_by_side(tmp_path: Path) -> None:
    """A TSV file gives its name to the results, and the options that change a score are in the data version."""
    row = {"question": "Red?", "answer": "A", "A": "yes", "B": "no"}
    rows = [{"index": n, "image": picture(n), **row} for n in (1, 2)]
    first, second = (write(tmp_path / f"{name}.tsv", rows[:count]) for name, count in (("One", 2), ("Two", 1)))
    loaded = [load_benchmark("tsv", path) for path in (first, second)]
    assert [benchmark.name for benchmark in loaded] == ["tsv-One", "tsv-Two"]
    opened = load_benchmark("tsv", first, kind="open", metric="anls")
    assert opened.version == f"{loaded[0].version}-kind=open-metric=anls"
    assert load_benchmark("mmstar", first).name == "mmstar"


def test_versions_name_changed_options() -> None:
    assert changed_options(kind=(None, None), query=("query_cot", "query_wo")) == "-query=query_cot"
    prompt = changed_options(prompt=("Describe it in detail.", "Describe it."))
    assert prompt.startswith("-prompt=") and len(prompt) == len("-prompt=") + 8


def test_the_identity_of_a_model_records_its_settings(model_folder: Path) -> None:
    identity = identify(model_folder, settings={"max_tiles": 1})
    assert isinstance(identity, ModelId) and identity.settings == {"max_tiles": 1}
    assert identity.key != identify(model_folder, settings={"max_tiles": 2}).key
