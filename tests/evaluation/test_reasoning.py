"""Tests M3CoT, MATH-Vision, MathVerse, We-Math and LogicVista: recorded outcomes, the tiny model, bad files,
the judge.
"""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path
from typing import Any

import pytest

from scramble.engines import ReplyStore
from scramble.engines.openai_server import OpenAIServer
from scramble.evaluation import judge_extraction
from scramble.evaluation.benchmarks import load_benchmark
from scramble.evaluation.items import Benchmark, EvaluationError, Item, QueryReply
from scramble.evaluation.judge import Judge, grading
from scramble.evaluation.protocols import named_protocol, queries
from scramble.evaluation.runner import evaluate, identify
from scramble.evaluation.scoring import metrics, paired, results
from scramble.evaluation.scoring.aggregation import rates, scores
from scramble.evaluation.scoring.hallucination import lower_is_better
from scramble.evaluation.scoring.outcomes import Outcome, outcome
from scramble.grading import letter_sets, math_answers, parsers
from scramble.records import Question
from tests.evaluation.benchmark_files import COUNT, FILES, HUB, draw, write_json, write_lines
from tests.evaluation.test_benchmarks import write_hub
from tests.evaluation.test_tsv import GOLDEN

PART = {"partial": True}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def recorded(name: str, shared: Path | None) -> list[dict[str, Any]]:
    """Return the recorded rows: all rows, or without the reference data only the rows that were written for the
    tests.
    """
    if shared is None:
        return lines(GOLDEN / f"{name}_made.jsonl")
    return lines(shared / "golden" / "scorers_2026" / f"{name}.jsonl")


def aggregate(shared: Path, name: str) -> Any:
    return json.loads((shared / "golden" / "scorers_2026" / f"{name}.aggregate.json").read_text())


@pytest.fixture(params=["made", "all"])
def rows_of(request: pytest.FixtureRequest) -> Any:
    folder = request.getfixturevalue("shared") if request.param == "all" else None
    return lambda name: (recorded(name, folder), folder)


def answered(item: Item, text: str, protocol: str) -> Outcome:
    return outcome(item, {item.item_id: QueryReply(text=text)}, named_protocol(protocol))


def percent(scoring: str, outcomes: list[Outcome]) -> dict[str, float]:
    return {name: score["value"] for name, score in scores(scoring, outcomes).items()}


# ---------------------------------------------------------------------------------------------------- recorded outcomes


def test_m3cot_equals_the_originals(rows_of: Any) -> None:
    rows, shared = rows_of("m3cot")
    by_protocol: dict[str, list[Outcome]] = {"m3cot": [], "mpo_direct": [], "mpo_cot": []}
    names = {"m3cot": "", "mpo_direct": "internvl_direct_", "mpo_cot": "internvl_cot_"}
    for n, row in enumerate(rows):
        record = Question(str(n), ("i",), "?", row["answer"], row["domain"], choices=tuple(row["choices"]))
        item = Item(record, "letter", tags=(f"{row['domain']}/{row['topic']}",))
        for protocol, outcomes in by_protocol.items():
            read = answered(item, row["reply"], protocol)
            assert read.values["accuracy"] == bool(row[f"{names[protocol]}correct"]), row
            prediction = row[f"{names[protocol]}pred"]  # the originals keep a letter or text that is not an option
            assert read.prediction == (prediction if prediction in item.options else None), row
            outcomes.append(read)
    if shared is not None:
        total = aggregate(shared, "m3cot")
        table = percent("plain", by_protocol["m3cot"])
        assert table["accuracy"] == pytest.approx(100 * total["all"]["acc"])
        for domain, part in total["domain"].items():
            assert table[f"accuracy/{domain}"] == pytest.approx(100 * part["acc"])
            for topic, single in total["topic"][domain].items():
                assert table[f"accuracy/{domain}/{topic}"] == pytest.approx(100 * single["acc"])
        for protocol in ("mpo_direct", "mpo_cot"):
            expected = 100 * total[f"internvl_{protocol.removeprefix('mpo_')}"]
            assert percent("plain", by_protocol[protocol])["accuracy"] == pytest.approx(expected)


