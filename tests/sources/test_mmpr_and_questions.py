"""Tests MMPR and question files as data: the records of rows, and the rejection of unusable rows."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from scramble.formats import write
from scramble.records import ImageFile, ImageRecord, PreferencePair
from scramble.sources import BadRows, SourceError, mmpr, questions, read_bundles


def encoded(color: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), color).save(buffer, "PNG")
    return buffer.getvalue()


def lines(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Return a release: a meta.json with paths relative to the top folder, two valid sets, and all kinds of bad
    rows.
    """
    home = tmp_path / "data" / "MMPR"
    for name in ("images/a/1.png", "images/a/2.png"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(encoded("red"))
    (home / "images/a/broken.png").write_bytes(b"\x89PNG no")
    good = {"chosen": "c", "rejected": "r"}
    lines(
        home / "annotations/a.jsonl",
        [
            {"image": "1.png", "question": "One?", **good},
            {"image": ["1.png", "2.png"], "question": "<image>\n<image>\nBoth?", **good},
        ],
    )
    lines(home / "annotations/text.jsonl", [{"question": f"Why {n}?", **good, "answer_gt": "x"} for n in range(4)])
    lines(
        home / "annotations/bad.jsonl",
        [
            {"image": "1.png", "question": "Good?", **good},
            {"image": "gone.png", "question": "?", **good},
            {"image": "broken.png", "question": "?", **good},
            {"image": "1.png", "question": "?", "chosen": "", "rejected": "r"},
            {"question": "<image> Where?", **good},
            {"question": "?", "chosen": "c", "rejected": "c"},
            "{no json",
            "[]",
            {"image": 7.5, "question": "?", **good},
            {"image": [None], "question": "?", **good},
        ],
    )
    sets = {
        "a": {"root": "MMPR/images/a", "annotation": "MMPR/annotations/a.jsonl", "repeat_time": 2, "length": 2},
        "text": {
            "root": "",
            "annotation": "MMPR/annotations/text.jsonl",
            "repeat_time": 0.5,
            "length": 5,
            "data_augment": True,
            "max_dynamic_patch": 6,
        },
        "bad": {"root": "MMPR/images/a", "annotation": "MMPR/annotations/bad.jsonl", "repeat_time": 2, "length": 10},
    }
    (home / "meta.json").write_text(json.dumps(sets))
    return home / "meta.json"


def test_sets_are_mixed_and_bad_rows_counted_once(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with BadRows(tmp_path / "rejected.jsonl", 1.0) as bad:
        bundles = list(mmpr.bundles(release, bad))
    pairs = [pair for bundle in bundles for pair in bundle.pairs]
    assert Counter(p.kind for p in pairs) == {"a": 4, "text": 2, "bad": 2}
    assert {p.pair_id for p in pairs if p.kind == "a"} == {"a/0000001", "a/0000001#2", "a/0000002", "a/0000002#2"}
    both = next(bundle for bundle in bundles if bundle.pairs[0].pair_id == "a/0000002")
    assert both.pairs[0].prompt == "Both?" and [i.image_id for i in both.images] == list(both.pairs[0].image_ids)
    assert both.images[0].image.open().size == (40, 40)
    assert all(not b.images and not b.pairs[0].image_ids for b in bundles if b.pairs[0].kind == "text")
    assert bad.reasons == {
        "missing image": 1,
        "unreadable image": 1,
        "empty chosen": 1,
        "1 image placeholder for 0 images": 1,
        "chosen and rejected are the same text": 1,
        "not JSON": 1,
        "not a JSON object": 1,
        "the value of image is neither an image nor a list of images": 1,
        "an image is not a path": 1,
    }
    output = capsys.readouterr().out
    assert (
        "set text has 4 rows, but its length in meta.json is 5" in output
        and "data_augment" in output
        and "max_dynamic_patch" in output
    )
    assert len(list(read_bundles("pairs", release, BadRows(None, 1.0), limit=3))) == 3
    drawn = list(mmpr.bundles(release, BadRows(None, 1.0), resample=True, seed=1))
    assert len({b.pairs[0].pair_id for b in drawn}) == len(drawn)


def test_missing_files_are_errors(release: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"annotations/a\.jsonl does not exist below .*data\.root"):
        list(mmpr.bundles(release, BadRows(), root=tmp_path))
    with pytest.raises(SourceError, match=r"nowhere.json does not exist: set data.path to the meta.json"):
        list(mmpr.bundles(tmp_path / "nowhere.json", BadRows()))


def test_an_export_comes_back_with_all_its_fields(tmp_path: Path) -> None:
    images = [ImageRecord(color, ImageFile(encoded(color))) for color in ("red", "blue")]
    pairs = [
        PreferencePair("p1", ("red",), "What?", "a", "b", "k", "r", seed=3, scores={"s": 0.5}, details={"x": [1]}),
        PreferencePair("p2", ("red", "blue"), "Which?", "a", "b", "correctness"),
        PreferencePair("p3", (), "Why?\n", "a", "b", "dropout-ntp"),
    ]
    write("mmpr", images, pairs, tmp_path)
    bundles = {b.pairs[0].pair_id: b for b in mmpr.bundles(tmp_path, BadRows())}
    assert list(bundles) != [] and {name.removeprefix("scramble/") for name in bundles} == {"p1", "p2", "p3"}
    first = bundles["scramble/p1"]
    assert (first.pairs[0].details, first.pairs[0].scores, first.pairs[0].seed) == ({"x": [1]}, {"s": 0.5}, 3)
    assert first.images[0].image.read() == encoded("red") and bundles["scramble/p3"].pairs[0].prompt == "Why?\n"
    assert [i.image.read() for i in bundles["scramble/p2"].images] == [encoded("red"), encoded("blue")]


def test_questions(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(encoded("red"))
    (tmp_path / "bad.png").write_bytes(b"no")
    lines(
        tmp_path / "q.jsonl",
        [
            {"image": "1.png", "question": " How many? ", "answer": 5, "kind": "numeric", "id": "first"},
            {"question": "Which?", "answer": "B", "choices": ["x", "y"], "answers": ["B", "y"]},
            {"image": ["1.png", "1.png"], "question": "Same?", "answer": None},
            {"question": " ", "answer": "x"},
            {"image": "gone.png", "question": "?"},
            {"image": "bad.png", "question": "?"},
            {"image": 3, "question": "?"},
            {"question": "?", "answer": ["x"]},
            {"question": "?", "choices": "x"},
            {"question": "again", "id": "first"},
        ],
    )
    bad = BadRows(None, 1.0)
    bundles = list(questions.bundles(tmp_path / "q.jsonl", bad))
    first, second, third = (bundle.questions[0] for bundle in bundles)
    assert (first.question_id, first.image_ids, first.question, first.answer) == ("first", ("1.png",), "How many?", "5")
    assert (second.choices, second.answers, second.image_ids) == (("x", "y"), ("B", "y"), ())
    assert third.answer == "" and len(bundles[2].images) == 2
    assert bad.reasons == {
        "row without question": 1,
        "missing image": 1,
        "unreadable image": 1,
        "duplicate id": 1,
        "image is neither an image nor a list of images": 1,
        "answer is neither a string nor a number": 1,
        "choices is not a list": 1,
    }
    with pytest.raises(SourceError, match="does not exist"):
        list(questions.bundles(tmp_path / "nowhere.jsonl", BadRows()))


def test_question_ids_and_images_that_are_0(tmp_path: Path) -> None:
    lines(
        tmp_path / "q.jsonl",
        [
            {"id": 0, "question": "Zero?", "answer": 0},
            {"question": "None?", "answer": 1.5},
            {"image": 0, "question": "?"},
            {"answers": 0, "question": "?"},
            '{"id": NaN, "question": "?"}',
            '{"id": 6, "question": "NaN?", "answer": NaN}',
        ],
    )
    bad = BadRows(None, 1.0)
    bundles = [bundle.questions[0] for bundle in questions.bundles(tmp_path / "q.jsonl", bad)]
    assert [(q.question_id, q.answer) for q in bundles] == [("0", "0"), ("0000002", "1.5"), ("6", "")]
    assert bad.reasons == {
        "image is neither an image nor a list of images": 1,
        "answers is not a list": 1,
        "row without id": 1,
    }


@pytest.mark.parametrize("rejected", [" A red café.", "A red café.\n", "\tA red café. ", "A red cafe\u0301."])
def test_texts_that_differ_only_in_white_space_are_not_a_pair(release: Path, rejected: str) -> None:
    rows: list[Any] = [{"question": "?", "chosen": "A red café.", "rejected": rejected}]
    lines(release.parent / "annotations/text.jsonl", rows * 4)
    bad = BadRows(None, 1.0)
    list(mmpr.bundles(release, bad))
    assert bad.reasons["chosen and rejected are the same text"] == 2 + 1


def test_mmpr_with_byte_order_marks_and_separators_in_texts(tmp_path: Path) -> None:
    row = {"question": "?", "chosen": "one\u2028two\x85", "rejected": "r"}
    text = json.dumps(row, ensure_ascii=False)
    (tmp_path / "rows.jsonl").write_bytes(f"\ufeff{text}\n{text}\r{text}\n".encode())
    (tmp_path / "meta.json").write_text('\ufeff{"s": {"root": ".", "annotation": "rows.jsonl"}}')
    bad = BadRows(None, 1.0)
    bundles = [bundle.pairs[0].chosen for bundle in mmpr.bundles(tmp_path, bad)]
    assert bundles == ["one\u2028two\x85"] and bad.reasons == {"several rows on a line": 1}


def test_the_message_about_a_set_without_root_lists_the_fields(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text(json.dumps({"a": {"root": None, "annotation": "a.jsonl"}}))
    fields = "root, annotation, repeat_time, length, data_augment, max_dynamic_patch"
    with pytest.raises(SourceError, match=f"needs a string in the field root; the fields of a set are {fields}$"):
        list(mmpr.bundles(tmp_path, BadRows()))


def questions_of(tmp_path: Path, *rows: dict[str, Any]) -> tuple[list[Any], BadRows]:
    (tmp_path / "1.png").write_bytes(encoded("red"))
    lines(tmp_path / "q.jsonl", list(rows))
    bad = BadRows(max_fraction=1.0)
    return [bundle.questions[0] for bundle in questions.bundles(tmp_path / "q.jsonl", bad)], bad


@pytest.mark.parametrize("key", ["image", "images"])
def test_both_keys_of_images_count_and_placeholders_are_dropped(tmp_path: Path, key: str) -> None:
    bundles, bad = questions_of(
        tmp_path,
        {key: "1.png", "question": "<image>\nWhat?"},
        {key: ["1.png"], "question": "What?"},
        {key: "1.png", "question": "<image><image> What?"},
        {key: float("nan"), "question": "Why?"},
        {"question": "<image>\nWhat?"},
    )
    assert [(one.question, one.image_ids) for one in bundles] == [
        ("What?", ("1.png",)),
        ("What?", ("1.png",)),
        ("Why?", ()),
    ]
    assert dict(bad.reasons) == {"2 image placeholders for 1 image": 1, "1 image placeholder for 0 images": 1}


def test_empty_cells_and_whole_numbers_of_tables(tmp_path: Path) -> None:
    nan = float("nan")
    bundles, bad = questions_of(
        tmp_path,
        {"question": "How many?", "answer": 2.0, "answers": [2.0, None, nan, "", "two", 2.5], "choices": nan},
        {"question": "Which?", "answer": "A", "choices": ["one", "two", None, nan]},
        {"question": "Which?", "answer": "C", "choices": ["one", None, "three"]},
    )
    assert (bundles[0].answer, bundles[0].answers, bundles[0].choices) == ("2", ("2", "two", "2.5"), ())
    assert bundles[1].choices == ("one", "two")
    assert dict(bad.reasons) == {"an entry of choices is empty": 1} and len(bundles) == 2


def test_hints_of_question_files_name_no_key_of_other_sources(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no column question, only text. Rename the matching column$"):
        questions_of(tmp_path, {"text": "What?"})
    with pytest.raises(SourceError, match=r"is a folder: set data.path to a file with questions"):
        list(questions.bundles(tmp_path, BadRows()))


def test_the_message_about_a_folder_without_meta_json_names_the_key(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"meta.json does not exist: set data.path to the meta.json"):
        list(mmpr.bundles(tmp_path, BadRows()))


@pytest.mark.parametrize("kind", ["list", "jsonl list", "one", "csv", "tsv", "parquet"])
def test_question_files_may_be_lists_and_tables(tmp_path: Path, kind: str) -> None:
    (tmp_path / "1.png").write_bytes(encoded("red"))
    first: dict[str, Any] = {"id": "a", "image": "1.png", "question": "Which, one?", "answer": "A", "choices": ["x, y"]}
    rows: list[dict[str, Any]] = [first, {**first, "id": "b", "question": "How many?", "answer": 2, "choices": None}]
    rows = rows[:1] if kind == "one" else rows
    path = tmp_path / {"list": "q.json", "jsonl list": "q.jsonl", "one": "q.json"}.get(kind, f"q.{kind}")
    if kind == "parquet":
        columns = {key: [str(row[key]) if key == "answer" else row[key] for row in rows] for key in first}
        pq.write_table(pa.table(columns), path)
    elif kind in ("csv", "tsv"):
        cells = [{**row, "choices": json.dumps(row["choices"]) if row["choices"] else ""} for row in rows]
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(first), delimiter="," if kind == "csv" else "\t")
            writer.writeheader()
            writer.writerows(cells)
    else:
        path.write_text(json.dumps(rows[0] if kind == "one" else rows, indent=2))
    bundles = list(questions.bundles(path, BadRows(None, 0.0)))
    asked = [bundle.questions[0] for bundle in bundles]
    expected = [("a", "Which, one?", "A", ("x, y",)), ("b", "How many?", "2", ())][: len(rows)]
    assert [(one.question_id, one.question, one.answer, one.choices) for one in asked] == expected
    assert all(bundle.images[0].image.open().size == (40, 40) for bundle in bundles)


def test_columns_of_questions_that_are_not_used_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Options in columns of their own are not used."""
    rows: list[dict[str, Any]] = [{"question": "Which?", "answer": "A", "id": n} for n in range(2)]
    assert len(questions_of(tmp_path, *rows)[0]) == 2
    assert "not used" not in capsys.readouterr().out
    assert len(questions_of(tmp_path, rows[0], {**rows[1], "A": "one", "B": "two"})[0]) == 2
    assert "q.jsonl: these columns are not used: A, B\n" in capsys.readouterr().out


def test_embedded_images_of_questions(tmp_path: Path) -> None:
    """Embedded images with equal names are different images, and equal bytes are the same image."""
    images: list[Any] = [{"bytes": encoded(color), "path": "image.png"} for color in ("red", "blue", "red")]
    images.append({"bytes": b"no", "path": "image.png"})
    columns = {"question": ["What?"] * 4, "answer": ["x"] * 4, "image": images, "images": [[image] for image in images]}
    for key in ("image", "images"):
        table = pa.table({name: columns[name] for name in ("question", "answer", key)})
        pq.write_table(table, tmp_path / "q.parquet")
        bad = BadRows(None, 1.0)
        bundles = list(questions.bundles(tmp_path / "q.parquet", bad))
        assert [bundle.images[0].image.read() for bundle in bundles] == [encoded(c) for c in ("red", "blue", "red")]
        ids = [bundle.questions[0].image_ids for bundle in bundles]
        assert ids[0] == ids[2] != ids[1] and ids[0] == (bundles[0].images[0].image_id,)
        assert bad.reasons == {"unreadable image": 1}
