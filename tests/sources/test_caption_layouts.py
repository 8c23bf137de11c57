"""Captions in the layouts of imagefolder, Flickr8k, Flickr30k, img2dataset and WebDataset are read without options."""

from __future__ import annotations

import csv
import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scramble.pipeline.inputs import input_keys
from scramble.sources import BadRows, SourceError, read
from tests.sources.test_sources import encoded, write_images, write_jsonl


def captions(kind: str, path: Path, **options: Any) -> dict[str, tuple[str, ...]]:
    return {record.image_id: record.captions for record in read(kind, path, **options)}


@pytest.mark.parametrize("kind", ["image_folder", "coco"])
def test_many_captions_of_one_image_are_read_in_linear_time(tmp_path: Path, kind: str) -> None:
    expected = [f"Caption {n}." for n in range(40_000)]
    (tmp_path / "a.png").write_bytes(encoded("red"))
    if kind == "image_folder":
        path = tmp_path / "captions.jsonl"
        path.write_text("".join(json.dumps({"image": "a.png", "caption": text}) + "\n" for text in expected))
    else:
        path = tmp_path / "captions_x.json"
        annotations = [{"id": n, "image_id": 1, "caption": text} for n, text in enumerate(expected)]
        path.write_text(json.dumps({"images": [{"id": 1, "file_name": "a.png"}], "annotations": annotations}))
    (record,) = read(kind, path, images=tmp_path)
    assert record.captions == tuple(expected)


def test_imagefolder_metadata(tmp_path: Path) -> None:
    write_images(tmp_path / "train", "a.png", "b.png")
    rows = [{"file_name": "train/a.png", "text": "A red square."}, {"file_name": "train/b.png", "text": "Green."}]
    write_jsonl(tmp_path / "metadata.jsonl", rows)
    expected = {"train/a.png": ("A red square.",), "train/b.png": ("Green.",)}
    assert captions("image_folder", tmp_path) == expected
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "metadata.csv").write_text("file_name,text\ntrain/a.png,A red square.\ntrain/b.png,Green.\n")
    assert captions("image_folder", tmp_path) == expected


@pytest.mark.parametrize("name", ["mine.json", "mine.jsonl"])
def test_a_list_of_captions(tmp_path: Path, name: str) -> None:
    write_images(tmp_path, "a.png", "b.png")
    (tmp_path / "settings.json").write_text(json.dumps({"size": 3}))
    rows = [{"image": "a.png", "text": ["A red square.", "Red."]}, {"image": "b.png", "text": "Green."}]
    (tmp_path / name).write_text(json.dumps(rows, indent=1))
    expected = {"a.png": ("A red square.", "Red."), "b.png": ("Green.",)}
    assert captions("image_folder", tmp_path) == captions("image_folder", tmp_path / name) == expected
    with pytest.raises(SourceError, match=r"settings\.json does not contain a list of rows"):
        captions("image_folder", tmp_path / "settings.json", caption_column="text")


def test_flickr8k_with_its_image_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_images(tmp_path / "Images", "1.jpg", "2.jpg")
    (tmp_path / "other").mkdir()
    (tmp_path / "readme.txt").write_text("Flickr8k, a data set of captions.\n")
    (tmp_path / "captions.txt").write_text("image,caption\n1.jpg,A red square .\n1.jpg,A square .\n2.jpg,Green .\n")
    with caplog.at_level("INFO"):
        assert captions("image_folder", tmp_path) == {"1.jpg": ("A red square .", "A square ."), "2.jpg": ("Green .",)}
    assert f"the image paths are relative to {tmp_path / 'Images'} (data.images)" in caplog.text


def test_flickr30k_results_csv(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_images(tmp_path / "flickr30k_images", "1.jpg")
    lines = ["image_name| comment_number| comment", "1.jpg| 0| A red square .", "1.jpg| 1| Red , plain ."]
    (tmp_path / "results.csv").write_text("\n".join(lines) + "\n")
    with caplog.at_level("INFO"):
        assert captions("image_folder", tmp_path / "results.csv") == {"1.jpg": ("A red square .", "Red , plain .")}
    assert "the images are read from the column image_name of" in caplog.text
    assert "and the captions from the column comment" in caplog.text


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            "image,title,text,comment",
            r"the caption may be in the column text or comment: choose one of them \(data.caption_column=text",
        ),
        ("file_name,image_name,caption", r"the image may be in the column file_name or image_name: choose one of them"),
        ("file_name,vehicle,terrain", r"no column caption, only file_name, vehicle, terrain\."),
        ("photo,caption", r"no column image, only photo, caption\."),
    ],
)
def test_columns_that_cannot_be_recognised(tmp_path: Path, header: str, message: str) -> None:
    write_images(tmp_path, "a.png")
    row = ",".join("a.png" if name.endswith(("name", "image", "photo")) else "A square." for name in header.split(","))
    (tmp_path / "captions.csv").write_text(f"{header}\n{row}\n")
    with pytest.raises(SourceError, match=message):
        list(read("image_folder", tmp_path))


