"""Tests damaged input files: every outcome is a valid result or a one-line error, and no text is silently shortened.

A valid file is damaged in a typical way, chosen by the seed, and read. Its content can change (a flipped bit can make
another letter), so the records are not compared with the original ones. But each caption must have its original length,
or its row must be rejected.
"""

from __future__ import annotations

import csv
import io
import json
import random
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from scramble import sources
from scramble.sources import BadRows

ROWS = 12
WORDS = ["a red dog", "two black cats, seen from above", "café; naïve", "one | two", 'a "quoted" word', "x\ty", "it's"]
FAST, FULL = 60, 2100  # cases per reader


def caption(number: int) -> str:
    """Return a text with its row number at both ends, so that missing parts are detectable."""
    return f"Row {number:02d}: {WORDS[number % len(WORDS)]} and so on until the very end {number:02d}#"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number in range(ROWS):
        Image.new("RGB", (4, 4), (number * 20, 0, 0)).save(folder / f"{number}.png")
    return folder


# ------------------------------------------------------------------------------------- valid files: bytes and reading

Rows = list[dict[str, Any]]


def table(rows: Rows) -> bytes:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(dict.fromkeys(key for row in rows for key in row)), quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode("utf-8", "surrogatepass")


def lines(rows: Rows) -> bytes:
    text = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
    return text.encode("utf-8", "surrogatepass")


def coco(rows: Rows) -> bytes:
    pictures = [{"id": n, "file_name": row.get("image")} for n, row in enumerate(rows)]
    texts = [{"id": row.get("id"), "image_id": n, "caption": row.get("caption")} for n, row in enumerate(rows)]
    return json.dumps({"images": pictures, "annotations": texts}, ensure_ascii=False, default=str).encode(
        "utf-8", "surrogatepass"
    )


def release(rows: Rows) -> bytes:
    def turns(text: Any) -> Any:
        return [{"from": "human", "value": "<image>\ncaption:"}, {"from": "gpt", "value": text}]

    content = [
        {
            "id": row.get("id"),
            "image": row.get("image"),
            "conversations": turns(row.get("caption")),
            "rejected_conversations": turns("No."),
        }
        for row in rows
    ]
    return json.dumps(content, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")


def parquet(rows: Rows) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {}
    for key in dict.fromkeys(key for row in rows for key in row):
        values = [row.get(key) for row in rows]
        try:
            columns[key] = pa.array(values)
        except (pa.ArrowException, UnicodeError, OverflowError):  # a column has one type
            columns[key] = pa.array([repr(value).encode("utf-8", "replace").decode() for value in values])
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream, compression="none", write_page_checksum=True)
    return stream.getvalue()


def as_list(rows: Rows) -> bytes:
    return json.dumps(rows, ensure_ascii=False, default=str, indent=1).encode("utf-8", "surrogatepass")


def asked(rows: Rows) -> Rows:
    return [{"question": row.get("caption"), **{k: v for k, v in row.items() if k != "caption"}} for row in rows]


def questions(rows: Rows) -> bytes:
    return lines(asked(rows))


def list_of_questions(rows: Rows) -> bytes:
    return as_list(asked(rows))


def table_of_questions(rows: Rows) -> bytes:
    return table(asked(rows))


def mmpr(rows: Rows) -> bytes:
    return lines([{"chosen": row.get("caption"), "rejected": "No.", "question": "?", **row} for row in rows])


