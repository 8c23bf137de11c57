"""Tests the hallucination and judged benchmarks: a tiny model from published files to scores with a judge, and bad
input.
"""

from __future__ import annotations

import dataclasses
import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from scramble.engines import ReplyStore
from scramble.engines.openai_server import OpenAIServer
from scramble.evaluation import judge, judge_tasks
from scramble.evaluation.benchmarks import load_benchmark
from scramble.evaluation.items import EvaluationError, Item, QueryReply
from scramble.evaluation.protocols import named_protocol, queries
from scramble.evaluation.runner import evaluate, identify
from scramble.evaluation.scoring import results
from scramble.evaluation.scoring.aggregation import rates, scores
from scramble.evaluation.scoring.outcomes import outcome
from scramble.evaluation.scoring.paired import compare
from scramble.grading import judge_replies
from scramble.records import Question
from tests.evaluation.benchmark_files import FILES, coco_annotations, draw, tiny_pipeline, write_json, write_lines
from tests.evaluation.test_hallucination_scores import graded, hallusion
from tests.loopback import Loopback

NEW = ("chair", "object_halbench", "amber", "hallusionbench", "crpe", "mmhal", "llava_bench")


# ----------------------------------------------------------------------------------- from published files to a result


def judging(text: str) -> str:
    """Reply as a judge of all four benchmarks. The replies about item 1 cannot be parsed."""
    if "café 1" in text:
        return "I cannot say."
    if "Rating: n" in text:
        return "The answer is wrong.\n\nRating: 2"
    if "Answer 1" in text:
        return "8 6\nAnswer 1 is better."
    return '["dogs", "cat", "tree"]' if "JSON list" in text else "correct"


JUDGED: dict[str, dict[str, Any]] = {
    "object_halbench": {"extraction": "judge"},
    "hallusionbench": {"grading": "judge"},
    "mmhal": {},
    "llava_bench": {},
}
EXPECTED: dict[str, tuple[str, ...]] = {
    "chair": ("chair_s", "chair_i", "recall"),
    "object_halbench": ("response_rate", "mention_rate", "recall", "chair_s"),
    "amber": ("hal", "accuracy", "chair", "cover", "cog", "precision", "recall", "f1", "amber_score"),
    "hallusionbench": ("a_acc", "q_acc", "a_acc/chart"),  # the only figure has an unread item
    "crpe": ("circular_accuracy", "overall", "accuracy"),
    "mmhal": ("score", "hallucination_rate", "official_score", "score/attribute"),
    "llava_bench": ("score", "candidate", "reference", "official_score", "score/conv"),
}


@pytest.mark.parametrize("name", NEW)
def test_from_published_files_to_scores(
    name: str, vlm: Any, model_folder: Path, server: Loopback, tmp_path: Path
) -> None:
    server.answer = judging
    root, options = FILES[name](tmp_path / "data")
    options = {**options, **JUDGED.get(name, {})}
    if name == "object_halbench":
        options["pipeline"] = tiny_pipeline(tmp_path / "data")
    benchmark = load_benchmark(name, root, **options)
    protocol = {"name": "default", "free_max_new_tokens": 4, "max_new_tokens": 4}
    settings: dict[str, Any] = {"model_id": identify(model_folder), "test_groups": 0}
    unjudged = evaluate(vlm, [benchmark], protocol, tmp_path / "unjudged", **settings)[0]
    with OpenAIServer("m", server.url) as engine, ReplyStore(tmp_path / "judge") as store:
        grader = judge.Judge(engine, store, gradings=2)
        replies = tmp_path / "unjudged"
        made = evaluate(vlm, [benchmark], protocol, tmp_path / "judged", judge=grader, replies=[replies], **settings)[0]
    assert set(EXPECTED[name]) <= set(made.scores)
    assert all(0 <= score["value"] <= 100 for score in made.scores.values())
    if name not in JUDGED:
        assert unjudged.scores == made.scores
        return
    assert not unjudged.scores and unjudged.rates["judge"] == len(benchmark.items)
    assert unjudged.protocol["grading"] == "none yet (the answers need a judge)"
    assert "by m, " in made.protocol["grading"] and "own prompt" in made.protocol["grading"]
    if name != "hallusionbench":
        assert (
            made.rates["unread"] == 1 and made.scores["recall" if "hal" in name and name != "mmhal" else "score"]["n"]
        )
    outcomes = results.read_outcomes(tmp_path / "judged" / name)
    assert all("judged" in o.details for o in outcomes)
    if name == "mmhal":
        assert made.scores["score"]["value"] == pytest.approx(2) and made.scores["score"]["n"] == 3
        assert made.scores["official_score"]["value"] == pytest.approx(1.5)
        assert outcomes[0].details["judged"] == [2, 2]
    test = compare(tmp_path / "judged" / name, tmp_path / "judged" / name)
    assert set(test) == set(made.scores) and all(row["difference"] == 0 for row in test.values())