def test_usual_names_in_other_spellings(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    (tmp_path / "captions.csv").write_text("Image Name;Caption;Text\na.png;A red square.;none\n")
    assert captions("image_folder", tmp_path) == {"a.png": ("A red square.",)}


def test_text_files_next_to_the_images(tmp_path: Path) -> None:
    """img2dataset writes a text file and a JSON file for each image, and statistics and a table for each folder."""
    for shard, name, text in [("00000", "000000000", "A red square."), ("00001", "000010000", "A square.\n\nGreen.\n")]:
        write_images(tmp_path / shard, f"{name}.jpg")
        (tmp_path / shard / f"{name}.txt").write_text(text)
        (tmp_path / shard / f"{name}.json").write_text(json.dumps({"caption": text, "status": "success"}))
        (tmp_path / f"{shard}_stats.json").write_text("{}")
    write_images(tmp_path / "00001", "000010001.jpg")
    bad = BadRows(max_fraction=0.4)
    records = list(read("image_folder", tmp_path, bad=bad))
    assert [(record.image_id, record.captions) for record in records] == [
        ("00000/000000000.jpg", ("A red square.",)),
        ("00001/000010000.jpg", ("A square.", "Green.")),
    ]
    assert records[0].image.bytes == (tmp_path / "00000" / "000000000.jpg").read_bytes()
    assert bad.reasons == {"no caption file": 1}


def test_a_changed_text_file_of_the_same_size_changes_the_input(tmp_path: Path) -> None:
    write_images(tmp_path, "a.jpg")
    (tmp_path / "a.txt").write_text("A red square.")
    before = input_keys({"kind": "image_folder", "path": str(tmp_path)})
    (tmp_path / "a.txt").write_text("A big square.")
    assert input_keys({"kind": "image_folder", "path": str(tmp_path)}) != before


def test_an_image_that_is_not_embedded_can_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"damaged")
    data = {"kind": "image_folder", "path": str(tmp_path)}
    embedded, paths = input_keys(data | {"embed": True}), input_keys(data | {"embed": False})
    (tmp_path / "a.jpg").write_bytes(b"a good image")
    assert input_keys(data | {"embed": True}) != embedded
    assert input_keys(data | {"embed": False}) == paths
    (tmp_path / "b.jpg").write_bytes(b"a new image")
    assert input_keys(data | {"embed": False}) != paths


def test_text_files_and_images_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_images(tmp_path, "a.jpg", "b.jpg")
    for name in ("a", "b", "c", "readme"):
        (tmp_path / f"{name}.txt").write_text("A red square.")
    with caplog.at_level("INFO"):
        assert len(captions("image_folder", tmp_path)) == 2
    assert "the captions are read from .txt files next to the images (2 files)" in caplog.text
    assert "are not used (number of files: 2, first: c.txt)" in caplog.text


def test_a_folder_with_splits_names_the_setting(tmp_path: Path) -> None:
    """The folder of a data set in the layout of imagefolder contains one folder and one table per split."""
    for split in ("test", "train"):
        write_images(tmp_path / split, "a.png")
        (tmp_path / split / "metadata.csv").write_text("file_name,text\na.png,A red square.\n")
    train = re.escape(str(tmp_path / "train"))
    with pytest.raises(SourceError, match=rf"its sub-folders do \(train, test\).*\(data.path={train}\)"):
        list(read("image_folder", tmp_path))
    with pytest.raises(SourceError, match=rf"use data=image_folder data.path={train} "):
        list(read("hf", tmp_path))
    assert captions("image_folder", tmp_path / "train") == {"a.png": ("A red square.",)}


@pytest.mark.parametrize(
    ("rows", "fix"),
    [
        (
            [{"image": "no.png", "caption": "Red."}, {"image": "no2.png", "caption": "Red."}, {"image": "a.png"}],
            "Set data.images to the folder that the image paths are relative to",
        ),
        (
            [{"image": "a.png", "caption": 1}, {"image": "a.png"}, {"image": "no.png", "caption": "Red."}],
            "Set data.caption_column to the column with the captions",
        ),
        (
            [{"image": "a.png", "caption": {"en": "Red."}}],
            "to the column with the captions, or to a key in a column of dictionaries (column.key)",
        ),
        ([{"image": "a.png"}, {"image": "no.png", "caption": "Red."}], "Fix the rows"),
    ],
)
def test_the_error_names_the_setting_that_fixes_most_rows(tmp_path: Path, rows: list[Any], fix: str) -> None:
    write_images(tmp_path, "a.png")
    write_jsonl(tmp_path / "captions.jsonl", rows)
    with pytest.raises(SourceError, match=f"{re.escape(fix)}$"):
        list(read("image_folder", tmp_path))