def test_mathvision_equals_the_original(rows_of: Any) -> None:
    rows, shared = rows_of("mathvision")
    outcomes = []
    for n, row in enumerate(rows):
        record = Question(str(n), ("i",), "?", row["answer"], row["subject"], choices=tuple(row["options"]))
        tags = (f"level:{row['level']}", f"level:{row['level']}/{row['subject']}")
        item = Item(record, "short", tags=tags, details={"rule": "mathvision", "options_in_question": True})
        outcomes.append(answered(item, row["reply"], "mathvision"))
        assert (outcomes[-1].values["accuracy"], outcomes[-1].prediction) == (row["correct"], row["model_answer"]), row
    if shared is not None:
        table = percent("plain", outcomes)
        for name, text in aggregate(shared, "mathvision").items():
            if name.startswith("-level"):
                level, _, subject = name.removeprefix("-level").partition("_")
                ours = f"accuracy/level:{level}" + (f"/{subject}" if subject else "")
            else:
                ours = "accuracy" if name == "-all" else f"accuracy/{name}"
            if "_level" not in name:
                assert f"{round(table[ours], 2)}%" == text.partition("=")[2]


def test_mathvision_compares_values_and_tuples() -> None:
    """By latex2sympy2 and ``eval``: 1/3 and 0.333 agree in two decimals, 3/4 and 0.74 do not."""
    for truth, answer, same in (
        (r"\frac{1}{3}", "0.333", True),
        (r"\frac{3}{4}", "0.74", False),
        (r"$2\sqrt{2}\pi$", r"2\pi\sqrt{2}", True),
        ("(1,2)", r"(1,\frac{4}{2})", False),  # the second element is the float 2.0
        (r"(1,\sqrt{4})", r"(1,\frac{4}{2})", True),
        ("(1,x)", "(1,x)", True),
        (r"60^{\circ}", "60", False),
        ("B", "b", True),
        ("", "", False),
        ("2", "9**9**9**9**9", False),
        ("2", "9^{9^{9^{9}}}", False),
        ("2", "__import__('os')", False),
        ("2", "(" * 900, False),
    ):
        assert math_answers.equal_mathvision(truth, answer) == same, (truth, answer)


def test_wemath_reads_replies_as_the_original() -> None:
    for row in lines(GOLDEN / "wemath_replies.jsonl"):
        assert parsers.wemath(row["response"], {}) == row["processed_answer"], row


def test_wemath_metrics_equal_the_original(shared: Path) -> None:
    rows, total = recorded("wemath", shared), aggregate(shared, "wemath")
    outcomes = []
    for row in rows:
        step = row["key"].partition("_")[2]
        single = step != "multi"
        tags = (f"{row['domain']}/{row['knowledge_concept']}",) if single else ()
        record = Question(f"{row['ID']}/{step}", ("i",), "?", row["answer"], "S1" if single else f"S{row['key'][0]}")
        item = Item(record, "letter", group=row["ID"], tags=tags)
        outcomes.append(answered(item, row["response"], "wemath"))
        assert outcomes[-1].values["accuracy"] == row["correct"]
    table = percent("wemath", outcomes)
    for name, text in total["four_dimensional"].items():
        dimension, form = name[:-1].lower().split(" (")
        key = {
            "score": f"score_{form}",
            "insufficientknowledge": "insufficient_knowledge",
            "inadequategeneralization": "inadequate_generalization",
            "completemastery": f"complete_mastery_{form}",
            "rotememorization": f"rote_memorization_{form}",
        }[dimension]
        assert f"{table[key]:.2f}%" == text.partition(" ")[0], name
    for name, text in total["accuracy"].items():
        steps = {"One-step(S1)": "S1", "Two-step(S2)": "S2", "Three-step(S3)": "S3"}
        ours = f"accuracy/{steps[name]}" if name in steps else f"accuracy_macro/{name}"
        assert f"{table[ours]:.2f}%" == text, name