def gqa(rows: Rows) -> bytes:
    questions_by_id = {
        str(row.get("id")): {
            "imageId": str(row.get("image")).removesuffix(".png"),
            "question": row.get("caption"),
            "answer": "yes",
        }
        for row in rows
    }
    return json.dumps(questions_by_id, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")


def graphs(rows: Rows) -> bytes:
    entries = [
        {
            "image_id": str(row.get("image")).removesuffix(".png"),
            "relationships": [row.get("id")],
            "objects": [{"object_id": row.get("id"), "names": [row.get("caption")], "attributes": row.get("id")}],
        }
        for row in rows
    ]
    return json.dumps(entries, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")


# name -> function that writes rows, file name, kind of source, options
READERS: dict[str, tuple[Callable[[Rows], bytes], str, str, dict[str, Any]]] = {
    "csv": (table, "captions.csv", "image_folder", {"id_column": "id"}),
    "jsonl": (lines, "captions.jsonl", "image_folder", {"id_column": "id"}),
    "json": (as_list, "captions.json", "image_folder", {"id_column": "id"}),
    "coco": (coco, "captions_images.json", "coco", {}),
    "release": (release, "release.json", "release", {}),
    "parquet": (parquet, "captions.parquet", "hf", {"id_column": "id"}),
    "questions": (questions, "questions.jsonl", "questions", {}),
    "questions, json": (list_of_questions, "questions.json", "questions", {}),
    "questions, csv": (table_of_questions, "questions.csv", "questions", {}),
    "mmpr": (mmpr, "rows.jsonl", "mmpr", {}),
    "gqa": (gqa, "asked.json", "gqa", {}),
    "visual_genome": (graphs, "graphs.json", "visual_genome", {}),
}


def read(kind: str, file: Path, folder: Path, options: dict[str, Any]) -> tuple[list[str], BadRows]:
    """Return the texts of a file, and the rejected rows. Errors of the reader are passed on."""
    bad = BadRows(max_fraction=1.0)
    if kind == "release":
        bundles = list(sources.read_bundles("pairs", file, bad, images=folder, format="scramble"))
        return [text for bundle in bundles for image in bundle.images for text in image.captions], bad
    if kind == "mmpr":
        (file.parent / "meta.json").write_text(json.dumps({"s": {"root": str(folder), "annotation": file.name}}))
        bundles = list(sources.read_bundles("pairs", file.parent, bad, **options))
        return [pair.chosen for bundle in bundles for pair in bundle.pairs], bad
    if kind == "questions":
        bundles = list(sources.read_bundles(kind, file, bad, images=folder, **options))
        return [question.question for bundle in bundles for question in bundle.questions], bad
    if kind in ("gqa", "visual_genome"):
        if kind == "gqa":
            whole: dict[str, Any] = {str(number): {"objects": {}} for number in range(ROWS)}
            (file.parent / "graphs.json").write_text(json.dumps(whole))
        questions_file = "asked.json" if kind == "gqa" else None
        found = sources.read_bundles(
            kind, file.parent, bad, graphs="graphs.json", questions=questions_file, images=str(folder), **options
        )
        bundles = list(found)
        if kind == "gqa":
            return [question.question for bundle in bundles for question in bundle.questions], bad
        things = [thing for bundle in bundles for thing in (bundle.images[0].graph or {})["objects"]]
        return [str(thing["name"]) for thing in things], bad
    if kind != "hf":
        options = options | {"images": folder}
    return [text for record in sources.read(kind, file, bad=bad, **options) for text in record.captions], bad


# --------------------------------------------------------------------------------------------------------- the damage

ODD: list[Any] = [
    None,
    "",
    " ",
    0,
    -1,
    1.5,
    float("nan"),
    float("inf"),
    True,
    [],
    ["x"],
    [None],
    {},
    {"a": 1},
    "\x00",
    "\ud800",
    '["a", "b"]',
    "[",
    "\u2028",
    "../x.png",
    "/etc/hostname",
    "x" * 70_000,
    10**30,
    "<image>",
    "\ufeff",
    '"',
    "0.png",
]


def damaged(rows: Rows, write: Callable[[Rows], bytes], draw: random.Random) -> tuple[bytes, str]:
    """Return the bytes of a damaged file, and the kind of damage."""
    rows = [dict(row) for row in rows]
    how = draw.choice(
        ["flip", "flip", "cut", "cut", "insert", "drop", "type", "type", "column", "twice", "encoding", "remove"]
    )
    if how == "type":
        for _ in range(draw.choice([1, 1, 3])):
            draw.choice(rows)[draw.choice(["id", "image", "caption"])] = draw.choice(ODD)
    elif how == "column":
        key = draw.choice(["id", "image", "caption"])
        for row in rows if draw.random() < 0.5 else draw.sample(rows, 3):
            row.pop(key, None)
    elif how == "twice":
        rows.insert(draw.randrange(len(rows)), dict(draw.choice(rows)))
    data = write(rows)
    if how == "flip":
        changed = bytearray(data)
        for _ in range(draw.choice([1, 1, 2, 8])):
            place = draw.randrange(len(changed))
            changed[place] ^= 1 << draw.randrange(8)
        data = bytes(changed)
    elif how == "cut":
        data = data[: draw.randrange(len(data))]
    elif how == "remove":
        start = draw.randrange(len(data))
        data = data[:start] + data[start + draw.choice([1, 2, 16, 200]) :]
    elif how == "insert":
        start = draw.randrange(len(data))
        piece = draw.choice(
            [b"\n", b"\r", b"\r\n", b'"', b",", b"\x00", b"\xff", b"\xef\xbb\xbf", b"{", b"]", b"[" * 3000]
        )
        data = data[:start] + piece + data[start:]
    elif how == "drop":
        parts = data.split(b"\n")
        del parts[draw.randrange(len(parts))]
        data = b"\n".join(parts)
    elif how == "encoding" and write is not parquet:
        text = data.decode("utf-8")
        name = draw.choice(["utf-8-sig", "utf-16", "utf-32", "latin-1", "utf-16-le", "cp1252", "utf-7"])
        data = text.encode(name, "replace")
    return data, how


def check(name: str, seed: int, images: Path, folder: Path) -> str:
    """Read one damaged file and return the outcome. Fails on a traceback, a long message, or a shortened text."""
    write, file_name, kind, options = READERS[name]
    draw = random.Random(f"{name} {seed}")
    rows: Rows = [{"id": n, "image": f"{n}.png", "caption": caption(n)} for n in range(ROWS)]
    if kind == "hf":
        rows = [row | {"image": (images / str(row["image"])).read_bytes()} for row in rows]
    data, how = damaged(rows, write, draw)
    file = folder / file_name
    file.write_bytes(data)
    try:
        texts, bad = read(kind, file, images, dict(options))
    except Exception as error:
        assert type(error).__module__.startswith("scramble."), (
            f"{name}, seed {seed} ({how}): {type(error).__name__}: {error}"
        )
        assert "\n" not in str(error), f"{name}, seed {seed} ({how}): {error}"
        return "message"
    assert bad.used
    whole = {f"{number:02d}": len(" ".join(caption(number).split())) for number in range(ROWS)}
    for text in texts:
        named = re.match(r"Row (\d\d): ", text)
        if how == "type" or bad.rejected or not named or named[1] not in whole:
            continue
        length = min(whole[named[1]], whole.get(text[-3:-1], 1000))  # a flipped bit can change the number
        allowed = {"flip": 8, "remove": 200}.get(how, 0)  # a removed stretch can lie within one text
        assert length - len(text) <= allowed, f"{name}, seed {seed} ({how}): {text!r}"
    return "rejected rows" if bad.rejected else "clean"


def outcomes(name: str, seeds: range, images: Path, folder: Path) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in seeds:
            yield check(name, seed, images, folder)


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_refused_in_one_line(name: str, images: Path, tmp_path: Path) -> None:
    assert {"message", "rejected rows"} <= set(outcomes(name, range(FAST), images, tmp_path))


@pytest.mark.full
@pytest.mark.parametrize("name", READERS)
def test_many_damaged_files_are_read_or_refused_in_one_line(name: str, images: Path, tmp_path: Path) -> None:
    assert set(outcomes(name, range(FAST, FULL + FAST), images, tmp_path)) == {"clean", "rejected rows", "message"}


@pytest.mark.parametrize("name", READERS)
def test_the_whole_file_is_read_whole(name: str, images: Path, tmp_path: Path) -> None:
    write, file_name, kind, options = READERS[name]
    rows: Rows = [{"id": n, "image": f"{n}.png", "caption": caption(n)} for n in range(ROWS)]
    if kind == "hf":
        rows = [row | {"image": (images / str(row["image"])).read_bytes()} for row in rows]
    (tmp_path / file_name).write_bytes(write(rows))
    texts, bad = read(kind, tmp_path / file_name, images, dict(options))
    assert sorted(" ".join(text.split()) for text in texts) == sorted(" ".join(caption(n).split()) for n in range(ROWS))
    assert bad.rejected == 0
