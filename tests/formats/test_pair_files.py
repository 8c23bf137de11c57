"""Pair files of other projects in every supported format give the same pairs, or a one-line error."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scramble.formats import FormatError, read_pairs
from scramble.formats.layout import Layout
from scramble.records import Turn

TEXTS = [
    ("A red car, next to a blue bus.", "A blue car, next to a red bus."),
    ("Two dogs on a couch.", "Three dogs on a couch."),
    ("Zwei „Hüte“\u2028auf dem Tisch.", "Drei „Hüte“\u2028auf dem Tisch."),
]


def rows_of(make: Callable[[str, str, str], dict[str, Any]]) -> list[dict[str, Any]]:
    return [make(f"{n}.jpg", *texts) for n, texts in enumerate(TEXTS)]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def typed(role: str, text: str, images: int = 0) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "image"}] * images + [{"type": "text", "text": text}]}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


FORMS: dict[str, Callable[[str, str, str], dict[str, Any]]] = {
    "trl": lambda i, c, r: {"image": i, "prompt": "Describe.", "chosen": c, "rejected": r},
    "trl vision": lambda i, c, r: {
        "images": [i],
        "prompt": [typed("user", "Describe.", 1)],
        "chosen": [typed("assistant", c)],
        "rejected": [typed("assistant", r)],
    },
    "ultrafeedback": lambda i, c, r: {
        "images": i,
        "prompt": "Describe.",
        "chosen": [user("Describe."), said(c)],
        "rejected": [user("Describe."), said(r)],
    },
    "implicit prompt": lambda i, c, r: {
        "image": i,
        "chosen": [user("Describe."), said(c)],
        "rejected": [user("Describe."), said(r)],
    },
    "RLAIF-V": lambda i, c, r: {"image": {"path": i}, "question": "Describe.", "chosen": c, "rejected": r, "idx": 0},
    "RLAIF-V, messages": lambda i, c, r: {
        "image": {"path": i},
        "question": "Describe.",
        "chosen": [said(c)],
        "rejected": [said(r)],
    },
    "MMPR": lambda i, c, r: {"image": i, "question": "<image>\nDescribe.", "chosen": c, "rejected": r},
    "LLaMA-Factory": lambda i, c, r: {
        "conversations": [{"from": "human", "value": "<image>Describe."}],
        "chosen": {"from": "gpt", "value": c},
        "rejected": {"from": "gpt", "value": r},
        "images": [i],
    },
    "LLaMA-Factory, alpaca": lambda i, c, r: {"instruction": "Describe.", "chosen": c, "rejected": r, "images": [i]},
    "ms-swift": lambda i, c, r: {
        "messages": [user("<image>Describe."), said(c)],
        "rejected_response": r,
        "images": [i],
    },
    "ms-swift, messages": lambda i, c, r: {
        "messages": [user("<image>Describe."), said(c)],
        "rejected_messages": [user("Describe."), said(r)],
        "images": [i],
    },
    "SCRAMBLe": lambda i, c, r: {
        "id": "1",
        "image": i,
        "conversations": [{"from": "human", "value": "Describe."}, {"from": "gpt", "value": c}],
        "rejected_conversations": [{"from": "human", "value": "Describe."}, {"from": "gpt", "value": r}],
    },
    "LLaVA-RLHF": lambda i, c, r: {
        "image": i,
        "conversations": [
            {"from": "human", "value": "Describe.\n<image>"},
            {"from": "gpt", "value": "Another."},
        ],
        "output_1": {"from": "llava", "value": r},
        "output_2": {"from": "llava", "value": c},
        "preference": 2,
    },
    "OpenAI": lambda i, c, r: {
        "input": {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": i}}, {"type": "text", "text": "Describe."}],
                }
            ]
        },
        "preferred_output": [said(c)],
        "non_preferred_output": [said(r)],
    },
    "null prompt": lambda i, c, r: {"image": i, "prompt": None, "question": "Describe.", "chosen": c, "rejected": r},
}


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_give_the_same_pairs(tmp_path: Path, form: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows_of(FORMS[form])), "utf-8")
    pairs = list(read_pairs(path))
    assert [(p.chosen, p.rejected) for p in pairs] == TEXTS
    assert [p.image_ids for p in pairs] == [("0",), ("1",), ("2",)]
    assert {p.prompt for p in pairs} == {"Describe."}


def as_csv(rows: list[dict[str, Any]], delimiter: str = ",") -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def test_all_containers_and_encodings_give_the_same_pairs(tmp_path: Path) -> None:
    rows = rows_of(FORMS["trl"])
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    array = json.dumps(rows, ensure_ascii=False, indent=2)
    files = {
        "a.jsonl": lines.encode(),
        "bom.jsonl": lines.encode("utf-8-sig"),
        "utf16.jsonl": lines.encode("utf-16"),
        "no_end.jsonl": lines.encode().rstrip(),
        "windows.jsonl": lines.replace("\n", "\r\n").encode(),
        "array.json": array.encode(),
        "bom.json": array.encode("utf-8-sig"),
        "lines.json": lines.encode(),
        "array.jsonl": array.encode(),
        "a.ndjson": lines.encode(),
        "A.JSONL": lines.encode(),
        "a.csv": as_csv(rows).encode(),
        "bom.csv": as_csv(rows).encode("utf-8-sig"),
        "excel.csv": as_csv(rows, ";").encode("utf-8-sig"),
        "a.tsv": as_csv(rows, "\t").encode(),
        "a.parquet": as_parquet(rows),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        pairs = list(read_pairs(tmp_path / name))
        assert [(p.chosen, p.rejected) for p in pairs] == TEXTS, name
        assert [p.image_ids for p in pairs] == [("0",), ("1",), ("2",)], name


def test_two_columns_and_negative_captions_are_enough(tmp_path: Path) -> None:
    for names in (("chosen", "rejected"), ("caption", "negative_caption"), ("response", "rejected_response")):
        rows = [dict(zip(names, texts, strict=True)) for texts in TEXTS]
        for suffix, data in ((".jsonl", "".join(json.dumps(row) + "\n" for row in rows)), (".csv", as_csv(rows))):
            (tmp_path / f"x{suffix}").write_text(data, "utf-8")
            pairs = list(read_pairs(tmp_path / f"x{suffix}"))
            assert [(p.chosen, p.rejected) for p in pairs] == TEXTS
            assert {p.image_ids for p in pairs} == {()} and {p.prompt for p in pairs} == {""}


def test_turns_before_the_prompt_are_its_history(tmp_path: Path) -> None:
    row = {"prompt": [{"role": "system", "content": "Be brief."}, user("Describe.")], "chosen": "a", "rejected": "b"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row) + "\n")
    (pair,) = read_pairs(tmp_path / "pairs.jsonl")
    assert pair.prompt == "Describe." and pair.history == (Turn("system", "Be brief."),)


# ---------------------------------------------------------------------------------------------------------- image ids


def ids_of(tmp_path: Path, images: list[Any]) -> list[tuple[str, ...]]:
    rows = [{"image": i, "prompt": "p", "chosen": f"c{n}", "rejected": "r"} for n, i in enumerate(images)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [pair.image_ids for pair in read_pairs(tmp_path / "x.jsonl")]


def test_images_of_one_name_in_many_folders_are_many_images(tmp_path: Path) -> None:
    names = [f"train/{n}/image.png" for n in range(60)]
    ids = ids_of(tmp_path, names * 2)
    assert len(set(ids)) == 60 and ids[:60] == ids[60:]  # the same path is the same image
    assert ids_of(tmp_path, ["a/1.jpg", "b/2.jpg"]) == [("1",), ("2",)]  # distinct names are not changed
    assert len(set(ids_of(tmp_path, ["1.png", "1.jpg", "./1.png", {"path": "a/1.png"}]))) == 3


def test_rows_without_an_image_are_not_rows_of_one_image(tmp_path: Path) -> None:
    assert ids_of(tmp_path, ["", None, []]) == [()] * 3
    for image in ({"path": None}, {"path": "", "bytes": None}, ["a.png", ""]):
        with pytest.raises(FormatError, match="an image is neither a path nor bytes"):
            ids_of(tmp_path, [image])


def test_embedded_images_are_the_same_if_their_bytes_are(tmp_path: Path) -> None:
    images = [
        {"bytes": b"one", "path": "image.png"},
        {"bytes": b"two", "path": "image.png"},
        {"bytes": b"one", "path": None},
    ]
    rows = [{"image": i, "prompt": "p", "chosen": f"c{n}", "rejected": "r"} for n, i in enumerate(images)]
    (tmp_path / "x.parquet").write_bytes(as_parquet(rows))
    first, second, third = (pair.image_ids for pair in read_pairs(tmp_path / "x.parquet"))
    assert first == ("image",) and second != first and third == first


def test_mmpr_sets_with_images_of_one_name_keep_them_apart(tmp_path: Path) -> None:
    meta = {name: {"root": f"images/{name}", "annotation": f"{name}.jsonl"} for name in ("a", "b")}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    for name in meta:
        row = {"image": "1.png", "question": "q", "chosen": f"c{name}", "rejected": "r"}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    assert len({pair.image_ids for pair in read_pairs(tmp_path)}) == 2


# ----------------------------------------------------------------------------------------------------------- bad rows

BAD: dict[str, Any] = {
    "rejected is not a string": {"prompt": "p", "chosen": "c", "rejected": None},
    "chosen is not a string": {"prompt": "p", "chosen": 3, "rejected": "r"},
    "empty chosen": {"prompt": "p", "chosen": " \n", "rejected": "r"},
    "chosen and rejected are the same text": {"prompt": "p", "chosen": "c", "rejected": " c\u2003"},
    "rejected ends with a turn by user, not by the assistant": {
        "prompt": "p",
        "chosen": [said("c")],
        "rejected": [said("r"), user("q")],
    },
    "chosen and rejected answer different prompts": {
        "chosen": [user("p"), said("c")],
        "rejected": [user("q"), said("r")],
    },
    "chosen contains a lone surrogate, which is not valid Unicode": {
        "prompt": "p",
        "chosen": "\ud83d",
        "rejected": "r",
    },
    "the value of image is neither an image nor a list of images": {
        "prompt": "p",
        "chosen": "c",
        "rejected": "r",
        "image": 3.5,
    },
    "an image is neither a path nor bytes": {"prompt": "p", "chosen": "c", "rejected": "r", "images": [["a"]]},
    "not a JSON object": ["c", "r"],
    "the column provenance has the invalid value 3 for kind": {
        "prompt": "p",
        "chosen": "c",
        "rejected": "r",
        "provenance": {"pair_id": "a", "kind": 3},
    },
}


def test_all_bad_rows_are_listed_with_number_and_reason(tmp_path: Path) -> None:
    good = [json.dumps(row) for row in rows_of(FORMS["trl"])]
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join([*good, *map(json.dumps, BAD.values()), '{"torn": "', *good[:1]]) + '\n{"prompt": "p", ')
    listed: list[tuple[int | str, str]] = []
    pairs = list(read_pairs(path, lambda file, row, reason, detail: listed.append((row, reason))))
    assert [p.chosen for p in pairs] == [TEXTS[0][0], TEXTS[1][0], TEXTS[2][0], TEXTS[0][0]]
    assert listed[: len(BAD)] == list(enumerate(BAD, 4))
    torn = listed[len(BAD) :]
    assert [row for row, _ in torn] == [15, 17] and all(reason.startswith("not JSON") for _, reason in torn)
    with pytest.raises(FormatError, match=r"x\.jsonl, row 4: rejected is not a string"):
        list(read_pairs(path))


def test_bad_rows_of_a_table_are_listed_by_line(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("image,chosen,rejected\n0.jpg,A cat, a dog and a bus,x\n1.jpg,A cat,\n2.jpg,A cat,A dog\n")
    listed: list[tuple[int | str, str]] = []
    (pair,) = read_pairs(path, lambda file, row, reason, detail: listed.append((row, reason)))
    assert pair.image_ids == ("2",)
    assert listed == [(2, "4 fields for 3 columns (put a text with ',' in double quotes)"), (3, "empty rejected")]
    path.write_text("image,good,bad\n0.jpg,A cat,A dog\n")
    with pytest.raises(FormatError, match=r"the columns \(image, good, bad\) match no known format; the nearest is"):
        list(read_pairs(path))


def test_conversations_with_one_answer_are_no_pairs(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "A cat."}]
    (tmp_path / "x.json").write_text(json.dumps([{"id": "0", "image": "0.jpg", "conversations": turns}]))
    with pytest.raises(FormatError, match=r"a row has only one answer, and a pair needs two: add a column .*questions"):
        list(read_pairs(tmp_path / "x.json"))
    with pytest.raises(FormatError, match=r"with data=questions\. The known formats"):
        list(read_pairs(tmp_path / "x.json", layout=Layout(columns={"image": "image"})))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_columns_of_a_table_may_have_other_names(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "x.csv"
    lines = (("Bild", "Frage", "gut", "schlecht"), ("0.jpg", "Was?", '"Ein Hund, eine Katze"', "Ein Bus"))
    path.write_text("".join(delimiter.join(line) + "\n" for line in lines))
    columns = {"chosen": "gut", "rejected": "schlecht", "image": "Bild", "prompt": "Frage"}
    (pair,) = read_pairs(path, layout=Layout(columns=columns))
    assert (pair.image_ids, pair.prompt) == (("0",), "Was?")
    assert (pair.chosen, pair.rejected) == ("Ein Hund, eine Katze", "Ein Bus")
    with pytest.raises(
        FormatError, match=r"columns \(Bild, Frage, gut, schlecht\) match no known format.*columns.reje"
    ):
        list(read_pairs(path, layout=Layout(columns={"chosen": "gut"})))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.json", b"{}", "does not contain a list of rows|empty"),
        ("x.json", b'{"chosen": ["a"], "rejected": ["b"]}', "because the keys are columns: write a list of rows"),
        (
            "x.json",
            b'{"chosen": {"0": "a"}, "rejected": {"0": "b"}}',
            "because the keys are columns: write a list of rows",
        ),
        ("x.json", b"[", "cannot read"),
        ("x.json", b"", "cannot read"),
        ("x.jsonl", '{"chosen": "Hüte", "rejected": "b"}\n'.encode("latin-1"), "not valid UTF-8"),
        ("x.parquet", b"PAR1 nothing PAR1", "not a readable parquet file"),
        ("pairs.parquet", b"", "not a readable parquet file"),
        ("x.bin", b"\x00\x01\xff", "cannot read"),
        ("x.json", b"[" * 100_000, "cannot read"),
        ("x.jsonl", b'{"a":' * 100_000 + b"\n", "not JSON"),
    ],
)
def test_broken_files_get_one_line(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    try:
        assert list(read_pairs(tmp_path / name)) == []
        assert name == "x.json" and data == b"{}"
    except (FormatError, RuntimeError) as error:
        import re

        assert type(error).__module__.startswith("scramble") and "\n" not in str(error)
        assert re.search(message, str(error)) and name in str(error)


def test_folders_of_exports_are_read_whole(tmp_path: Path) -> None:
    for n, texts in enumerate(TEXTS[:2]):
        row = {"prompt": "p", "chosen": texts[0], "rejected": texts[1]}
        (tmp_path / f"train-{n}.jsonl").write_text(json.dumps(row) + "\n")
    assert [p.chosen for p in read_pairs(tmp_path)] == [TEXTS[0][0], TEXTS[1][0]]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError, match=r"has no data files"):
        list(read_pairs(tmp_path / "empty"))


def test_one_row_in_a_json_file_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"prompt": "p", "chosen": "a", "rejected": "b"}\n')
    (pair,) = read_pairs(tmp_path / "x.json")
    assert (pair.prompt, pair.chosen, pair.rejected) == ("p", "a", "b")


@pytest.mark.parametrize("spell", [json.dumps, repr])
def test_conversations_that_a_table_holds_as_text_are_conversations(tmp_path: Path, spell: Any) -> None:
    def turns(text: str) -> str:
        return str(
            spell([{"role": "user", "content": "What's \u201cthis\u201d?"}, {"role": "assistant", "content": text}])
        )

    with (tmp_path / "x.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["chosen", "rejected"], [turns("A dog."), turns("A cat.")]])
    (pair,) = read_pairs(tmp_path / "x.csv")
    assert (pair.prompt, pair.chosen, pair.rejected) == ("What's \u201cthis\u201d?", "A dog.", "A cat.")
    (tmp_path / "x.jsonl").write_text(json.dumps({"chosen": "[{'role': 'assistant', oops}]", "rejected": "b"}) + "\n")
    with pytest.raises(FormatError, match="row 1: a conversation stored as a string cannot be parsed"):
        list(read_pairs(tmp_path / "x.jsonl"))


def test_long_blanks_are_read_in_linear_time() -> None:
    from scramble.formats.checks import clean_captions
    from scramble.formats.conversations import answer_of

    blanks = " " * 300_000
    assert answer_of(f"{blanks}a", "chosen") == ([], "a")
    assert clean_captions(f"[{blanks}a]") == ["[ a]"]
    assert clean_captions(f'[a"{blanks}b]') == ['[a" b]']


def test_images_known_by_name_id_or_bytes_alone_are_counted(tmp_path: Path) -> None:
    for key in ("filename", "image_path", "image_id"):
        rows = [{key: number % 2, "chosen": f"c{number}", "rejected": "b"} for number in range(4)]
        (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert [pair.image_ids for pair in read_pairs(tmp_path / "x.jsonl")] == [("0",), ("1",), ("0",), ("1",)]
    table = pa.table({"image": [b"one", b"two", b"one"], "chosen": ["a", "c", "d"], "rejected": ["b"] * 3})
    pq.write_table(table, tmp_path / "x.parquet")
    one, two, again = (pair.image_ids for pair in read_pairs(tmp_path / "x.parquet"))
    assert one == again and one != two and len(one) == 1


@pytest.mark.parametrize(("key", "values"), [("image", (12, 13)), ("images", (12, 13)), ("image", ([12], [13]))])
def test_numbers_name_images(tmp_path: Path, key: str, values: tuple[Any, ...]) -> None:
    """Numbers such as COCO's ids are valid names, because the audit opens no image and only needs to know which rows
    share one.
    """
    file = tmp_path / "pairs.jsonl"
    rows = [{key: value, "prompt": "x", "chosen": "a dog", "rejected": "a cat"} for value in (*values, values[0])]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [pair.image_ids for pair in read_pairs(file)] == [("12",), ("13",), ("12",)]
    file.write_text(json.dumps({**rows[0], key: True}) + "\n")
    with pytest.raises(FormatError, match="image is neither"):
        list(read_pairs(file))
