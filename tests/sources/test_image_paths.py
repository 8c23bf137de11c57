"""Image paths written by other systems are found if possible; otherwise a one-line error names them and the fix."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from scramble import sources
from scramble.records import ImageRecord
from scramble.sources import BadRows, SourceError

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Fotos/Küche é.png") for form in ("NFC", "NFD"))
ANSWERS = {"chosen": "A dog.", "rejected": "A cat."}


def image_folder(folder: Path, name: str) -> tuple[Path, dict[str, Any]]:
    (folder / "captions.jsonl").write_text(json.dumps({"image": name, "caption": "A dog."}) + "\n", encoding="utf-8")
    return folder, {}


def coco(folder: Path, name: str) -> tuple[Path, dict[str, Any]]:
    content = {"images": [{"id": 1, "file_name": name}], "annotations": [{"image_id": 1, "caption": "A dog."}]}
    (folder / "captions_x.json").write_text(json.dumps(content), encoding="utf-8")
    return folder / "captions_x.json", {"images": folder}


def hf(folder: Path, name: str) -> tuple[Path, dict[str, Any]]:
    pq.write_table(pa.table({"image": [name], "caption": ["A dog."]}), folder / "x.parquet")
    return folder / "x.parquet", {}


def scramble_release(folder: Path, name: str) -> tuple[Path, dict[str, Any]]:
    prompt = {"from": "human", "value": "<image>\ncaption:"}
    answers = {
        key: [prompt, {"from": "gpt", "value": text}]
        for key, text in (("conversations", "A dog."), ("rejected_conversations", "A cat."))
    }
    (folder / "x.json").write_text(json.dumps([{"id": 1, "image": name, **answers}]), encoding="utf-8")
    return folder / "x.json", {"images": folder}


def mmpr(folder: Path, name: str) -> tuple[Path, dict[str, Any]]:
    (folder / "x.jsonl").write_text(json.dumps({"image": name, "question": "What?", **ANSWERS}) + "\n")
    (folder / "meta.json").write_text(json.dumps({"x": {"root": ".", "annotation": "x.jsonl"}}))
    return folder, {}


def questions(folder: Path, name: str) -> tuple[Path, dict[str, Any]]:
    (folder / "x.jsonl").write_text(json.dumps({"image": name, "question": "What?", "answer": "A dog."}) + "\n")
    return folder / "x.jsonl", {}


MAKERS = {made.__name__: made for made in (image_folder, coco, hf, scramble_release, mmpr, questions)}


def images(kind: str, path: Path, bad: BadRows, options: dict[str, Any]) -> Iterator[ImageRecord]:
    kind = "pairs" if kind in ("scramble_release", "mmpr") else kind
    for bundle in sources.read_bundles(kind, path, bad, **options):
        yield from bundle.images


@pytest.mark.parametrize(
    ("on_disk", "written"),
    [
        (COMPOSED, DECOMPOSED),  # a table made on macOS
        (DECOMPOSED, COMPOSED),  # an archive made on macOS
        ("Fotos/a b.PNG", "Fotos\\a b.PNG"),
        ("Fotos/a b.PNG", ".\\Fotos\\a b.PNG"),
        ("Fotos/a.png", "Fotos/a.png "),
        (DECOMPOSED, COMPOSED.replace("/", "\\")),
        ("Fotos/a.png", "./Fotos/a.png"),
        ("back\\slash.png", "back\\slash.png"),  # a valid character here: the exact path takes precedence
    ],
)
@pytest.mark.parametrize("kind", list(MAKERS))
def test_names_of_other_systems_are_found(kind: str, on_disk: str, written: str, tmp_path: Path) -> None:
    (tmp_path / on_disk).parent.mkdir(exist_ok=True)
    Image.new("RGB", (12, 8), "red").save(tmp_path / on_disk)
    path, options = MAKERS[kind](tmp_path, written)
    (record,) = images(kind, path, BadRows(), options)
    assert record.image.open().getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("https://example.org/a.jpg", "image is a URL, not a path .download the images first."),
        ("file:///home/me/a.jpg", "image is a URL"),
        ("data:image/png;base64,AAAA", "image is a URL"),
        ("A" * 5000, "image is a string that is too long for a path"),
    ],
)
@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind != "mmpr"])  # its message differs
def test_urls_and_encoded_images_in_place_of_paths_are_named(
    kind: str, name: str, message: str, tmp_path: Path
) -> None:
    path, options = MAKERS[kind](tmp_path, name)
    with pytest.raises(SourceError, match=rf"the only row cannot be used. The error is: .*{message}") as raised:
        list(images(kind, path, BadRows(), options))
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 800


@pytest.mark.parametrize("kind", list(MAKERS))
def test_images_that_are_all_missing_point_to_the_key_of_their_folder(kind: str, tmp_path: Path) -> None:
    path, options = MAKERS[kind](tmp_path, "gone.png")
    with pytest.raises(SourceError, match=r"missing image|unreadable image") as raised:
        list(images(kind, path, BadRows(), options))
    assert ("Set data.images to" in str(raised.value)) == (kind not in ("hf", "mmpr"))  # these have no such key


def test_a_file_that_is_not_an_image_gets_the_same_message_each_time(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"<!DOCTYPE html><html>404</html>")
    path, options = image_folder(tmp_path, "a.jpg")
    with pytest.raises(SourceError, match=r"a.jpg cannot be decoded .not an image, or in a format that Pillow"):
        list(images("image_folder", path, BadRows(), options))