# ---------------------------------------------------------------------------------------------------------- bad input


def refused(message: str, name: str, root: Path, **options: Any) -> None:
    with pytest.raises(EvaluationError, match=message) as raised:
        load_benchmark(name, root, **options)
    assert "\n" not in str(raised.value)


def test_captions_without_ground_truth(tmp_path: Path) -> None:
    """A caption file names images that the annotations do not contain."""
    root, _ = FILES["chair"](tmp_path)
    caption_file = {"overall": {}, "imgToEval": {"1": {"image_id": 1, "caption": "a"}, "99": {"image_id": 99}}}
    write_json(tmp_path / "captions.json", caption_file)
    options: dict[str, Any] = {"selection": tmp_path / "captions.json"}
    refused(
        r"chair: row 1 of .*captions.json: image_id 99 has no ground truth in .*benchmark.chair.root",
        "chair",
        root,
        **options,
    )
    assert [item.item_id for item in load_benchmark("chair", root, **options, partial=True).items] == ["1"]
    write_lines(tmp_path / "rows.jsonl", [{"image_id": 2}, {"caption": "a dog"}])
    refused(
        r"row 1 of .*rows.jsonl: image_id must be a COCO image id, not None",
        "chair",
        root,
        selection=tmp_path / "rows.jsonl",
    )
    refused(
        r"chair: .*none.json is not a file: check benchmark.chair.selection",
        "chair",
        root,
        selection=tmp_path / "none.json",
    )
    refused(r"chair: there is no instances_\*.json below", "chair", tmp_path / "val2014")
    notes = json.loads((tmp_path / "captions_val2014.json").read_text())
    write_json(tmp_path / "captions_val2014.json", {"annotations": notes["annotations"][1:]})
    refused(r"chair: the annotations: image_id 0 has no reference captions in", "chair", root)
    write_json(tmp_path / "captions_val2014.json", {"annotations": [{"image_id": 1}]})
    refused(
        r"captions_val2014.json is not a file of COCO annotations \(an entry lacks 'caption'\): download", "chair", root
    )


