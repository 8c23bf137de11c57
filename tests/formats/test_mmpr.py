"""Tests MMPR: reading and writing meta.json and rows, and the counts of InternVL's mixing rules."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scramble.formats import FormatError, read_pairs
from scramble.formats.mmpr import LineFile, MmprSet, mixture, read_meta, used_rows, write_meta
from scramble.formats.readers import from_mmpr

# Every field as in the released files, and one unknown field.
META = {
    "ai2d_correctness": {
        "root": "MMPR/images/ai2d",
        "annotation": "MMPR/annotations/ai2d.jsonl",
        "data_augment": False,
        "repeat_time": 0.5,
        "length": 3,
        "max_dynamic_patch": 12,
    },
    "text": {
        "root": "",
        "annotation": "MMPR/annotations/text.jsonl",
        "data_augment": True,
        "repeat_time": 2.7,
        "length": 1,
        "conversation_style": "plain",
    },
}


def write(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_meta_json_with_every_field_is_read_and_written_back_the_same(tmp_path: Path) -> None:
    path = tmp_path / "meta.json"
    path.write_text(json.dumps(META))
    first, second = read_meta(path)
    assert first == MmprSet("ai2d_correctness", "MMPR/images/ai2d", "MMPR/annotations/ai2d.jsonl", 0.5, 3, False, 12)
    assert (second.repeat_time, second.data_augment, second.max_dynamic_patch) == (2.7, True, None)
    assert second.other == {"conversation_style": "plain"}
    write_meta(tmp_path / "again.json", [first, second])
    assert json.loads((tmp_path / "again.json").read_text()) == META
    assert list(json.loads((tmp_path / "again.json").read_text())) == list(META)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "not a meta.json"),
        ("{}", "not a meta.json"),
        ("{", "cannot read"),
        ('{"a": {"root": "r"}}', "set 'a': the set needs a string in the field annotation"),
        ('{"a": 3}', "set 'a': the set must be a JSON object"),
        ('{"a": {"root": "r", "annotation": "x", "repeat_time": 0}}', "repeat_time has the invalid value 0"),
        ('{"a": {"root": "r", "annotation": "x", "repeat_time": "2"}}', "repeat_time has the invalid value '2'"),
        ('{"a": {"root": "r", "annotation": "x", "length": -1}}', "length has the invalid value -1"),
        ('{"a": {"root": "r", "annotation": "x", "data_augment": 1}}', "data_augment has the invalid value 1"),
        (
            '{"a": {"root": "r", "annotation": "x", "max_dynamic_patch": 0}}',
            "max_dynamic_patch has the invalid value 0",
        ),
        ('{"a": {"root": "r", "annotation": "x"}, "a": {}}', "the name 'a' occurs more than once"),
    ],
)
def test_what_is_no_meta_json_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "meta.json").write_text(text)
    with pytest.raises(FormatError, match=message):
        read_meta(tmp_path / "meta.json")


def test_repeat_time() -> None:
    assert sorted(used_rows(10, 1, 0)) == list(range(10))
    half = used_rows(1001, 0.5, 0)
    assert len(half) == 500 == len(set(half.tolist())) and max(half) > 900  # a sample, not the first half
    assert Counter(Counter(used_rows(10, 2.7, 0).tolist()).values()) == {2: 10}
    assert len(used_rows(10, 0.05, 0)) == 0
    assert used_rows(100, 0.29, 0).size == 29  # 0.29 * 100 is 28.999...


def test_sets_are_shuffled_with_their_index_as_seed() -> None:
    assert used_rows(50, 1, 0).tolist() == used_rows(50, 1, 0).tolist() != used_rows(50, 1, 1).tolist()
    assert used_rows(50, 1, 0).tolist() != list(range(50))


def test_resampling_draws_sets_by_the_root_of_their_length() -> None:
    """The lengths 10,000 and 100 give the weights 100 and 10. Of 10,100 draws, 918.2 (s.d. 28.9) are expected from the
    small set.
    """
    used = [used_rows(10_000, 1, 0), used_rows(100, 1, 1)]
    assert Counter(s for s, _ in mixture(used)) == {0: 10_000, 1: 100}
    drawn = list(mixture(used, resample=True, seed=5))
    counts = Counter(s for s, _ in drawn)
    assert len(drawn) == 10_100 and abs(counts[1] - 10_100 / 11) < 3.5 * 28.9
    rows = Counter(row for s, row in drawn if s == 1)
    assert set(rows) == set(range(100)) and max(rows.values()) - min(rows.values()) <= 1  # in turn, without omissions
    assert drawn == list(mixture(used, resample=True, seed=5)) != list(mixture(used, resample=True, seed=6))
    assert max(Counter(row for s, row in drawn if s == 0).values()) == 1


def test_lines_by_number(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"a": "\xc3\xa9"}\n\n{"b": 2}\n{"c": 3}')
    lines = LineFile(tmp_path / "a.jsonl")
    assert len(lines) == 3 and json.loads(lines[0]) == {"a": "é"} and json.loads(lines[2]) == {"c": 3}
    with pytest.raises(FormatError, match=r"gone\.jsonl"):
        LineFile(tmp_path / "gone.jsonl")


@pytest.mark.parametrize(
    ("row", "images", "prompt"),
    [
        ({"image": "a.png", "question": "What?"}, ["a.png"], "What?"),
        ({"image": "a.png", "question": "<image>\nWhat?\n"}, ["a.png"], "What?\n"),
        ({"image": ["a.png", "b.png"], "question": "<image>\n<image>\nWhich?"}, ["a.png", "b.png"], "Which?"),
        ({"image": ["a.png", "b.png"], "question": "A: <image> B: <image>"}, ["a.png", "b.png"], "A:  B:"),
        ({"question": "Why?"}, [], "Why?"),
        ({"image": None, "question": "Why?"}, [], "Why?"),
        ({"image": [], "question": "Why?"}, [], "Why?"),
        ({"image": "", "question": "Why?"}, [], "Why?"),
    ],
)
def test_rows_with_one_image_several_or_none(row: dict[str, Any], images: list[str], prompt: str) -> None:
    parsed = from_mmpr({**row, "chosen": "c", "rejected": "r"})
    assert parsed.images == images and [message.text for message in parsed.messages] == [prompt]
    assert (parsed.chosen, parsed.rejected) == ("c", ("r",))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"chosen": ""}, "empty chosen"),
        ({"rejected": " \n"}, "empty rejected"),
        ({"rejected": None}, "rejected is not a string"),
        ({"question": 3}, "question is not a string"),
        ({"question": "<image> What?"}, "1 image placeholder for 0 images"),
        ({"question": "<image><image> What?", "image": "a.png"}, "2 image placeholders for 1 image"),
        ({"video": "a.mp4"}, "video"),
    ],
)
def test_rows_that_cannot_be_used(row: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        from_mmpr({"question": "q", "chosen": "c", "rejected": "r", **row})


def test_read_pairs_takes_a_meta_json_its_folder_or_one_file(tmp_path: Path) -> None:
    rows = [{"image": "1.png", "question": "What?", "chosen": f"c{n}", "rejected": "r"} for n in range(3)]
    write(tmp_path / "MMPR/annotations/ai2d.jsonl", rows)
    write(tmp_path / "MMPR/annotations/text.jsonl", [{"question": "Why?", "chosen": "c", "rejected": "r"}])
    (tmp_path / "MMPR" / "meta.json").write_text(json.dumps(META))
    pairs = list(read_pairs(tmp_path / "MMPR"))
    assert pairs == list(read_pairs(tmp_path / "MMPR" / "meta.json"))
    assert [p.pair_id for p in pairs] == [*(f"ai2d_correctness/{n:07d}" for n in (1, 2, 3)), "text/0000001"]
    assert pairs[0].image_ids == ("1",) and pairs[3].image_ids == () and pairs[3].kind == "text"
    assert [p.chosen for p in read_pairs(tmp_path / "MMPR/annotations/ai2d.jsonl")] == ["c0", "c1", "c2"]
    assert np.array_equal(used_rows(3, 0.5, 0), used_rows(3, 0.5, 0))
