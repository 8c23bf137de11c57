"""Tests local data sets: splits by all common naming schemes, reading in place, one-line errors for broken files."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from scramble.sources import BadRows, SourceError, read

COLORS = ("red", "green", "blue", "white", "black", "orange")


def encoded(color: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (12, 12), color).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, *colors: str, captions: Any = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    captions = captions or [f"A {color} square." for color in colors]
    pq.write_table(pa.table({"image": [encoded(color) for color in colors], "caption": captions}), path)


def texts(path: Path, **options: Any) -> list[str]:
    return [text for record in read("hf", path, **options) for text in record.captions]


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"),
        ("data/train-00000-of-00001-0123456789abcdef.parquet", "data/test-00000-of-00001-fedcba9876543210.parquet"),
        ("train/0.parquet", "test/0.parquet"),
        ("train.parquet", "test.parquet"),
        ("flickr_train_1.parquet", "flickr_test_1.parquet"),
        ("0/Training/part.parquet", "0/evaluation/part.parquet"),
    ],
)
def test_a_folder_gives_the_split_that_is_asked_for(tmp_path: Path, train: str, test: str) -> None:
    write(tmp_path / "d" / train, "red", "green")
    write(tmp_path / "d" / test, "blue")
    assert texts(tmp_path / "d") == ["A red square.", "A green square."]
    assert texts(tmp_path / "d", split="test") == ["A blue square."]
    with pytest.raises(SourceError, match=r"has no split 'nonsense': choose one of test, train \(data\.split=\.\.\.\)"):
        texts(tmp_path / "d", split="nonsense")


@pytest.mark.parametrize("name", ["{}/train-00000-of-00001.parquet", "{}/train/0.parquet", "data/{}/train.parquet"])
def test_two_configurations_are_not_one_data_set(tmp_path: Path, name: str) -> None:
    write(tmp_path / name.format("en"), "red")
    write(tmp_path / name.format("de"), "red", captions=["Ein rotes Quadrat."])
    with pytest.raises(SourceError, match=r"in 2 folders, .*: choose one of .*de, .*en") as raised:
        texts(tmp_path)
    named = str(raised.value).rpartition("data.path=")[2].rstrip(")")
    assert texts(Path(named)) == ["Ein rotes Quadrat."]


def test_parts_of_one_split_in_folders_of_their_own_are_one(tmp_path: Path) -> None:
    write(tmp_path / "train" / "part1" / "0.parquet", "red")
    write(tmp_path / "train" / "part2" / "0.parquet", "green")
    write(tmp_path / "test" / "0.parquet", "blue")
    assert texts(tmp_path) == ["A red square.", "A green square."]


def test_other_names_of_splits_and_files_without_one(tmp_path: Path) -> None:
    write(tmp_path / "data" / "val-00000-of-00002.parquet", "red")
    write(tmp_path / "data" / "val-00001-of-00002.parquet", "green")
    write(tmp_path / "data" / "restval-00000-of-00001.parquet", "blue")
    write(tmp_path / "extra.parquet", "white")
    for name in ("val", "validation", "dev"):
        assert texts(tmp_path, split=name) == ["A red square.", "A green square."]
    assert texts(tmp_path, split="restval") == ["A blue square."]
    assert texts(tmp_path, split="extra") == ["A white square."]
    with pytest.raises(SourceError, match="has no split 'train': choose one of extra, restval, validation"):
        texts(tmp_path)
    for name in ("a", "b"):
        write(tmp_path / "plain" / f"{name}.parquet", "red" if name == "a" else "green")
    assert len(texts(tmp_path / "plain")) == 2
    with pytest.raises(SourceError, match="no split 'test': choose one of train"):
        texts(tmp_path / "plain", split="test")


def test_one_file_and_saved_sets_have_the_split_that_they_are(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    write(tmp_path / "test-00000-of-00001.parquet", "red")
    for name in ("train", "test"):  # a file that is given by name is read for any split
        assert texts(tmp_path / "test-00000-of-00001.parquet", split=name) == ["A red square."]
    with pytest.raises(SourceError, match="no split 'val': choose one of test"):
        texts(tmp_path / "test-00000-of-00001.parquet", split="val")
    data = Dataset.from_dict({"image": [encoded("red")], "caption": ["A red square."]})
    data.save_to_disk(str(tmp_path / "one"))
    assert texts(tmp_path / "one") == ["A red square."]
    with pytest.raises(SourceError, match="no split 'nonsense': choose one of train"):
        texts(tmp_path / "one", split="nonsense")
    Dataset.from_dict(data.to_dict(), split="test").save_to_disk(str(tmp_path / "named"))
    assert texts(tmp_path / "named", split="test") == ["A red square."]
    with pytest.raises(SourceError, match="no split 'train': choose one of test"):
        texts(tmp_path / "named")
    DatasetDict({"train": data, "validation": data}).save_to_disk(str(tmp_path / "several"))
    assert texts(tmp_path / "several", split="val") == ["A red square."]
    with pytest.raises(SourceError, match="no split 'test': choose one of train, validation"):
        texts(tmp_path / "several", split="test")


@pytest.mark.parametrize("name", ["a[1]", "what?", "all*", "{x}", "a b", "é図"])
@pytest.mark.parametrize("layout", ["parquet", "folder", "saved", "dict"])
def test_signs_of_patterns_in_paths_are_letters(tmp_path: Path, name: str, layout: str) -> None:
    from datasets import Dataset, DatasetDict

    rows = {"image": ["x [1].png", "y.png"], "caption": ["A red square.", "A blue one."]}
    path = tmp_path / name
    data = Dataset.from_dict(rows)
    if layout == "saved":
        data.save_to_disk(str(tmp_path / "made"))
    elif layout == "dict":
        DatasetDict({"train": data}).save_to_disk(str(tmp_path / "made"))
    else:
        (tmp_path / "made").mkdir()
        data.to_parquet(str(tmp_path / "made" / "train.parquet"))
    (tmp_path / "made").rename(path)
    for file in rows["image"]:
        (path / file).write_bytes(encoded("red"))
    records = list(read("hf", path / "train.parquet" if layout == "parquet" else path))
    assert [r.captions for r in records] == [("A red square.",), ("A blue one.",)]
    assert all(r.image.bytes == encoded("red") for r in records)


def test_rows_of_one_image_are_one_image_also_apart_and_with_a_limit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captions = [f"Row {n}." for n in range(6)]
    write(tmp_path / "x.parquet", "red", "blue", "red", "blue", "red", "green", captions=captions)
    found = {r.image_id: r.captions for r in read("hf", tmp_path / "x.parquet")}
    assert found == {
        "00000001": ("Row 0.", "Row 2.", "Row 4."),
        "00000002": ("Row 1.", "Row 3."),
        "00000006": ("Row 5.",),
    }
    assert "5 rows share 2 images" in capsys.readouterr().out
    assert len(list(read("hf", tmp_path / "x.parquet", limit=2))) == 2


def test_ids_that_are_0_count_and_one_id_names_one_image(tmp_path: Path) -> None:
    rows = {
        "image": [encoded(c) for c in ("red", "blue", "red", "blue", "green")],
        "caption": list("abcde"),
        "key": [0, 1, 0, 0, None],
    }
    pq.write_table(pa.table(rows), tmp_path / "x.parquet")
    bad = BadRows(max_fraction=0.5)
    records = list(read("hf", tmp_path / "x.parquet", bad=bad, id_column="key"))
    assert [(r.image_id, r.captions) for r in records] == [("0", ("a", "c")), ("1", ("b",))]
    assert bad.reasons == {"duplicate id": 1, "row without id": 1}


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ('["A dog.", "A cat."]', ("A dog.", "A cat.")),
        ("['A dog.', \"A man's cat.\"]", ("A dog.", "A man's cat.")),
        (["A dog.", '["A cat.", "A cow."]'], ("A dog.", "A cat.", "A cow.")),
        ("[A dog on a bench]", ("[A dog on a bench]",)),
        ("('A dog.', \"A man's cat.\")", ("A dog.", "A man's cat.")),
        ("('A dog.',)", ("A dog.",)),
        ("(a dog, a cat)", ("(a dog, a cat)",)),
        ("{'raw': 'A dog.'}", "a dictionary or bytes, stored as a string"),
        ("b'A dog.'", "a dictionary or bytes, stored as a string"),
        ("b is 'a letter'", ("b is 'a letter'",)),
        ('"A dog" it says.', ('"A dog" it says.',)),
        ("['A dog.' 'A cat.']", "cannot be parsed"),
        ('["A dog.", "A cat', ('["A dog.", "A cat',)),  # without a closing bracket it is a string
        ('["A dog." and]', "cannot be parsed"),
        ("[]", "row without caption"),
        ('["A dog.", null]', "row without caption"),
        ('[["A dog."]]', "is of type list, not a string"),
        ('{"raw": "A dog."}', "is of type dict, not a string"),
        ("[1, 2]", "is of type int, not a string"),
        (float("nan"), "row without caption"),
        (7, "is of type int, not a string"),
        (["A dog.", 7], "is of type int, not a string"),
        (b"A dog.", "is of type bytes, not a string"),
        ("half \ud83d", "a lone surrogate"),
    ],
)
def test_captions_of_a_row(caption: Any, expected: Any) -> None:
    from scramble.formats.checks import clean_captions
    from scramble.records import RecordError

    if isinstance(expected, tuple):
        assert tuple(clean_captions(caption)) == expected
        return
    with pytest.raises(RecordError, match=expected):
        clean_captions(caption)


def test_broken_files_are_one_line(tmp_path: Path) -> None:
    write(tmp_path / "x.parquet", *COLORS)
    whole = (tmp_path / "x.parquet").read_bytes()
    for name, content in {"half": whole[: len(whole) // 2], "empty": b"", "text": b"image,caption\n"}.items():
        (tmp_path / f"{name}.parquet").write_bytes(content)
        with pytest.raises(SourceError, match=rf"{name}\.parquet is not a readable parquet file") as error:
            texts(tmp_path / f"{name}.parquet")
        assert "\n" not in str(error.value)
    write(tmp_path / "d" / "a.parquet", "red")
    pq.write_table(pa.table({"image": [encoded("red")], "text": ["x"]}), tmp_path / "d" / "b.parquet")
    with pytest.raises(SourceError, match=r"b\.parquet has no column caption, only image, text"):
        texts(tmp_path / "d")


def test_the_message_about_a_table_with_images_names_its_source(tmp_path: Path) -> None:
    (tmp_path / "captions.jsonl").write_text('{"image": "a.png", "caption": "x"}')
    for path in (tmp_path, tmp_path / "captions.jsonl"):
        with pytest.raises(SourceError, match="data=image_folder"):
            texts(path)


def test_images_in_lists_of_one_and_a_column_used_twice(tmp_path: Path) -> None:
    rows = {"image": [["a.png"], ["a.png"], ["a.png", "b.png"]], "caption": ["x", "y", "z"], "path": ["a.png"] * 3}
    pq.write_table(pa.table(rows), tmp_path / "x.parquet")
    (tmp_path / "a.png").write_bytes(encoded("red"))
    bad = BadRows(max_fraction=0.5)
    assert [r.captions for r in read("hf", tmp_path / "x.parquet", bad=bad)] == [("x", "y")]
    assert bad.reasons == {"image is of type list, not a path": 1}
    (record,) = read("hf", tmp_path / "x.parquet", image_column="path", id_column="path")
    assert (record.image_id, record.captions) == ("a.png", ("x", "y", "z"))


def test_local_files_are_read_without_the_cache(tmp_path: Path) -> None:
    """With a file in place of the cache folder every write fails, even for root."""
    (tmp_path / "cache").write_text("")
    write(tmp_path / "run [1]" / "x.parquet", *COLORS)
    code = (
        "import sys; from scramble.records import *; from scramble.sources import read\n"
        "from scramble.storage.image_table import ImageTable; from scramble.storage.tables import write_table\n"
        "images = list(read('hf', sys.argv[1] + '/x.parquet')); write_table(sys.argv[1], ImageRecord, images)\n"
        "table = ImageTable(sys.argv[1]); assert all(table[i.image_id] == i.image for i in images)\n"
        "assert list(table) == [i.image_id for i in images] and len(table) == 6"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_DATASETS_CACHE": str(tmp_path / "cache" / "x")}
    command = [sys.executable, "-c", code, str(tmp_path / "run [1]")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("key", ["name", "revision"])
def test_settings_of_the_hub_alone_are_refused_for_local_files(tmp_path: Path, key: str) -> None:
    write(tmp_path / "en/train-00000-of-00001.parquet", "red")
    write(tmp_path / "de/train-00000-of-00001.parquet", "blue")
    with pytest.raises(SourceError, match=f"remove data.{key}, or"):
        texts(tmp_path, **{key: "de"})
    assert texts(tmp_path / "de") == ["A blue square."]


def test_paths_that_do_not_exist_are_short_messages(tmp_path: Path) -> None:
    message = r"does not exist: use a parquet or arrow file, a folder, .tar files \(shards/\*.tar\) or a hub id$"
    for path in ("nope/*.tar", "nope/shards.tar", "nope.parquet", "data/nope/train", f"{tmp_path}/nope"):
        with pytest.raises(SourceError, match=message):
            texts(Path(path))


def test_suffixes_in_capitals(tmp_path: Path) -> None:
    write(tmp_path / "x" / "TRAIN.PARQUET", "red")
    write(tmp_path / "x" / "test.Parquet", "blue")
    assert texts(tmp_path / "x") == texts(tmp_path / "x" / "TRAIN.PARQUET") == ["A red square."]
    assert texts(tmp_path / "x", split="test") == ["A blue square."]


def test_an_incomplete_set_of_files_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "data/train-00000-of-00003.parquet", "red")
    write(tmp_path / "data/train-00002-of-00003.parquet", "blue")
    write(tmp_path / "data/test-00000-of-00001.parquet", "green")
    assert texts(tmp_path) == ["A red square.", "A blue square."]
    assert "contains only 2 of the 3 files of train" in " ".join(capsys.readouterr().out.split())
    assert texts(tmp_path, split="test") == ["A green square."] and capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["x.ARROW", "x.feather"])
def test_arrow_files_by_other_names(tmp_path: Path, name: str) -> None:
    table = pa.table({"image": [encoded("red")], "caption": ["A red square."]})
    with pa.ipc.new_file(str(tmp_path / name), table.schema) as file:
        file.write_table(table)
    assert texts(tmp_path / name) == ["A red square."]