def test_four_dimensions_by_hand() -> None:
    """A right problem with one of two steps right is rote memorization under strict scoring, and mastery under loose
    scoring."""
    dimensions = metrics.four_dimensions((True, False), True)
    assert (dimensions["score_strict"], dimensions["score_loose"]) == (0, 1)
    assert dimensions["rote_memorization_strict"] == dimensions["complete_mastery_loose"] == 1
    assert metrics.four_dimensions((True, True), False)["score_strict"] == 0.5
    assert metrics.four_dimensions((False, True), False)["insufficient_knowledge"] == 1
    errors = {name for name in dimensions if lower_is_better(name)}
    assert errors == {name for name in dimensions if name.startswith(("in", "rote"))}
    with pytest.raises(metrics.MetricError, match="needs at least one step"):
        metrics.four_dimensions((), True)


def test_logicvista_equals_the_originals(rows_of: Any) -> None:
    rows, shared = rows_of("logicvista")
    for row in rows:
        letters = letter_sets.judged_letters(row["vlmevalkit_judge_reply"])
        assert (letters or "") == row["vlmevalkit_res"], row
        assert letter_sets.same_letters(letters or "", row["answer"]) == bool(row["vlmevalkit_hit"]), row
    real = [row for row in rows if row["kind"] == "real"]
    for row in real:
        assert letter_sets.same_letters("".join(row["gpt4_extracted"]), row["answer"]) == row["official_match"], row
    if shared is not None:  # without a judge, our rule replaces GPT-4
        by_rule = [letter_sets.same_letters(letter_sets.read_letters(row["reply"]), row["answer"]) for row in real]
        agreeing = sum(own == row["official_match"] for own, row in zip(by_rule, real, strict=True))
        print(f"LogicVista by rule: {agreeing} of {len(real)} outcomes as with GPT-4's reading")
        assert agreeing >= 0.9 * len(real)


@pytest.mark.parametrize(
    ("reply", "letters"),
    [
        ("B", "B"),
        ("The answer is (C). BECAUSE:.", "C"),
        ("A, C", "AC"),
        ("b and d.", "BD"),
        ("A cat sits there.", ""),
        ("3", "3"),
        ("T", ""),
        ("", ""),
        # rejected options
        ("A is correct, B is wrong.", "A"),
        ("(A) is wrong, (B) is right", "B"),
        ("A is wrong, B is wrong, C is right.", "C"),
        ("Not A, but B.", "B"),
        ("It is not A.", ""),
        ("The answer cannot be C.", ""),
        ("The answer is C, not B.", "C"),
        ("I would rule out A and B.", ""),
        ("(C) Neither set A nor set B", "C"),
        # several letters, and alternatives
        ("The answer is A and B.", "AB"),
        ("The correct options are B, C, and D.", "BCD"),
        ("The answers are B) False and C) Unknown.", ""),
        ("The answer could be A or B.", ""),
        ("B or C", ""),
        ("B/C", ""),
        # letters that answer nothing
        ("A, B, C, D", ""),
        ("A) 29% B) 220% C) 45% D) 69%", ""),
        ("A. No musicians are scholars\nB. No scholars are musicians", ""),
        ("Gear A is three times as large as Gear B.", ""),
        ("Grade A and C headphones cost 540.", ""),
        ("The R&D spend is 2 million.", ""),
        # other forms of a statement
        ("The answer is b.", "B"),
        ("the correct answer is (d)", "D"),
        ("<think>A looks right, but B fits.</think> C", "C"),
        ("First I thought A. The answer is B.", "B"),
        ("We compare A, B and C. Only C fits. The answer is C.", "C"),
    ],
)
def test_letters_are_read_by_rule(reply: str, letters: str) -> None:
    assert letter_sets.read_letters(reply) == letters


@pytest.mark.parametrize("part", ["(", " ", ". ", "A\n", "A, ", "A and ", "answer:", "B"])
def test_letters_of_endless_replies_take_linear_time(part: str) -> None:
    """A model that repeats itself fills its token limit with one sign. (A quadratic rule takes minutes for these.)"""
    start = time.process_time()
    letter_sets.read_letters("The answer is" + part * 20_000 + "x")
    assert time.process_time() - start < 5


# --------------------------------------------------------------------------------------------------------- whole files


