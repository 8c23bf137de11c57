"""Captions in the layouts of imagefolder, Flickr8k, Flickr30k, img2dataset and WebDataset are read without options."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from scramble.pipeline.inputs import input_keys
from scramble.sources import BadRows, SourceError, read
from tests.sources.test_sources import encoded, write_images, write_jsonl


def captions(kind: str, path: Path, **options: Any) -> dict[str, tuple[str, ...]]:
    return {record.image_id: record.captions for record in read(kind, path, **options)}


def test_imagefolder_metadata(tmp_path: Path) -> None:
    write_images(tmp_path / "train", "a.png", "b.png")
    rows = [{"file_name": "train/a.png", "text": "A red square."}, {"file_name": "train/b.png", "text": "Green."}]
    write_jsonl(tmp_path / "metadata.jsonl", rows)
    expected = {"train/a.png": ("A red square.",), "train/b.png": ("Green.",)}
    assert captions("image_folder", tmp_path) == expected
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "metadata.csv").write_text("file_name,text\ntrain/a.png,A red square.\ntrain/b.png,Green.\n")
    assert captions("image_folder", tmp_path) == expected


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
    assert "has the images in the column image_name and the captions in the column comment" in caplog.text


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            "image,title,text,comment",
            r"the caption may be in the column text or comment: choose one of them \(data.caption_column=text",
        ),
        ("file_name,image_name,caption", r"the image may be in the column file_name or image_name: choose one of them"),
        ("file_name,vehicle,terrain", r"no column caption; it has file_name, vehicle, terrain\."),
        ("photo,caption", r"no column image; it has photo, caption\."),
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


@pytest.mark.parametrize("path", ["shards", "shards/*.tar", "shards/00000.tar"])
def test_webdataset_shards(tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "shards").mkdir()
    for shard in range(2):
        with tarfile.open(tmp_path / "shards" / f"{shard:05d}.tar", "w") as tar:
            for number, color in enumerate(("red", "green") if shard == 0 else ("blue", "white")):
                content = {
                    "jpg": encoded(color, "JPEG"),
                    "json": json.dumps({"caption": color}).encode(),
                    "txt": f"A {color} square.".encode(),
                }
                for suffix, data in content.items():
                    member = tarfile.TarInfo(f"{shard:05d}{number:04d}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    records = list(read("hf", tmp_path / path))
    colors = ["red", "green", "blue", "white"][: 2 if path.endswith("00000.tar") else 4]
    assert [record.captions for record in records] == [(f"A {color} square.",) for color in colors]
    assert [record.image.bytes for record in records] == [encoded(color, "JPEG") for color in colors]
    keys = input_keys({"kind": "hf", "path": str(tmp_path / path)})
    assert list(keys) == ["00000.tar", "00001.tar"][: len(colors) // 2]
