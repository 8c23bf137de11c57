"""Exports to Every Eval Ever are valid under the schemas of its package 0.3.0 (tests/golden/every_eval_ever, MIT)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from scramble.evaluation.external import every_eval_ever
from scramble.evaluation.items import CaptionChoice, Item, QueryReply
from scramble.evaluation.protocols import named_protocol
from scramble.evaluation.scoring.aggregation import rates, scores
from scramble.evaluation.scoring.outcomes import outcome
from scramble.evaluation.scoring.results import Result
from scramble.records import Question, TwoByTwoItem

SCHEMAS = Path(__file__).parents[1] / "golden" / "every_eval_ever"
ITEMS = {
    "quads": Item(TwoByTwoItem("q", ("a red cup", "a blue cup"), ("x", "y")), "quad"),
    "choice": Item(CaptionChoice("c", ("x",), ("a red cup", "a blue cup")), "captions"),
    "question": Item(Question("1", ("x",), "Is it red?", "yes", "colour"), "yes_no"),
}
REPLIES = {
    "quads": {
        f"q/{i}/{j}": QueryReply((value, -9.0), (1, 1))
        for i, j, value in ((0, 0, -1), (0, 1, -2), (1, 0, -3), (1, 1, -1))
    },
    "choice": {f"c/0/{k}": QueryReply((-1.0 - k, -9.0), (1, 1)) for k in (0, 1)},
    "question": {"1": QueryReply(text="Yes, it is.")},
}


def result_of(kind: str, **model: Any) -> tuple[Result, list[Any]]:
    protocol = named_protocol("standard")
    outcomes = [outcome(ITEMS[kind], REPLIES[kind], protocol)]
    benchmark = {"name": kind, "version": "1", "items": 1, "limit": None, "scoring": "plain"}
    described = {"name": "dpo-seed0", "path": "/m", "key": "k", "revision": None, "adapter": "/a", **model}
    table = scores("plain", outcomes)
    environment = {"torch": "2", "cores": 2}
    return Result(benchmark, described, {"name": "standard"}, table, rates(outcomes), environment=environment), outcomes


def check(schema: str, value: Any) -> None:
    Draft7Validator(json.loads((SCHEMAS / f"{schema}.schema.json").read_text())).validate(value)


@pytest.mark.parametrize("kind", ITEMS)
def test_scores_and_items_are_valid(tmp_path: Path, kind: str) -> None:
    result, outcomes = result_of(kind)
    path = every_eval_ever.write(tmp_path, result, [ITEMS[kind]], outcomes, timestamp=1_800_000_000.0)
    assert path.parent == tmp_path / "data" / kind / "local" / "dpo-seed0"
    log = json.loads(path.read_text())
    check("eval", log)
    samples = tmp_path / log["detailed_evaluation_results"]["file_path"]
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    for row in rows:
        check("instance_level_eval", row)
    assert samples.name == f"{path.stem}_samples.jsonl"
    assert log["detailed_evaluation_results"]["checksum"] == hashlib.sha256(samples.read_bytes()).hexdigest()
    assert log["detailed_evaluation_results"]["total_rows"] == len(rows)
    by_id = {each["evaluation_result_id"]: each for each in log["evaluation_results"]}
    for row in rows:  # with one item, its value is the score
        assert 100 * row["evaluation"]["score"] == by_id[row["evaluation_result_id"]]["score_details"]["score"]


@pytest.mark.parametrize(
    ("name", "score", "unit", "least", "highest"),
    [
        ("hallusionbench", "a_acc", "percent", 0.0, 100.0),
        ("hallusionbench", "yes_difference", "percent", -100.0, 100.0),
        ("mmhal", "score", "points", 0.0, 6.0),
        ("mmhal", "hallucination_rate", "percent", 0.0, 100.0),
        ("llava_bench", "score/conv", "percent", 0.0, "Infinity"),
        ("llava_bench", "official_score", "percent", "-Infinity", "Infinity"),
    ],
)
def test_units_and_ranges(tmp_path: Path, name: str, score: str, unit: str, least: Any, highest: Any) -> None:
    """MMHal-Bench's score is in points, and LLaVA-Bench's can exceed 100 percent (8 points against the reference's 5).
    For HallusionBench, the score has another name than the values of the items.
    """
    item = Item(Question("VD/ocr/0/1/0", ("x",), "Is it red?", "yes", "VD"), "yes_no")
    outcomes = [outcome(item, {item.item_id: QueryReply(text="Yes.")}, named_protocol("standard"))]
    result, _ = result_of("question")
    table = scores("hallusionbench", outcomes) if name == "hallusionbench" else {score: {"value": 160.0}}
    result.benchmark["name"], result.scores = name, table
    log = json.loads(every_eval_ever.write(tmp_path, result, [item], outcomes, timestamp=1.0).read_text())
    check("eval", log)
    config = {each["evaluation_name"]: each["metric_config"] for each in log["evaluation_results"]}[f"{name}/{score}"]
    assert (config["metric_unit"], config["min_score"], config["max_score"]) == (unit, least, highest)
    rows = log.get("detailed_evaluation_results", {}).get("total_rows")
    assert rows == (1 if name == "hallusionbench" else None)


def test_the_same_result_gives_the_same_files_and_hub_models_keep_their_id(tmp_path: Path) -> None:
    result, outcomes = result_of("question", path="org/model", adapter=None)
    first = every_eval_ever.write(tmp_path, result, [ITEMS["question"]], outcomes, timestamp=1.0)
    content = first.read_bytes()
    assert first.parent == tmp_path / "data" / "question" / "org" / "model"
    assert every_eval_ever.write(tmp_path, result, [ITEMS["question"]], outcomes, timestamp=1.0) == first
    assert first.read_bytes() == content
    assert every_eval_ever.write(tmp_path, result, [ITEMS["question"]], outcomes, timestamp=9.0) == first
    result.protocol["name"] = "another"
    assert every_eval_ever.write(tmp_path, result, [ITEMS["question"]], outcomes, timestamp=9.0) != first
    rows = [json.loads(line) for line in first.with_name(f"{first.stem}_samples.jsonl").read_text().splitlines()]
    assert rows[0]["output"]["raw"] == ["Yes, it is."]
    assert rows[0]["answer_attribution"][0]["extracted_value"] == "yes"