def benchmark(name: str, folder: Path) -> Benchmark:
    """Load the benchmark from a synthetic copy of its published files."""
    layout, _, of = name.partition(":")
    if layout == "files":
        root, options = FILES[of](folder)
        return load_benchmark(of, root, **options)
    split, rows, images = HUB[of]
    return load_benchmark(of, write_hub(folder, split, rows, images), **PART)


CASES = [
    ("hub:m3cot", ("default", "m3cot_cot", "mpo_direct", "mpo_cot")),
    ("files:m3cot", ("default",)),
    ("hub:mathvision", ("default",)),
    ("files:mathvision", ("standard",)),
    ("hub:mathverse", ("default",)),
    ("files:wemath", ("default",)),
    ("files:logicvista", ("default", "cot")),
]


@pytest.mark.parametrize(("name", "protocols"), CASES)
def test_end_to_end(name: str, protocols: tuple[str, ...], vlm: Any, model_folder: Path, tmp_path: Path) -> None:
    loaded = benchmark(name, tmp_path / "data")
    for protocol in protocols:
        settings = {"name": protocol, "max_new_tokens": 4}
        out = tmp_path / protocol
        (result,) = evaluate(vlm, [loaded], settings, out, model_id=identify(model_folder), test_groups=0)
        assert result.rates["n"] == len(loaded.items)
        assert all(0 <= score["value"] <= 100 for score in result.scores.values())
        assert "accuracy" in result.scores and result.benchmark["version"].startswith("partial")
        again = results.read(out / loaded.name)
        assert again.scores == result.scores
    if loaded.name in ("mathverse", "logicvista"):
        assert result.protocol["grading"] == "extraction by rule, no judge"
    if loaded.name == "wemath":
        assert {"score_strict", "rote_memorization_loose", "accuracy_macro/Plane", "accuracy/S3"} <= set(result.scores)
        assert result.scores["accuracy/S2"]["standard_error"] is None  # a category of one item
        assert all(score["chance"] for name, score in result.scores.items() if name.startswith("accuracy"))


def test_prompts(tmp_path: Path) -> None:
    m3cot = benchmark("files:m3cot", tmp_path / "m3cot")
    ask = lambda item, name: queries(item, named_protocol(name), m3cot)[0].prompt  # noqa: E731
    assert ask(m3cot.items[1], "m3cot") == (
        "[Context]\nA café.\n[Question]\nWhich, 1?\n[Choices]\n(A) a cat\n(B) a dog"
    )
    assert ask(m3cot.items[0], "m3cot_cot") == (
        "[Question]\nWhich, 0?\n[Choices]\n(A) a cat\n(B) a dog\n\nLet's think step-by-step!"
    )
    assert ask(m3cot.items[1], "mpo_direct") == (
        "A café.\nWhich, 1?\nA. a cat\nB. a dog\nAnswer with the option's letter from the given choices directly."
    )
    assert ask(m3cot.items[0], "mpo_cot").endswith("Question:\n\nWhich, 0?\nA. a cat\nB. a dog")
    drawn, free, written = benchmark("files:mathvision", tmp_path / "mathvision").items[:3]
    suffix = "\nAnswer the question using a single word or phrase."
    assert ask(drawn, "standard") == f"How many cafés, 0? <image1>\n{suffix}"
    assert ask(free, "standard") == f"How many cafés, 1? <image1>\n{suffix}"
    assert ask(written, "standard").endswith("\n(D) $4$\n(E) $\\frac{1}{2}$\n" + suffix)
    assert answered(written, "0.50", "standard").values == {"accuracy": 1.0}  # the right option's value


def test_answers_of_mathverse_by_rule() -> None:
    for response, answer, letters, right in (
        ("The answer is (C).", "C", "ABCD", True),
        ("B: 7.5", "B", "ABCD", True),
        ("It could be A.", "B", "ABCD", False),
        ("So the length is 5.\nAnswer: 2.5", "2.5", "", True),
        ("Final answer: $45^\\circ$", "45^\\circ ", "", True),
        (r"The answer is \frac{1}{2}.", "0.5", "", True),
        ("Therefore AB = 12.", "12", "", True),
        ("x = 4", "x = 5", "", False),
        ("no idea", "2", "", False),
        ("", "2", "", False),
    ):
        read = math_answers.extract_mathverse(response, tuple(letters))
        assert math_answers.mathverse_equal(read, answer) == right, (response, read)