def test_options_and_rows_are_named(tmp_path: Path) -> None:
    for name, option in (
        ("crpe", "rule"),
        ("amber", "part"),
        ("hallusionbench", "grading"),
        ("object_halbench", "extraction"),
        ("llava_bench", "reader"),
    ):
        refused(rf"benchmark.{name}.{option}='x' must be one of", name, tmp_path, **{option: "x"})
    folders = {name: FILES[name](tmp_path / name)[0] for name in NEW if name != "chair"}
    for name, file, change, message in (
        (
            "crpe",
            "crpe_relation.jsonl",
            {"correct_option": "E"},
            r"row 0: correct_option is 'E', which is not one of A, B, C, D",
        ),
        ("crpe", "crpe_relation.jsonl", {"text": "What?"}, r"row 0: text has no lines with the options"),
        ("mmhal", "response_template.json", {"image_content": "dog"}, r"row 0: image_content is 'dog', not a list"),
        ("llava_bench", "questions.jsonl", {"image": "9.jpg"}, r"row 0: image '9.jpg' is not in context.jsonl"),
        ("hallusionbench", "HallusionBench.json", {"gt_answer": "2"}, r"row 0: gt_answer is '2', which is not one of"),
        (
            "amber",
            "annotations.json",
            {"truth": ["wall"]},
            r"annotation 1: truth contains 'wall', which is not in relation.json",
        ),
        ("amber", "annotations.json", {"type": "x"}, r"annotation 1: type is 'x', which is not one of generative"),
        (
            "object_halbench",
            "obj_halbench_300_with_image.jsonl",
            {"image_id": 9},
            r"row 0: image_id 9 has no ground truth",
        ),
        (
            "object_halbench",
            "obj_halbench_300_with_image.jsonl",
            {"image": "QUJD" * 200},
            r"row 0: the image cannot be",
        ),
    ):
        (path,) = folders[name].rglob(file)
        before = path.read_text(encoding="utf-8")
        rows = json.loads(before) if file.endswith(".json") else [json.loads(line) for line in before.splitlines()]
        (write_json if file.endswith(".json") else write_lines)(path, [{**rows[0], **change}, *rows[1:]])
        options = {"pipeline": FILES["amber"](tmp_path / "again")[1]["pipeline"]} if name == "amber" else {}
        options |= {"extraction": "plain"} if name == "object_halbench" else {}
        refused(rf"{name}: 1 of \d+ rows of .*{message}", name, folders[name], **options)
        path.write_text(before, encoding="utf-8")


def test_a_question_with_a_missing_rotation(tmp_path: Path) -> None:
    root, _ = FILES["crpe"](tmp_path)
    rows = [json.loads(line) for line in (root / "crpe_relation.jsonl").read_text().splitlines()]
    write_lines(root / "crpe_relation.jsonl", rows[:3])
    refused(r"crpe: 1 of 2 groups do not have 4 items \(first: 'subject/0'\)", "crpe", root)
    assert {item.kind for item in load_benchmark("crpe", root, partial=True).items} == {"exist"}


def test_answers_outside_the_options_and_single_items() -> None:
    """Replies that a rule cannot read are wrong; a category of one item has a score without an interval."""
    details = {"rule": "official", "options_in_question": True, "suffix": ""}
    item = Item(Question("q", ("i",), "?", "A", "subject", choices=("x", "y")), "letter", group="g", details=details)
    odd = outcome(item, {"q": QueryReply(text="E")}, named_protocol("standard"))
    assert (odd.values, odd.prediction, odd.status) == ({"accuracy": 0.0}, None, "unparsed")
    made = scores("crpe", [odd])
    assert made["overall"]["value"] == 0 and made["overall"]["standard_error"] is None and made["overall"]["n"] == 1
    assert scores("crpe", [dataclasses.replace(odd, kind="exist")]).keys() == {"accuracy", "circular_accuracy"}
    lone = hallusion(
        [dict.fromkeys(("subcategory", "set_id", "figure_id", "question_id"), "1") | {"category": "VD"}], [1.0]
    )
    right = {f"{name}{part}" for name in ("a_acc", "q_acc", "f_acc") for part in ("", "/1", "/easy")}
    assert {name for name, value in lone.items() if value == 100} == right


def test_a_judge_that_is_never_read_gives_no_score(tmp_path: Path) -> None:
    for task, details in (("mmhal", {}), ("llava_bench", {"reader": "llava"}), ("hallusionbench", {})):
        outcomes = graded(task, ["I like it."] * 3, ["a", "a", "b"], **details)
        assert rates(outcomes)["unread"] == 3 and all(o.status == "unread" for o in outcomes)
        counted = scores(task, outcomes)
        assert all(name.startswith("official") for name in counted)  # a rate of 0 would look perfect
    some = scores("mmhal", graded("mmhal", ["I like it.", "Rating: 1"], ["a", "b"]))
    assert "hallucination_rate/a" not in some and some["hallucination_rate/b"]["value"] == 100
    short = graded("object_halbench", [], ["a"], pipeline=tiny_pipeline(tmp_path / "x"), truth=frozenset())
    assert short[0].details["judged"] == [[]] and short[0].status == "ok"  # a reply of one word mentions nothing
    named = [judge_replies.hallusion_verdict(text) for text in ("Incorrect.", "correct or incorrect", "Unclear!", "")]
    assert named == [0, None, 2, None]
    item = Item(Question("q", ("i",), "?", ""), "free")
    assert judge_tasks.TASKS["object_halbench"].read('```json\n["dog", "cat"]\n```', item) == ["dog", "cat"]
    assert judge_replies.llava_pair("1e400 5") is None


