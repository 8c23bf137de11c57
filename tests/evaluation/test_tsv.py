"""Tests files in VLMEvalKit's TSV format: prompts and images, scores on recorded vectors, named benchmarks, bad
files.
"""

from __future__ import annotations

import ast
import base64
import csv
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Picture

from scramble.evaluation.benchmarks import load_benchmark
from scramble.evaluation.items import Benchmark, EvaluationError, Item, QueryReply, limit_items
from scramble.evaluation.protocols import named_protocol, queries, resolve
from scramble.evaluation.scoring.aggregation import scores
from scramble.evaluation.scoring.outcomes import Outcome, outcome
from scramble.grading import parsers
from scramble.records import Question

GOLDEN = Path(__file__).parents[1] / "golden" / "scorers_2026"
SAMPLES = GOLDEN / "tsv_samples"
EXPECTED = json.loads((SAMPLES / "expected.json").read_text())


def golden(name: str) -> tuple[list[dict[str, Any]], Any]:
    lines = (GOLDEN / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines], json.loads((GOLDEN / f"{name}.aggregate.json").read_text())


def picture(colour: int = 0, size: tuple[int, int] = (6, 4)) -> str:
    file = io.BytesIO()
    Picture.new("RGB", size, (colour, 90, 30)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        columns = dict.fromkeys(column for row in rows for column in row)
        writer = csv.DictWriter(file, columns, delimiter="\t", lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def replied(benchmark: Benchmark, reply: str | dict[str, str], protocol: str = "vlmevalkit_prompts") -> list[Outcome]:
    """Return the outcomes if every item gets this reply, or the reply for the item's id."""
    texts = [reply if isinstance(reply, str) else reply[item.item_id] for item in benchmark.items]
    pairs = zip(benchmark.items, texts, strict=True)
    return [outcome(item, {item.item_id: QueryReply(text=text)}, named_protocol(protocol)) for item, text in pairs]


def values(benchmark: Benchmark, outcomes: list[Outcome]) -> dict[str, float]:
    return {name: score["value"] for name, score in scores(benchmark.scoring, outcomes).items()}


# ---------------------------------------------------------------------------------------------------- recorded vectors


@pytest.mark.parametrize("name", EXPECTED)
def test_rows_prompts_and_images_equal_vlmevalkits(name: str) -> None:
    """A yes/no row in several categories is several items; the original keeps one of two images of the same path."""
    odd = name == "mcq_odd"
    loaded = load_benchmark("tsv", SAMPLES / f"{name}.tsv", images=SAMPLES / "images", cells="pandas", partial=odd)
    items = {item.item_id.rpartition("/")[2]: item for item in loaded.items}
    expected = EXPECTED[name]["items"][:1] if odd else EXPECTED[name]["items"]  # its second row has no options left
    assert list(items) == [str(row["index"]) for row in expected]
    for row, item in zip(expected, items.values(), strict=True):
        assert queries(item, resolve("default", loaded), loaded)[0].prompt == row["text"][0]
        assert len(item.image_ids) == len(row["images"])
        for image_id, file in zip(item.image_ids, row["images"], strict=True):
            pixels = loaded.images[image_id].open()
            assert pixels.size == tuple(file["size"])
            if name != "yes_no":  # JPEG: pixels depend on the decoder
                assert hashlib.md5(pixels.tobytes()).hexdigest() == file["rgb_md5"]


def test_texts_that_pandas_takes_as_missing_stay_options() -> None:
    numbers, words = load_benchmark("tsv", SAMPLES / "mcq_odd.tsv").items
    assert numbers.options == {"A": "1", "B": "2.5", "D": "x", "F": "NaN"}
    assert words.options == {"A": "NA", "B": "None", "C": "null", "D": "nan"}
    (query,) = queries(
        numbers, named_protocol("standard", letter_form="likelihood"), load_benchmark("tsv", SAMPLES / "mcq_odd.tsv")
    )
    assert query.candidates == ("A", "B", "D", "F")
    likely = QueryReply((-3.0, -2.0, -1.0, -9.0), (1, 1, 1, 1))
    assert outcome(numbers, {"7": likely}, named_protocol("standard")).values == {"accuracy": 1.0}


def test_circular_scores_equal_vlmevalkits(tmp_path: Path) -> None:
    rows, aggregate = golden("mmbench_circular")
    columns = ("index", "question", "answer", "category", "l2-category", "split")
    image = {rows[0]["index"]: picture()}
    file = write(
        tmp_path / "MMBench.tsv",
        [
            {**{c: r[c] for c in columns}, **r["options"], "image": image.get(r["index"], rows[0]["index"])}
            for r in rows
        ],
    )
    loaded = load_benchmark("mmbench", file)
    outcomes = replied(loaded, {str(r["index"]): str(r["prediction"]) for r in rows}, "vlmevalkit")
    assert [o.values["accuracy"] for o in outcomes] == [r["vanilla_hit"] for r in rows]
    table = values(loaded, outcomes)
    for score, part in (("circular_accuracy", "circular"), ("accuracy", "vanilla_all_rows")):
        for split, expected in aggregate[part].items():
            for name, value in expected.items():
                known = f"{score}/split:{split}" + ("" if name == "Overall" else f"/{name}")
                level2 = f"{score}/split:{split}/l2:{name}"
                assert 100 * value == pytest.approx(table[known] if known in table else table[level2])
    groups = {item.group for item in limit_items(loaded.items, 2)}
    assert groups == {loaded.items[0].group}  # a limit keeps all rotations of a question


@pytest.mark.parametrize(
    ("parser", "column"),
    [
        ("can_infer", "vlmevalkit_can_infer"),
        ("priority", "lmms_mcq_extract"),
        ("lmms_vstar", "lmms_vstar"),
        ("lmms_blink", "lmms_blink"),
        ("lmms_hrbench", "lmms_hrbench_can_infer"),
    ],
)
def test_letters_equal_the_original_rules(parser: str, column: str) -> None:
    """A recorded letter that is not one of the options is unparsed here; it is wrong in both."""
    rows, _ = golden("mcq_kits")
    letters = [parsers.LETTER[parser](row["reply"], row["options"]) for row in rows]
    assert letters == [row[column] if row[column] in row["options"] else None for row in rows]


def test_scienceqa_letters_equal_the_original_rule() -> None:
    rows, aggregate = golden("mcq_kits")
    right = [parsers.lmms_scienceqa(row["reply"], row["options"]) == row["answer"] for row in rows]
    assert right == [row["lmms_scienceqa_score"] for row in rows]
    exact = [parsers.can_infer(row["reply"], row["options"]) == row["answer"] for row in rows]
    assert sum(exact) / len(exact) == pytest.approx(aggregate["vlmevalkit_exact_matching"])


def test_hrbench_is_the_mean_over_cycles(tmp_path: Path) -> None:
    rows, aggregate = golden("hrbench")
    columns = ("index", "question", "answer", "category", "cycle_category")
    table = [{**{c: r[c] for c in columns}, **r["options"], "image": picture(r["index"] // 4)} for r in rows]
    loaded = load_benchmark("hrbench", write(tmp_path / "hr_bench_4k.tsv", table))
    outcomes = replied(loaded, {str(r["index"]): str(r["prediction"]) for r in rows}, "vlmevalkit")
    assert [o.values["accuracy"] for o in outcomes] == [r["hit"] for r in rows]
    measured = values(loaded, outcomes)
    for row in aggregate:
        name = "accuracy" if row["type"] == "all" else f"accuracy/{row['type']}"
        if row["cycle"] == "Average":
            assert 100 * row["accuracy"] == pytest.approx(measured[name])
        elif row["type"] == "all":
            assert 100 * row["accuracy"] == pytest.approx(measured[f"accuracy/cycle:{row['cycle']}"])
    assert len({o.cluster for o in outcomes}) == len(rows) / 4  # the cycles of a question share its image


def test_pope_scores_equal_vlmevalkits(tmp_path: Path) -> None:
    """Rows in several categories count once in each, as in the original."""
    rows, aggregate = golden("yes_no_kits")
    columns = ("index", "category", "answer")
    table = [{**{c: r[c] for c in columns}, "question": "Is it?", "image": picture(k)} for k, r in enumerate(rows)]
    loaded = load_benchmark("pope", write(tmp_path / "POPE.tsv", table))
    replies = {item.item_id: item.item_id.rpartition("/")[2] for item in loaded.items}
    said = {str(r["index"]): r["reply"] for r in rows}
    outcomes = replied(loaded, {key: said[index] for key, index in replies.items()})
    right = {o.item_id.rpartition("/")[2]: o.values["accuracy"] for o in outcomes}
    assert [right[str(r["index"])] for r in rows] == [r["correct"] for r in rows]
    measured = values(loaded, outcomes)
    for row in aggregate["POPE"]:
        suffix = "" if row["split"] == "Overall" else f"/{row['split']}"
        for name, key in (("f1", "Overall"), ("accuracy", "acc"), ("precision", "precision"), ("recall", "recall")):
            assert row[key] == pytest.approx(measured[name + suffix])


def test_open_answers_equal_vlmevalkits() -> None:
    rows, aggregate = golden("vqa_kits")
    rules = {"vqa_score": "vqa", "relaxed_accuracy": "relaxed", "accuracy": "accuracy", "anls": "anls"}
    measured: dict[str, list[float]] = {}
    for number, row in enumerate(rows):
        listed = ast.literal_eval(row["answer"]) if row["answer"].startswith("[") else [row["answer"]]
        answers = tuple(str(answer) for answer in listed)
        record = Question(str(number), (), "?", answers[0], answers=answers)
        item = Item(record, "short", details={"rule": rules[row["method"]]})
        reply = {str(number): QueryReply(text=row["prediction"])}
        measured.setdefault(row["method"], []).append(
            outcome(item, reply, named_protocol("vlmevalkit")).values["accuracy"]
        )
    for method, recorded in aggregate.items():
        assert 100 * sum(measured[method]) / len(measured[method]) == pytest.approx(recorded)


# ----------------------------------------------------------------------------------------------------- named benchmarks

MULTIPLE_CHOICE = {"A": "a cat", "B": "a dog", "C": "a café", "D": "none"}


def rows_of(name: str) -> list[dict[str, Any]]:
    """Return three rows with the columns that the published file of a benchmark has, besides the index."""
    question = {"question": "Which is it?", "image": picture()}
    choice = {**question, **MULTIPLE_CHOICE, "answer": "B"}
    two = f"['{picture(1)}', '{picture(2)}']"
    schema: dict[str, list[dict[str, Any]]] = {
        "mmbench": [
            {**choice, "index": n * 10**6, "hint": "Look.", "category": "ocr", "l2-category": "fine", "split": "dev"}
            for n in range(3)
        ],
        "mmstar": [{**choice, "category": c, "l2-category": "x", "bench": "y"} for c in ("math", "logic", "math")],
        "scienceqa": [{**choice, "hint": "A hint.", "category": c, "split": "test"} for c in ("nat", "soc", "nat")],
        "ai2d": [{**choice, "category": "default"} for _ in range(3)],
        "realworldqa": [{**choice, "C": "", "D": "", "category": ""} for _ in range(3)],
        "hrbench": [{**choice, "category": "single", "cycle_category": n} for n in range(3)],
        "vstar": [{**choice, "category": c} for c in ("direct_attributes", "relative_position", "direct_attributes")],
        "blink": [{**choice, "image": two, "category": c} for c in ("Jig", "Art", "Art")],
        "seed": [{**choice, "category": c, "l2-category": ""} for c in ("Instance Counting", "Scene", "Scene")],
        "mmvet": [{**question, "answer": "two<AND>dogs", "category": "rec,ocr"} for _ in range(3)],
        "chartqa": [{**question, "answer": "['3.5']", "split": s} for s in ("human", "augmented", "human")],
        "docvqa": [{**question, "answer": "['red', 'Red car']", "category": "[]"} for _ in range(3)],
        "pope": [{**question, "answer": "Yes", "category": "random,popular,adversarial"} for _ in range(3)],
    }
    return [{"index": n, **row} for n, row in enumerate(schema[name])]


@pytest.mark.parametrize(
    ("name", "reply", "expected"),
    [
        ("mmbench", "B", {"circular_accuracy": 100, "accuracy/ocr": None, "accuracy/l2:fine": 100}),
        ("mmstar", "B. a dog", {"accuracy": 100, "accuracy/math": 100, "accuracy/logic": 100}),
        ("scienceqa", "B", {"accuracy": 100, "accuracy/nat": 100}),
        ("ai2d", "A", {"accuracy": 0}),
        ("realworldqa", "The answer is B.", {"accuracy": 100}),
        ("hrbench", "B", {"accuracy": 100, "accuracy/cycle:0": 100}),
        ("vstar", "B", {"accuracy/direct_attributes": 100, "accuracy/relative_position": 100}),
        ("blink", "B", {"accuracy_macro": 100, "accuracy/Jig": 100}),
        ("seed", "B", {"accuracy": 100, "accuracy/Scene": 100}),
        ("mmvet", "two dogs", {}),
        ("chartqa", "3.6", {"accuracy": 100, "accuracy/split:human": 100}),
        ("docvqa", "red cat", {"accuracy": 100 * 6 / 7}),
        ("pope", "Yes", {"accuracy/random": 100, "f1_mean": 100}),
    ],
)
def test_named_benchmarks(name: str, reply: str, expected: dict[str, float | None], tmp_path: Path) -> None:
    file = write(tmp_path / f"{name}.tsv", rows_of(name))
    loaded = load_benchmark(name, file)
    assert loaded.name == name
    assert loaded.version.startswith(f"{name}-{len(loaded.items)}-")
    prompts = [queries(item, resolve("default", loaded), loaded)[0].prompt for item in loaded.items]
    assert len({image for item in loaded.items for image in item.image_ids}) == (2 if name == "blink" else 1)
    if "Hint" in prompts[0] or name in ("mmbench", "scienceqa"):
        assert prompts[0].startswith("Hint: ") and "\nQuestion: Which is it?\nOptions:\nA. a cat\n" in prompts[0]
    outcomes = replied(loaded, reply)
    if name == "mmvet":
        assert {o.status for o in outcomes} == {"judge"} and outcomes[0].tags == ("rec", "ocr")
        return
    measured = values(loaded, outcomes)
    for score, value in expected.items():
        assert (score not in measured) if value is None else (measured[score] == pytest.approx(value))
    if name not in ("chartqa", "docvqa", "pope"):
        chance = 50 if name == "realworldqa" else 25
        assert loaded.chance["accuracy"] == loaded.chance["accuracy_macro"] == chance


def test_a_split_without_answers_has_predictions_only(tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if k != "answer"} for row in rows_of("mmbench")]
    loaded = load_benchmark("mmbench", write(tmp_path / "MMBench_TEST_EN.tsv", rows))
    outcomes = replied(loaded, "C")
    assert {(o.status, o.prediction) for o in outcomes} == {("unscored", "C")} and scores("circular", outcomes) == {}
    likely = QueryReply((-3.0, -2.0, -1.0, -9.0), (1, 1, 1, 1))
    (first, *_) = loaded.items
    assert outcome(first, {first.item_id: likely}, named_protocol("standard")).prediction == "C"


def test_images_may_be_data_urls(tmp_path: Path) -> None:
    rows = rows_of("mmstar")
    plain = load_benchmark("mmstar", write(tmp_path / "a" / "MMStar.tsv", rows))
    urls = [{**row, "image": f"data:image/png;base64,{row['image']}"} for row in rows]
    loaded = load_benchmark("mmstar", write(tmp_path / "b" / "MMStar.tsv", urls))
    for item in plain.items:
        (image,) = item.image_ids
        assert loaded.images[image].bytes == plain.images[image].bytes


def test_large_indices_alone_are_not_rotations(tmp_path: Path) -> None:
    rows = [{**row, "question": f"Which, {n}?"} for n, row in enumerate(rows_of("mmbench"))]
    assert load_benchmark("mmbench", write(tmp_path / "x.tsv", rows)).scoring == "plain"


def test_a_category_of_one_item_has_no_interval(tmp_path: Path) -> None:
    loaded = load_benchmark("mmstar", write(tmp_path / "MMStar.tsv", rows_of("mmstar")))
    single = scores(loaded.scoring, replied(loaded, "B"))["accuracy/logic"]
    assert single["value"] == 100 and single["n"] == 1 and single["low"] is None


# ------------------------------------------------------------------------------------------------------------ bad files


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "abc$" * 40}, "index 1: the image is not valid base64"),
        ({"image": picture()[:-40]}, "index 1: the image"),
        ({"image": base64.b64encode(b"plain text" * 20).decode()}, "index 1: the image cannot be decoded"),
        ({"image": "77"}, "the image cell '77' is neither an image nor the index of a row"),
        ({"image": "['a', 3]"}, "index 1: the image cell is not a list of images"),
        ({"answer": "E"}, "index 1: the answer 'E' is not one of A, B, C, D"),
        ({"answer": ""}, "index 1 has no answer"),
        ({"question": " "}, "index 1 has no question"),
        ({"index": 0}, "index '0' appears twice"),
        ({"index": ""}, "row 2 has no index"),
        (dict.fromkeys("ABCD", ""), "index 1 has no options"),
    ],
)
def test_bad_rows_are_collected_with_their_reason(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    rows = rows_of("mmstar")
    rows[1] |= change
    file = write(tmp_path / "MMStar.tsv", rows)
    with pytest.raises(EvaluationError) as caught:
        load_benchmark("mmstar", file)
    assert f"mmstar: 1 of 3 rows of {file} cannot be used: " in str(caught.value) and message in str(caught.value)
    assert str(caught.value).endswith("Correct the file, or set benchmark.mmstar.partial=true to skip these rows")
    loaded = load_benchmark("mmstar", file, partial=True)
    assert [item.item_id for item in loaded.items] == ["0", "2"] and "-partial-2-" in loaded.version


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\x89PNG\r\n\x1a\n", "line 1 is not UTF-8 text: set benchmark.tsv.root to the path of a TSV file"),
        (
            b"index,question,A,B,answer,image\n1,?,a,b,A,x\n",
            "no column index, question, image or image_path, only .*commas",
        ),
        (b"index\tquestion\tA\tB\n1\t?\ta\tb\n", "has no column image or image_path, only index, question, A, B"),
        (b"index\tquestion\tquestion\timage\n", "has two columns with the same name"),
        (b'index\tquestion\timage\n1\t"open\tx\n', r"line 2 is not valid TSV \(unexpected end of data\)"),
        (b"index\tquestion\timage\tA\tB\tAA\n1\t?\tx\ta\tb\tc\n", "options beyond Z are not supported"),
        (b"index\tquestion\timage\n", "no items"),
    ],
)
def test_a_wrong_file_is_one_clear_line(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_bytes(content)
    with pytest.raises(EvaluationError, match=message) as caught:
        load_benchmark("tsv", tmp_path)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("tsv: ")


def test_wrong_options_and_paths_are_named(tmp_path: Path) -> None:
    file = write(tmp_path / "a.tsv", rows_of("docvqa"))
    with pytest.raises(
        EvaluationError, match=r"benchmark.tsv.kind='mcq' must be one of 'choice', 'yes_no', 'open', 'free'"
    ):
        load_benchmark("tsv", file, kind="mcq")
    with pytest.raises(
        EvaluationError, match=r"but multiple-choice questions also need A and B: check benchmark.tsv.kind"
    ):
        load_benchmark("tsv", file, kind="choice")
    with pytest.raises(EvaluationError, match=r"neither yes nor no"):
        load_benchmark("tsv", file, kind="yes_no")
    with pytest.raises(EvaluationError, match=r"does not exist: set benchmark.tsv.root to the path of one TSV file"):
        load_benchmark("tsv", tmp_path / "absent.tsv")
    write(tmp_path / "b.tsv", rows_of("docvqa"))
    with pytest.raises(
        EvaluationError, match=r"contains 2 TSV files: set benchmark.tsv.root to the path of one TSV file"
    ):
        load_benchmark("tsv", tmp_path)
    write(tmp_path / "paths" / "p.tsv", [{"index": 1, "question": "?", "answer": "x", "image_path": "absent.png"}])
    with pytest.raises(EvaluationError, match=r"1 of 1 images are missing below .*benchmark.tsv.images"):
        load_benchmark("tsv", tmp_path / "paths")