# ----------------------------------------------------------------------------------------------------------- the judge


def mathverse_items() -> list[Item]:
    details = {"rule": "mathverse", "extraction": "rule", "suffix": "", "judged_question": "How long?"}
    return [Item(Question(str(n), ("i",), "Answer.", "2.5"), "short", details=details) for n in range(4)]


def test_a_judge_extracts_and_compares_and_an_unread_verdict_is_not_graded(server: Any, tmp_path: Path) -> None:
    def reply(text: str) -> str:
        if "Verdict:" in text:
            return {"5/2": "1", "3": "0", "two": "I cannot say"}[text.split("check: ")[1].split("\n")[0]]
        assert "w0 " not in text  # only the last 30 words are shown
        return {"a": "2.5", "b": "5/2", "c": "3", "d": "two"}[text.split("Answer:")[0].split()[-1]]

    server.answer = reply
    items = mathverse_items()
    long = " ".join(f"w{n}" for n in range(40))
    outcomes = [answered(item, f"{long} {word}", "standard") for item, word in zip(items, "abcd", strict=True)]
    with OpenAIServer("m", server.url) as engine, ReplyStore(tmp_path) as store:
        judge = Judge(engine, store)
        judged = judge(outcomes, items, {})
        assert sum(server.asked.values()) == 7  # four extractions; "2.5" needs no comparison
        assert judge(outcomes, items, {}) == judged and sum(server.asked.values()) == 7
        assert grading(items, named_protocol("standard"), judge) == {"grading": "extraction by m, own prompt"}
    assert [o.values for o in judged] == [{"accuracy": 1.0}, {"accuracy": 1.0}, {"accuracy": 0.0}, {}]
    assert [o.status for o in judged] == ["ok", "ok", "ok", "unread"]
    assert scores("plain", judged)["accuracy"]["n"] == 3 and rates(judged)["unread"] == 1


def test_extracted_letters_need_no_comparison(server: Any, tmp_path: Path) -> None:
    server.answer = lambda text: text.split("Response: ")[1].split("\n")[0]
    details = {"rule": "mathverse", "extraction": "rule", "options_in_question": True, "judged_question": "How long?"}
    record = Question("0", ("i",), "Answer.", "C", choices=("",) * 4)
    items = [Item(record, "short", details=details)]
    for response, right in (("(C)", 1.0), ("D.", 0.0)):
        with OpenAIServer("m", server.url) as engine, ReplyStore(tmp_path) as store:
            (judged,) = Judge(engine, store)([answered(items[0], response, "standard")], items, {})
        assert (judged.values, judged.status) == ({"accuracy": right}, "ok")
    assert sum(server.asked.values()) == 2


def test_a_judge_names_letters(server: Any, tmp_path: Path) -> None:
    server.answer = lambda text: text.split("Response: ")[1].split("\n")[0]
    items = [
        Item(
            Question(str(n), ("i",), "Which?", "B, D"),
            "letter",
            details={"rule": "letters", "extraction": "rule", "judged_question": "Which?"},
        )
        for n in range(4)
    ]
    outcomes = [answered(i, t, "standard") for i, t in zip(items, ("DB", "B", "Z", "b and d"), strict=True)]
    with OpenAIServer("m", server.url) as engine, ReplyStore(tmp_path) as store:
        judged = Judge(engine, store)(outcomes, items, {})
    assert [(o.values.get("accuracy"), o.status) for o in judged] == [
        (1.0, "ok"),
        (0.0, "ok"),
        (0.0, "unparsed"),
        (None, "unread"),
    ]


