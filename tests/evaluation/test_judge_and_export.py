"""Tests the judge with a server on the loopback address, and exported files for evaluation harnesses."""

from __future__ import annotations

import csv
import dataclasses
import json
import zipfile
from contextlib import contextmanager
from xml.etree import ElementTree

import pytest

from scramble.engines import ReplyStore
from scramble.engines.openai_server import OpenAIServer
from scramble.evaluation import judge
from scramble.evaluation.external import export_predictions
from scramble.evaluation.items import EvaluationError, Item, QueryReply
from scramble.evaluation.protocols import named_protocol
from scramble.evaluation.scoring.aggregation import rates, scores
from scramble.evaluation.scoring.outcomes import outcome
from scramble.records import ImageFile, Question, TwoByTwoItem
from tests.loopback import Loopback


def grade_by_length(text: str) -> str:
    """Reply as a judge that gives 0.8 to "-1 and -5", words to "what?", and 0.1 to all other answers."""
    prediction = text.split("Prediction: ")[-1].split("\n")[0]
    return {"-1 and -5": "0.8", "what?": "I would say good"}.get(prediction, "Grade: 0.1")


@pytest.fixture
def server(server: Loopback) -> Loopback:
    server.answer = grade_by_length
    return server


@contextmanager
def judging(server, folder, **options):
    with OpenAIServer("m", server.url) as engine, ReplyStore(folder) as store:
        yield judge.Judge(engine, store, **options)


ITEMS = [Item(Question(f"v1_{k}", ("i",), "What is x?", "-1<AND>-5"), "free", tags=("math",)) for k in range(3)]


def answered(*texts: str, items=ITEMS):
    pairs = zip(items, texts, strict=False)
    return [outcome(item, {item.item_id: QueryReply(text=text)}, named_protocol("standard")) for item, text in pairs]


def test_five_gradings_cached(server, tmp_path):
    outcomes = answered("-1 and -5", "no", "what?")
    assert rates(outcomes)["judge"] == 3
    assert scores("plain", outcomes) == {}
    with judging(server, tmp_path) as grade:
        graded = grade(outcomes, ITEMS, {})
        num_requests = sum(server.asked.values())
        again = grade(outcomes, ITEMS, {})
    assert num_requests == 15
    assert sum(server.asked.values()) == num_requests
    assert graded == again
    assert [o.values["score"] for o in graded] == pytest.approx([0.8, 0.1, 0.0])
    assert graded[2].status == "unparsed"
    table = judge.judged_scores(scores("plain", graded), graded)
    assert table["score"]["value"] == pytest.approx(30)
    assert len(table["score"]["gradings"]) == 5
    assert table["score"]["grading_interval"] == pytest.approx(0)
    assert table["score/math"]["n"] == 3


def test_interval_over_gradings_by_hand():
    """Runs of 60 and 70 percent: mean 65, standard deviation 7.07, 1.96 * 7.07 / sqrt(2) = 9.8."""
    graded = [dataclasses.replace(answered("a")[0], details={"grades": [0.6, 0.7]})]
    assert judge.over_gradings(graded)["value"] == pytest.approx(65)
    assert judge.over_gradings(graded)["grading_interval"] == pytest.approx(9.8)


def test_grades_are_read():
    read = {"0.8": 0.8, "Grade: 1.0": 1.0, "1": 1.0, "0": 0.0, "good": None, "8.5": None}
    assert {text: judge.read_grade(text) for text in read} == read


def test_mathvista_by_rule_and_by_judge(server, tmp_path):
    """The rule reads the last number, and the judge the intended one. In both cases the result records how the answer
    was extracted."""
    details = {"rule": "mathvista", "answer_type": "integer", "question_type": "free_form", "extraction": "rule"}
    item = Item(Question("1", ("i",), "How many?", "4"), "short", details=details)
    outcomes = answered("There are 4 of the 9 left", items=[item])
    assert outcomes[0].values["accuracy"] == 0
    assert judge.grading([item], named_protocol("standard"), None) == {"grading": "extraction by rule, no judge"}
    server.answer = lambda text: "4" if "4 of the 9" in text else "?"
    with judging(server, tmp_path) as read:
        judged = read(outcomes, [item], {})
        assert judge.grading([item], named_protocol("standard"), read) == {"grading": "extraction by m, own prompt"}
    assert (judged[0].values, judged[0].details["extraction"]) == ({"accuracy": 1.0}, "judge")