@pytest.mark.parametrize("as_text", [False, True])
def test_captions_in_a_column_of_dictionaries(tmp_path: Path, as_text: bool) -> None:
    def stored(value: dict[str, str]) -> Any:
        return json.dumps(value) if as_text else value

    write_images(tmp_path, "a.png")
    rows = [{"image": "a.png", "json": stored({"key": "7", "Caption": "Red.", "title": "Square."})}]
    write_jsonl(tmp_path / "captions.jsonl", rows)
    bytes_rows = [{**row, "image": {"bytes": encoded("red"), "path": "a.png"}} for row in rows]
    pq.write_table(pa.Table.from_pylist(bytes_rows), tmp_path / "train.parquet")
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "json"], ["a.png", json.dumps({"caption": "Red.", "title": "Square."})]])
    for kind, name in [("image_folder", "captions.jsonl"), ("image_folder", "rows.csv"), ("hf", "train.parquet")]:
        assert list(captions(kind, tmp_path / name).values()) == [("Red.",)]
        named = captions(kind, tmp_path / name, caption_column="json.title")
        assert list(named.values()) == [("Square.",)]
        with pytest.raises(
            SourceError, match=r"no column json.heading, .*json has the keys .*title: set data.caption_c"
        ):
            captions(kind, tmp_path / name, caption_column="json.heading")
    assert list(captions("hf", tmp_path / "train.parquet", id_column="json.key")) == ["7"]


def write_shard(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows of fields: images as their colors, other fields as text or as JSON."""
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, row in enumerate(rows):
            for suffix, value in row.items():
                if suffix in ("jpg", "png", "webp"):
                    data = encoded(value, {"jpg": "JPEG"}.get(suffix, suffix.upper()))
                else:
                    data = (json.dumps(value) if suffix == "json" else str(value)).encode()
                member = tarfile.TarInfo(f"{path.stem}{number:04d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("path", ["shards", "shards/*.tar", "shards/00000.tar"])
def test_webdataset_shards(tmp_path: Path, path: str) -> None:
    for shard, pair in enumerate([("red", "green"), ("blue", "white")]):
        rows = [{"jpg": color, "json": {"caption": color}, "txt": f"A {color} square."} for color in pair]
        write_shard(tmp_path / "shards" / f"{shard:05d}.tar", rows)
    records = list(read("hf", tmp_path / path))
    colors = ["red", "green", "blue", "white"][: 2 if path.endswith("00000.tar") else 4]
    assert [record.captions for record in records] == [(f"A {color} square.",) for color in colors]
    assert [record.image.bytes for record in records] == [encoded(color, "JPEG") for color in colors]
    keys = input_keys({"kind": "hf", "path": str(tmp_path / path)})
    assert list(keys) == ["00000.tar", "00001.tar"][: len(colors) // 2]


def test_shards_with_different_fields(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first: list[dict[str, Any]] = [
        {"jpg": "red", "txt": "Red."},
        {"png": "green", "json": {"caption": "Green.", "exif": None}},
    ]
    second: list[dict[str, Any]] = [
        {"webp": "blue", "json": {"caption": "Blue.", "exif": {"iso": 1}}},
        {"jpg": "white", "text": "White."},
    ]
    write_shard(tmp_path / "00000.tar", first)
    write_shard(tmp_path / "00001.tar", second)
    with caplog.at_level("INFO"):
        records = list(read("hf", tmp_path, id_column="__key__"))
    assert {record.image_id: record.captions for record in records} == {
        "000000000": ("Red.",),
        "000000001": ("Green.",),
        "000010000": ("Blue.",),
        "000010001": ("White.",),
    }
    fields = "the images in jpg or png or webp and the captions in txt or json.caption or text"
    assert f"the shards contain {fields}" in caplog.text
    named = list(read("hf", tmp_path, bad=BadRows(max_fraction=0.5), image_column="jpg"))
    assert [record.captions for record in named] == [("Red.",), ("White.",)]


def test_shards_whose_captions_cannot_be_recognised(tmp_path: Path) -> None:
    write_shard(tmp_path / "keys.tar", [{"jpg": "red", "json": {"headline": "Red.", "width": 40}}])
    with pytest.raises(SourceError, match=r"no column caption, only jpg, json, .* json has the keys headline, width: "):
        captions("hf", tmp_path / "keys.tar")
    assert list(captions("hf", tmp_path / "keys.tar", caption_column="json.headline").values()) == [("Red.",)]
    write_shard(tmp_path / "both.tar", [{"jpg": "red", "text": "Red.", "txt": "Square."}])
    with pytest.raises(
        SourceError, match=r"both.tar: the caption may be in the column text or txt: choose one of them"
    ):
        captions("hf", tmp_path / "both.tar")
    assert list(captions("hf", tmp_path / "both.tar", caption_column="txt").values()) == [("Square.",)]


def test_a_truncated_shard_is_named(tmp_path: Path) -> None:
    write_shard(tmp_path / "cut.tar", [{"txt": "Red.", "jpg": "red"}])
    (tmp_path / "cut.tar").write_bytes((tmp_path / "cut.tar").read_bytes()[:1700])
    with pytest.raises(SourceError, match=r"cut.tar cannot be read completely .*: copy or download it again"):
        captions("hf", tmp_path / "cut.tar")
    (tmp_path / "text.tar").write_text("no shard" * 200)
    with pytest.raises(SourceError, match=r"text.tar cannot be read completely"):
        captions("hf", tmp_path / "text.tar")
