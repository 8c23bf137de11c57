"""Tests benchmark files as other tools write them, and files that are not images: the items are equal, or there is a
one-line error before the model is loaded.
"""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Picture

from scramble.engines.openai_server import parse_reply
from scramble.evaluation.benchmarks import load_benchmark
from scramble.evaluation.items import EvaluationError
from scramble.evaluation.runner import ModelId, evaluate
from scramble.records import RecordError
from tests.evaluation.benchmark_files import FILES, write_json, write_lines

NEW = (
    *("m3cot", "mathvision", "wemath", "logicvista", "chair", "object_halbench", "amber"),
    *("hallusionbench", "crpe", "mmhal", "llava_bench"),
)


def rewrite(path: Path, change: Any) -> None:
    """Apply a function to the list of rows of a JSON or JSON lines file."""
    text = path.read_text(encoding="utf-8")
    rows = json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    (write_json if path.suffix == ".json" else write_lines)(path, change(rows))


@pytest.mark.parametrize("name", NEW)
def test_a_byte_order_mark_and_windows_newlines_change_nothing(name: str, tmp_path: Path) -> None:
    root, options = FILES[name](tmp_path / "data")
    before = load_benchmark(name, root, **options)
    for path in [*root.rglob("*.json*"), *root.rglob("*.txt")]:
        text = path.read_text(encoding="utf-8").replace("\n", "\r\n")
        path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    after = load_benchmark(name, root, **options)
    assert after.items == before.items


@pytest.mark.parametrize(
    ("name", "file", "keys"),
    [
        ("m3cot", "test.jsonl", ("answer",)),
        ("mathvision", "test.jsonl", ("id", "level")),
        ("object_halbench", "obj_halbench_300_with_image.jsonl", ("image_id",)),
        ("amber", "query/query_all.json", ("id",)),
        ("amber", "annotations.json", ("id",)),
        ("hallusionbench", "HallusionBench.json", ("visual_input", "set_id", "figure_id", "question_id", "gt_answer")),
        ("llava_bench", "questions.jsonl", ("question_id",)),
        ("llava_bench", "answers_gpt4.jsonl", ("question_id",)),
    ],
)
def test_integers_that_became_floats_are_read(name: str, file: str, keys: tuple[str, ...], tmp_path: Path) -> None:
    """HallusionBench's figure 0 would otherwise not be recognised, and fAcc would change."""
    root, options = FILES[name](tmp_path / "data")
    before = load_benchmark(name, root, **options)
    rewrite(root / file, lambda rows: [{**row, **{key: float(row[key]) for key in keys}} for row in rows])
    assert load_benchmark(name, root, **options).items == before.items


@pytest.mark.parametrize(
    ("name", "file", "change", "message"),
    [
        ("amber", "annotations.json", {"truth": "yes"}, r"entry 4 of .*: id 4 has different content in an earlier"),
        ("llava_bench", "context.jsonl", {"caption": "B"}, r"entry 2 of .*: image 001.jpg has different content in an"),
        (
            "llava_bench",
            "answers_gpt4.jsonl",
            {"text": "B"},
            r"entry 4 of .*: question_id 3 has different content in an",
        ),
    ],
)
def test_two_different_rows_of_one_id_are_named(
    name: str, file: str, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    root, options = FILES[name](tmp_path / "data")
    rewrite(root / file, lambda rows: [*rows, rows[-1]])  # an equal row is harmless
    load_benchmark(name, root, **options)
    rewrite(root / file, lambda rows: [*rows[:-1], {**rows[-1], **change}])
    with pytest.raises(EvaluationError, match=message):
        load_benchmark(name, root, **options)


def test_two_images_of_one_id(tmp_path: Path) -> None:
    root, options = FILES["object_halbench"](tmp_path)
    Picture.new("RGB", (12, 8), (1, 2, 3)).save(root / "b.png")
    other = base64.b64encode((root / "b.png").read_bytes()).decode()
    file = root / "obj_halbench_300_with_image.jsonl"
    rewrite(file, lambda rows: [rows[0], rows[0], {**rows[0], "image": other}])
    with pytest.raises(
        EvaluationError, match=r"1 of 3 rows of .*: row 2: the image 0 differs from the image 0 in an earlier row"
    ):
        load_benchmark("object_halbench", root, **{**options, "partial": False})
    assert len(load_benchmark("object_halbench", root, **options).items) == 2


def test_annotations_whose_image_ids_are_texts(tmp_path: Path) -> None:
    root, options = FILES["chair"](tmp_path)
    notes = json.loads((root / "instances_val2014.json").read_text())
    notes["annotations"][1]["image_id"] = "1"
    write_json(root / "instances_val2014.json", notes)
    with pytest.raises(EvaluationError, match=r"instances_val2014.json .*the image_id of an annotation must be an int"):
        load_benchmark("chair", root, **options)


@pytest.mark.parametrize("content", [b"<html>404</html>", b"", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_image_is_named_before_the_model_is_loaded(content: bytes, tmp_path: Path) -> None:
    root, options = FILES["m3cot"](tmp_path)
    (root / "images" / "3.png").write_bytes(content)

    def load() -> Any:
        raise AssertionError("the model is loaded")

    with pytest.raises(
        RecordError,
        match=r"image 'images/3.png' cannot be used \(image .*/3.png.*\): replace the file and repeat",
    ) as caught:
        evaluate(
            load, [load_benchmark("m3cot", root, **options)], "default", tmp_path / "out", model_id=ModelId("m", "k")
        )
    assert "\n" not in str(caught.value)


def test_unusual_images_are_images(tmp_path: Path) -> None:
    """Images with CMYK colours, with 16 bits and with animation, whose names have the suffix of another format."""
    root, options = FILES["m3cot"](tmp_path)
    picture = Picture.new("RGB", (12, 8), (200, 10, 10))
    for number, (mode, form) in enumerate((("CMYK", "JPEG"), ("I;16", "PNG"), ("P", "GIF"), ("RGBA", "WEBP"))):
        made = picture.convert("L").convert(mode) if mode == "I;16" else picture.convert(mode)
        stream = io.BytesIO()
        made.save(stream, form, **({"save_all": True, "append_images": [made]} if form in ("GIF", "WEBP") else {}))
        (root / "images" / f"{number}.png").write_bytes(stream.getvalue())
    benchmark = load_benchmark("m3cot", root, **options)
    for image_id, image in benchmark.images.items():
        assert len(benchmark.image_hashes[image_id]) == 64 and image.open().mode == "RGB"


def test_half_an_emoji_in_a_judges_reply_can_be_stored() -> None:
    body = b'{"choices": [{"message": {"content": "Rating: 3 \\ud83d"}}]}'
    assert parse_reply(body).text == "Rating: 3 ?"