def test_faithfulness_is_the_share_of_true_statements(server, tmp_path):
    item = Item(Question("1", ("i",), "What colour?", "red", answers=("red",) * 10), "short")
    text = "The ball is red. The sky is green.\nIt is big. It is big. Final answer: red"
    unjudged = [outcome(item, {"1": QueryReply(text=text)}, named_protocol("cot"))]
    server.answer = lambda text: "No." if "sky" in text else "yes"
    image = ImageFile(bytes=b"\x89PNG of a ball")
    with judging(server, tmp_path, faithfulness=True) as ask:
        judged = ask(unjudged, [item], {"i": image})[0]
        silent = ask(
            [outcome(item, {"1": QueryReply(text="Final answer: red")}, named_protocol("cot"))], [item], {"i": image}
        )[0]
        with pytest.raises(EvaluationError, match=r"faithfulness needs generated reasoning.*protocol=cot"):
            ask([dataclasses.replace(unjudged[0], details={})], [item], {"i": image})
    assert judged.details["statements"] == {"The ball is red.": "yes", "The sky is green.": "no", "It is big.": "yes"}
    assert judged.values == {"accuracy": pytest.approx(1.0), "faithfulness": pytest.approx(2 / 3)}
    assert silent.values["faithfulness"] == 0
    assert server.payloads[0]["messages"][0]["content"][0]["type"] == "image_url"


def test_a_judge_that_cannot_work_says_why(server, tmp_path):
    with (
        pytest.raises(EvaluationError, match=r"judge\.grading_prompt does not contain \{answer\}"),
        judging(server, tmp_path, grading_prompt="Grade {question}: {prediction}"),
    ):
        pass
    with (
        pytest.raises(EvaluationError, match=r"judge\.gradings must be at least 1"),
        judging(server, tmp_path, gradings=0),
    ):
        pass
    unanswerable = answered("x | faults=400:too+long")
    with (
        judging(server, tmp_path, gradings=1, grading_prompt="{prediction} | {question}{answer}") as grade,
        pytest.raises(EvaluationError, match=r"the judge m did not answer 1 of 1 requests.*repeat the command"),
    ):
        grade(unanswerable, ITEMS, {})


QUESTIONS = [
    Item(Question(str(k), ("i",), "Which\tone?", "B", "colour", choices=("red", "blue")), "letter") for k in (7, 9)
]


@pytest.fixture
def predictions():
    texts = ("B", "A, because\nit is red")
    pairs = zip(QUESTIONS, texts, strict=True)
    return [outcome(item, {item.item_id: QueryReply(text=text)}, named_protocol("standard")) for item, text in pairs]


def test_vlmevalkit_files(predictions, tmp_path):
    table = export_predictions.rows(QUESTIONS, predictions)
    export_predictions.write_vlmevalkit(tmp_path / "m_D.tsv", table)
    with (tmp_path / "m_D.tsv").open(newline="") as file:
        read = list(csv.DictReader(file, delimiter="\t"))
    assert read[1]["prediction"] == "A, because\nit is red"
    assert list(read[0]) == ["index", "question", "A", "B", "answer", "category", "prediction"]
    export_predictions.write_mmbench(tmp_path / "m.xlsx", table)
    with zipfile.ZipFile(tmp_path / "m.xlsx") as book:
        sheet = ElementTree.fromstring(book.read("xl/worksheets/sheet1.xml"))
        assert ElementTree.fromstring(book.read("xl/workbook.xml")) is not None
    space = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
    cells = [[t.text for t in row.iter(f"{space}t")] for row in sheet.iter(f"{space}row")]
    assert cells[0] == ["index", "question", "A", "B", "C", "D", "prediction"]
    assert cells[2][-1] == "A, because\nit is red"
    with pytest.raises(
        EvaluationError, match="prediction of '7' has 40000 characters, but a cell of an xlsx file holds at most 32767"
    ):
        export_predictions.write_xlsx(tmp_path / "x.xlsx", [{**table[0], "prediction": "x" * 40000}])


def test_lmms_eval_and_evalai_files(predictions, tmp_path):
    export_predictions.write_lmms_eval(tmp_path / "s.jsonl", "mmstar", QUESTIONS, predictions)
    rows = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert rows[0]["resps"] == [["B"]]
    assert rows[0]["target"] == "B"
    assert rows[1]["accuracy"] == 0
    export_predictions.write_evalai(tmp_path / "e.json", QUESTIONS, predictions)
    assert json.loads((tmp_path / "e.json").read_text())[0] == {"question_id": 7, "answer": "B"}
    assert export_predictions.write("evalai", tmp_path, "m", "mmvet", ITEMS[:1], predictions[:1]) is None


def test_formats_by_name(predictions, tmp_path):
    written = {
        name: export_predictions.write(name, tmp_path, "m", "t", QUESTIONS, predictions)
        for name in export_predictions.PREDICTION_FORMATS
        if name != "every_eval_ever"
    }
    assert [path.name for path in written.values()] == ["m_t.tsv", "samples_t.jsonl", "evalai.json", "m_t.xlsx"]
    assert all(path.stat().st_size for path in written.values())
    quad = Item(TwoByTwoItem("q", ("a", "b"), ("x", "y")), "quad")
    assert export_predictions.write("evalai", tmp_path, "m", "t", [quad], []) is None
    with pytest.raises(EvaluationError, match=r"unknown format 'evalia'.*did you mean evalai"):
        export_predictions.check_formats(["evalia"])