# ------------------------------------------------------------------------------------------------- load at full count


def full_counts(folder: Path) -> dict[str, tuple[Path, dict[str, Any], int]]:
    """Write files with the published number of items. Return root, options and number of items by benchmark."""
    draw(folder, "1.jpg", "2.jpg")
    base = {name: FILES[name](folder / name) for name in NEW}

    def repeated(name: str, file: str, count: int, change: Any) -> None:
        (path,) = base[name][0].rglob(file)
        text = path.read_text(encoding="utf-8")
        rows = json.loads(text) if file.endswith(".json") else [json.loads(line) for line in text.splitlines()]
        made = [{**rows[n % len(rows)], **change(n)} for n in range(count)]
        (write_json if file.endswith(".json") else write_lines)(path, made)

    coco_annotations(folder / "chair", *range(40504))
    captions = json.loads((folder / "chair" / "captions_val2014.json").read_text())
    captions["annotations"] = [
        {**row, "caption": f"Two dogs and {row['image_id']} cats on a bench near a bus number {k}."}
        for row in captions["annotations"]
        for k in range(5)
    ]
    write_json(folder / "chair" / "captions_val2014.json", captions)
    write_lines(folder / "500.jsonl", [{"image_id": n} for n in range(500)])
    draw(folder / "chair", *(f"val2014/COCO_val2014_{n:012d}.jpg" for n in range(500)))
    coco_annotations(folder / "object_halbench", *range(300))
    repeated("object_halbench", "obj_halbench_300_with_image.jsonl", 300, lambda n: {"image_id": n})
    repeated("amber", "query_all.json", 15220, lambda n: {"id": n + 1})
    notes = json.loads((folder / "amber" / "annotations.json").read_text())
    kinds = [notes[0]] * 1004 + [notes[1 + n % 3] for n in range(14216)]
    write_json(folder / "amber" / "annotations.json", [{**note, "id": n + 1} for n, note in enumerate(kinds)])
    repeated("hallusionbench", "HallusionBench.json", 1129, lambda n: {"set_id": str(n)})
    repeated("crpe", "crpe_relation.jsonl", 7576, lambda n: {"question_id": n})
    repeated("mmhal", "response_template.json", 96, lambda n: {})
    repeated("llava_bench", "questions.jsonl", 60, lambda n: {"question_id": n})
    write_lines(folder / "llava_bench" / "answers_gpt4.jsonl", [{"question_id": n, "text": "A."} for n in range(60)])
    counts = {
        "object_halbench": 300,
        "amber": 15220,
        "hallusionbench": 1129,
        "crpe": 7580,
        "mmhal": 96,
        "llava_bench": 60,
    }
    loads = {name: (base[name][0], {**base[name][1], "partial": False}, count) for name, count in counts.items()}
    return {**loads, "chair": (folder / "chair", {"selection": folder / "500.jsonl"}, 500)}


@pytest.mark.full
def test_published_counts_load(tmp_path: Path) -> None:
    for name, (root, options, count) in full_counts(tmp_path).items():
        started = time.perf_counter()
        benchmark = load_benchmark(name, root, **options)
        seconds = time.perf_counter() - started
        tracemalloc.start()
        load_benchmark(name, root, **options)
        peak = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
        protocol = named_protocol(benchmark.default_protocol)
        asked = [query for item in benchmark.items for query in queries(item, protocol, benchmark)]
        print(f"{name}: {count} items loaded in {seconds:.2f} s, peak {peak:.0f} MiB")
        assert len(benchmark.items) == len(asked) == count
        assert "partial" not in benchmark.version
