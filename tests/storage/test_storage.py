"""Tests records on disk: round trips, loading with `datasets`, atomic writes, resumable stages."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from scramble.pipeline.stage import ANOTHER_ARM, run_stage
from scramble.records import Edit, ImageFile, ImageRecord, PreferencePair, Question, RecordError, TwoByTwoItem
from scramble.storage.files import StoreError, atomic_path, read_json, stage_status
from scramble.storage.hashing import content_key, file_key
from scramble.storage.image_table import ImageTable
from scramble.storage.jsonl import JsonLines, read_jsonl
from scramble.storage.tables import read_table, table_path, write_table
from scramble.training.resume import changes_since_stage


def png(colour: tuple[int, int, int] = (200, 30, 30)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(buffer, format="PNG")
    return buffer.getvalue()


RECORDS: list[Any] = [
    ImageRecord("a", ImageFile(bytes=png()), ("a red box", "a box"), "test", {"objects": [{"name": "box"}]}),
    PreferencePair(
        "p",
        ("a",),
        "caption:",
        "a red box",
        "a blue box",
        "replace-attribute",
        "rule",
        (Edit((2, 5), (2, 6)),),
        7,
        "test",
        {"grammar": 0.5},
    ),
    Question("q", ("a",), "What colour?", "red", "colour", ("red",), ("red", "blue"), ("The box is red.",)),
    TwoByTwoItem("w", ("a", "b"), ("a red box", "a blue box"), "swap-attribute", ("seen",)),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: type(r).__name__)
def test_round_trip(record: Any, tmp_path: Path) -> None:
    many = [record] * 205  # more than two row groups
    assert write_table(tmp_path, type(record), many) == 205
    assert list(read_table(tmp_path, type(record))) == many


def test_datasets_opens_the_tables_and_decodes_images(tmp_path: Path) -> None:
    from datasets import load_dataset

    for record in RECORDS:
        write_table(tmp_path, type(record), [record])
        file = str(table_path(tmp_path, type(record)))
        (row,) = load_dataset("parquet", data_files=file, split="train", cache_dir=str(tmp_path / "cache"))
        if isinstance(record, ImageRecord):
            assert row["image"].size == (8, 6)
            assert row["captions"] == ["a red box", "a box"]


def test_a_table_without_images_is_an_empty_mapping(tmp_path: Path) -> None:
    write_table(tmp_path, ImageRecord, [])
    assert dict(ImageTable(tmp_path)) == {} and "image" not in ImageTable(tmp_path)


def test_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_table(tmp_path / folder, ImageRecord, [RECORDS[0]] * 3)
    assert file_key(tmp_path / "one") == file_key(tmp_path / "two")


def test_missing_and_broken_tables_are_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"pairs\.parquet is missing"):
        list(read_table(tmp_path, PreferencePair))
    table_path(tmp_path, PreferencePair).write_bytes(b"PAR1 torn")
    with pytest.raises(StoreError, match=r"pairs\.parquet cannot be read"):
        list(read_table(tmp_path, PreferencePair))


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P"])
def test_every_image_mode_opens_as_rgb(mode: str) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (5, 4)).save(buffer, format="JPEG" if mode == "CMYK" else "PNG")
    assert ImageFile(bytes=buffer.getvalue()).open().mode == "RGB"


def test_exif_rotation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by a quarter turn
    buffer = io.BytesIO()
    Image.new("RGB", (5, 3)).save(buffer, format="JPEG", exif=exif)
    assert ImageFile(bytes=buffer.getvalue()).open().size == (3, 5)


def test_bad_images_name_their_file(tmp_path: Path) -> None:
    empty, torn = tmp_path / "empty.png", tmp_path / "torn.png"
    empty.write_bytes(b"")
    torn.write_bytes(png()[:40])
    for path, reason in ((tmp_path / "none.png", "No such file"), (empty, "is empty"), (torn, "cannot be decoded")):
        with pytest.raises(RecordError, match=reason) as caught:
            ImageFile(path=str(path)).open()
        assert path.name in str(caught.value)


def test_pairs_refuse_empty_and_equal_texts() -> None:
    with pytest.raises(RecordError, match="pair x: chosen and rejected must not be empty"):
        PreferencePair("x", (), "p", " ", "b", "k")
    with pytest.raises(RecordError, match="pair x: chosen and rejected are the same text"):
        PreferencePair("x", (), "p", "b", "b", "k")


def test_atomic_write_keeps_the_old_file_when_the_writer_fails(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(KeyError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_jsonl_repairs_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": 2')
    assert list(read_jsonl(path)) == [{"a": 1}]
    with JsonLines(path) as rows:
        rows.append({"a": 3})
    assert list(read_jsonl(path)) == [{"a": 1}, {"a": 3}]


MARKED = [("utf-8-sig", ""), ("utf-16", ""), ("utf-32", ""), ("utf-16-le", "\ufeff"), ("utf-16-be", "\ufeff")]


@pytest.mark.parametrize(("encoding", "mark"), MARKED)
def test_json_with_a_byte_order_mark_is_read_in_its_encoding(tmp_path: Path, encoding: str, mark: str) -> None:
    rows = [{"caption": "a café at dusk"}, {"caption": "naïve 図"}]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows)
    (tmp_path / "rows.jsonl").write_bytes((mark + lines).encode(encoding))
    (tmp_path / "rows.json").write_bytes((mark + json.dumps(rows, ensure_ascii=False)).encode(encoding))
    assert list(read_jsonl(tmp_path / "rows.jsonl")) == read_json(tmp_path / "rows.json") == rows


@pytest.mark.parametrize("inside", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r", "\t"])
def test_what_other_readers_take_for_a_line_end_stays_within_its_string(tmp_path: Path, inside: str) -> None:
    lines = [f'{{"caption": "one{inside}two", "n": {number}}}' for number in range(3)]
    (tmp_path / "rows.jsonl").write_bytes("\n".join(lines).encode())
    (tmp_path / "rows.json").write_bytes(f"[{', '.join(lines)}]".encode())
    expected = [{"caption": f"one{inside}two", "n": number} for number in range(3)]
    assert list(read_jsonl(tmp_path / "rows.jsonl")) == read_json(tmp_path / "rows.json") == expected


def test_jsonl_with_carriage_returns_as_line_ends_is_read(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b'{"a": "x"}\r{"a": "y"}\r\r{"a": "z"}\r')
    assert [row["a"] for row in read_jsonl(tmp_path / "rows.jsonl")] == ["x", "y", "z"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{"a": "caf\xe9"}\n{"a": 2}\n', "line 2: the line is not JSON"),
        (b'{"a": 1} {"a": 2}\n', "line 1: the line is not JSON .unexpected text"),
        (b"[" * 100_000 + b"\n", "line 1: the line is not JSON .it is nested too deeply"),
        ("\ufeff".encode("utf-16-le") + b"{\x00\x00\xd8\x22\n", "not valid UTF-16"),
    ],
)
def test_jsonl_that_cannot_be_read_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(StoreError, match=message) as error:
        list(read_jsonl(tmp_path / "rows.jsonl"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\xe9", b"[" * 100_000, b"{", b"\xff\xfe{"])
def test_json_that_cannot_be_read_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rows.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"cannot read .*rows\.json") as error:
        read_json(tmp_path / "rows.json")
    assert "\n" not in str(error.value)


def test_jsonl_names_the_line_that_is_broken_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\nnonsense\n{"a": 2}\n')
    with pytest.raises(StoreError, match="line 2"):
        list(read_jsonl(path))


def test_content_key_depends_on_content_not_on_order() -> None:
    assert content_key({"a": 1, "b": [1, 2]}) == content_key({"b": [1, 2], "a": 1})
    assert content_key({"a": 1}) != content_key({"a": 2})


def test_the_folder_of_failed_work_can_be_taken_by_other_settings(tmp_path: Path) -> None:
    def fails(folder: Path) -> dict[str, Any]:
        write_table(folder / "train", Question, [])
        (folder / "replies.jsonl").write_text("kept")
        raise ValueError("no such path")

    with pytest.raises(ValueError, match="no such path"):
        run_stage(tmp_path, {"path": "/nope"}, fails)
    assert run_stage(tmp_path, {"path": "/good"}, lambda _: {"n": 1}) == ({"n": 1}, "done")
    assert not list(tmp_path.rglob("*.parquet")) and (tmp_path / "replies.jsonl").exists()


def test_failed_work_takes_no_file_of_the_users_with_it(tmp_path: Path) -> None:
    def fails(_: Path) -> dict[str, Any]:
        raise ValueError("no such column")

    own = tmp_path / "captions.parquet"
    own.write_bytes(b"the source of the data, in the folder that they go to")
    with pytest.raises(ValueError, match="no such column"):
        run_stage(tmp_path, {"caption_column": "txt"}, fails)
    run_stage(tmp_path, {"caption_column": "text"}, lambda _: {})
    assert own.exists()


def test_a_stage_is_reused_resumed_or_refused(tmp_path: Path) -> None:
    calls = []

    def work(folder: Path) -> dict[str, int]:
        calls.append(folder)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return {"n": 3}

    with pytest.raises(KeyboardInterrupt):
        run_stage(tmp_path, {"seed": 1}, work)
    assert stage_status(tmp_path) == "stopped"
    assert run_stage(tmp_path, {"seed": 1}, work) == ({"n": 3}, "resumed")
    assert run_stage(tmp_path, {"seed": 1}, work) == ({"n": 3}, "reused")
    assert len(calls) == 2
    with pytest.raises(StoreError, match=r"model\.path \(a -> b\), seed \(1 -> 2\)") as caught:
        run_stage(tmp_path / "x", {"seed": 1, "model": {"path": "a"}}, lambda _: {})
        run_stage(tmp_path / "x", {"seed": 2, "model": {"path": "b"}}, lambda _: {})
    assert "Choose another run folder (name=... or run.dir=...), restore the settings" in str(caught.value)
    with pytest.raises(StoreError, match=r"Choose another arm \(run.arm=...\), restore"):
        run_stage(tmp_path, {"seed": 2}, work, instead=ANOTHER_ARM)
    assert read_json(tmp_path / "stage.json")["config"] == {"seed": 1}


def test_a_setting_that_repeats_its_default_does_not_change_a_stage(tmp_path: Path) -> None:
    changes = partial(changes_since_stage, model={})

    def run(summary: int, **trainer: Any) -> tuple[dict[str, Any], str]:
        config = {"trainer": {"beta": 0.1, **trainer}, "peft": {"r": 8}}
        return run_stage(tmp_path, config, lambda _: {"n": summary}, changes=changes)

    assert run(1) == ({"n": 1}, "done")
    assert run(2, adam_beta1=0.9, lr_scheduler_type="cosine") == ({"n": 1}, "reused")
    with pytest.raises(StoreError, match=r"different settings: trainer\.adam_beta1 \(0\.9 -> 0\.8\)\. Choose"):
        run(3, adam_beta1=0.8)
    with pytest.raises(StoreError, match=r"different settings: trainer\.beta \(0\.2 -> 0\.1\)"):
        run_stage(tmp_path / "other", {"trainer": {"beta": 0.2}, "peft": {"r": 8}}, lambda _: {}, changes=changes)
        run_stage(tmp_path / "other", {"trainer": {}, "peft": {"r": 8}}, lambda _: {}, changes=changes)


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot write"):
        run_stage(tmp_path / "file", {}, lambda _: {})


def test_what_a_killed_writer_left_goes_with_the_next(tmp_path: Path) -> None:
    code = f"""