def test_runs_are_paired_on_the_items_that_both_judges_graded(tmp_path: Path) -> None:
    items = mathverse_items()
    for name, words in (("a", "2.5 2.5 2.5 0"), ("b", "0 2.5 2.5 0")):
        outcomes = [answered(item, word, "standard") for item, word in zip(items, words.split(), strict=True)]
        ungraded = 3 if name == "a" else 1
        outcomes[ungraded].values.clear()
        outcomes[ungraded] = Outcome(**{**vars(outcomes[ungraded]), "status": "unread"})
        data = {"name": "mathverse", "version": "1", "scoring": "plain", "items": 4, "limit": None}
        results.write(
            tmp_path / name,
            results.Result(data, {}, {}, scores("plain", outcomes), rates(outcomes)),
            outcomes,
        )
    test = paired.compare(tmp_path / "a", tmp_path / "b")["accuracy"]
    assert (test["difference"], test["n"]) == (50, 2)


def test_verdicts_are_read() -> None:
    readings = {"1": True, "Verdict: 0": False, "0 or 1": None, "yes": None, "0.5": None, "10": None, "": None}
    assert {text: judge_extraction.read_verdict(text) for text in readings} == readings


# ----------------------------------------------------------------------------------------------------------- bad files


def changed(name: str, folder: Path, file: str, change: Any) -> Path:
    root, _ = FILES[name](folder)
    path = folder / file
    rows = lines(path) if file.endswith("l") else json.loads(path.read_text())
    change(rows)
    (write_lines if file.endswith("l") else write_json)(path, rows)
    return root


@pytest.mark.parametrize(
    ("name", "file", "change", "message"),
    [
        ("m3cot", "test.jsonl", {"answer": "F"}, "row 1: answer is 'F', which is not one of A, B"),
        ("m3cot", "test.jsonl", {"choices": ["x"] * 27}, "27 options, but options beyond Z are not supported"),
        ("m3cot", "test.jsonl", {"answer": "²"}, "row 1: answer is '²', which is not one of A, B"),
        ("m3cot", "test.jsonl", {"id": None}, "row 1 has no id, only image, "),
        ("m3cot", "test.jsonl", {"choices": ["", " "]}, "row 1: all 2 options of choices are empty"),
        (
            "m3cot",
            "test.jsonl",
            {"choices": ["a", float("nan")]},
            r"row 1: choices is not a list of options \(\['a', nan",
        ),
        ("m3cot", "test.jsonl", {"choices": "ab"}, "choices is not a list of options"),
        ("mathvision", "test.jsonl", {"options": ["1", "2"]}, "answer is '7', which is not one of A, B"),
        ("mathvision", "test.jsonl", {"level": None}, "row 1 has no level"),
        ("mathvision", "test.jsonl", {"level": 6.0}, "row 1: level is '6', which is not one of 1, 2, 3, 4, 5"),
        ("mathvision", "test.jsonl", {"answer": " "}, "row 1: answer is empty"),
        ("wemath", "testmini.json", {"option": "x"}, r"entry 1: option has no options A., B., ... \('x'\)"),
        ("logicvista", "dataset.json", {"answer": "²"}, "v1_1: answer is '²', not letters"),
        ("wemath", "testmini.json", {"answer": "D"}, "entry 1: answer is 'D', which is not one of A, B, C"),
        ("wemath", "testmini.json", {"key": "4steps_1"}, "entry 1: key is '4steps_1'"),
        (
            "wemath",
            "testmini.json",
            {"key": "2steps_1"},
            "problem '2steps_1' has the steps 1, 1, multi, not 1, 2, multi",
        ),
        ("logicvista", "dataset.json", {"answer": "none"}, "v1_1: answer is 'none', not letters separated by commas"),
        ("logicvista", "dataset.json", {"skill": ["moral"]}, "v1_1: skill is 'moral', which is not one of inductive"),
        ("logicvista", "dataset.json", {"answer": ""}, "v1_1: answer is empty"),
        ("wemath", "testmini.json", {"answer": "AB"}, "entry 1: answer is 'AB', which is not one of A, B, C"),
    ],
)
def test_a_wrong_row_is_named(name: str, file: str, change: dict[str, Any], message: str, tmp_path: Path) -> None:
    def edit(rows: Any) -> None:
        (rows[1] if isinstance(rows, list) else rows["v1_1"]).update(change)

    root = changed(name, tmp_path, file, edit)
    with pytest.raises(EvaluationError, match=message) as caught:
        load_benchmark(name, root)
    assert "\n" not in str(caught.value) and str(root) in str(caught.value)
    left_out = load_benchmark(name, root, **PART)
    assert 0 < len(left_out.items) < {"wemath": 7, "logicvista": 5}.get(name, COUNT)