import os, signal
from scramble.records import TwoByTwoItem
from scramble.storage.tables import open_table
with open_table({str(tmp_path)!r}, TwoByTwoItem):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert [path.name.startswith(".quads.parquet.") for path in tmp_path.iterdir()] == [True]
    write_table(tmp_path, TwoByTwoItem, [record for record in RECORDS if isinstance(record, TwoByTwoItem)])
    assert [path.name for path in tmp_path.iterdir()] == ["quads.parquet"]


def test_image_table_is_shared_by_processes_and_threads_and_keeps_memory_flat(tmp_path: Path) -> None:
    import pickle
    from concurrent.futures import ThreadPoolExecutor

    data = {f"i{n}": bytes([n % 256]) * 10_000 for n in range(450)}
    write_table(tmp_path, ImageRecord, (ImageRecord(name, ImageFile(value)) for name, value in data.items()))
    table = ImageTable(tmp_path)
    table.GROUP_CACHE = 2_500_000  # two groups of a hundred
    names = list(data) * 2
    with ThreadPoolExecutor(4) as pool:
        assert [image.bytes for image in pool.map(table.__getitem__, names)] == [data[name] for name in names]
    assert len(table._groups) == 2 and list(table) == list(data) and len(table) == 450
    again = pickle.loads(pickle.dumps(table))
    assert again["i449"].bytes == data["i449"] and "nothing" not in again


def test_image_table_that_is_broken_is_named(tmp_path: Path) -> None:
    table_path(tmp_path, ImageRecord).write_bytes(b"PAR1 no")
    with pytest.raises(StoreError, match=r"images\.parquet cannot be read as a table of images"):
        ImageTable(tmp_path)