def test_counts_options_and_missing_files_are_named(tmp_path: Path) -> None:
    for name, message in (
        ("m3cot", "the data has 4 items, but the benchmark has 2318"),
        ("mathvision", "the data has 4 items, but the benchmark has 3040"),
        ("wemath", "the data has 7 items, but the benchmark has 1740"),
        ("logicvista", "the data has 5 items, but the benchmark has 448"),
    ):
        root, _ = FILES[name](tmp_path / name)
        with pytest.raises(EvaluationError, match=f"{name}: {message}"):
            load_benchmark(name, root)
    with pytest.raises(EvaluationError, match=r"wemath: .*absent.json is not a file: set benchmark.wemath.nodes"):
        load_benchmark("wemath", tmp_path / "wemath", nodes=tmp_path / "absent.json", **PART)
    with pytest.raises(EvaluationError, match=r"benchmark.mathvision.split='train' must be one of 'test', 'testmini'"):
        load_benchmark("mathvision", tmp_path / "mathvision", split="train")
    split, rows, images = HUB["mathverse"]
    root = write_hub(tmp_path / "hub", split, [{**row, "answer": "BC"} for row in rows], images)
    with pytest.raises(EvaluationError, match=r"2 of 4 rows .*row 1: answer is 'BC', which is not one of A, B, C, D"):
        load_benchmark("mathverse", root)
    with pytest.raises(EvaluationError, match="problem_version='Text' must be one of 'Text Dominant'"):
        load_benchmark("mathverse", root, problem_version="Text")
    with pytest.raises(EvaluationError, match="mathverse: the benchmark has no items"):
        load_benchmark("mathverse", root, problem_version="Text Lite", **PART)


# ---------------------------------------------------------------------------------------------------------- full counts


@pytest.mark.full
@pytest.mark.parametrize("name", ["hub:m3cot", "files:mathvision", "hub:mathverse", "files:wemath", "files:logicvista"])
def test_loading_at_the_published_count(name: str, tmp_path: Path) -> None:
    of = name.partition(":")[2]
    if of == "wemath":
        root, _ = FILES[of](tmp_path)
        rows = json.loads((tmp_path / "testmini.json").read_text())
        two, three = rows[:3], rows[3:]
        problems = [(2, n, two) for n in range(360)] + [(3, n, three) for n in range(165)]
        write_json(
            tmp_path / "testmini.json",
            [{**row, "ID": f"{size}steps_{n}"} for size, n, parts in problems for row in parts],
        )
    elif of == "mathvision":
        root, _ = FILES[of](tmp_path)
        rows = lines(tmp_path / "test.jsonl")
        write_lines(tmp_path / "test.jsonl", [{**rows[n % 3], "id": str(n), "image": f"{n}.jpg"} for n in range(3040)])
        draw(tmp_path, *(f"{n}.jpg" for n in range(3040)))
    elif of == "logicvista":
        root, _ = FILES[of](tmp_path)
        row = json.loads((tmp_path / "dataset.json").read_text())["v1_1"]
        write_json(tmp_path / "dataset.json", {f"v1_{n}": row for n in range(448)})
    else:
        split, hub, images = HUB[of]
        key, count = {"m3cot": ("id", 2318), "mathverse": ("sample_index", 3940)}[of]
        versions = ["Text Lite", "Text Dominant", "Vision Intensive", "Vision Dominant", "Vision Only"]
        made = [{**hub[n % len(hub)], key: str(n)} for n in range(count)]
        if of == "mathverse":
            made = [{**row, "problem_version": versions[n % 5]} for n, row in enumerate(made)]
        root = write_hub(tmp_path, split, made, images)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    loaded = load_benchmark(of, root)
    seconds = time.perf_counter() - started
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{of}: {len(loaded.items)} items in {seconds:.2f} s, peak memory + {grown:.0f} MiB")
    assert "partial" not in loaded.version
