"""Tests damaged pair files: the audit's readers return complete texts, a list of bad rows, or a one-line error, but
never a traceback.

A valid file of each form is damaged once, by seed. The valid outcomes depend on the damage:

* rows (truncated, duplicated, columns dropped, types changed): every row is a pair of complete texts or a bad row;
* encodings: the original pairs, or an error;
* bytes (flipped, removed, inserted, truncated): no text is shortened without a bad row or an error.
"""

from __future__ import annotations

import copy
import io
import json
import random
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scramble.formats import FORMATS, read_pairs
from scramble.formats import write as write_export
from scramble.pairs.audit.audit import audit_pairs
from scramble.records import PreferencePair
from scramble.reporting.audit_page import write_audit_page
from scramble.storage.tables import write_table
from tests.formats.test_formats import IMAGES, PAIRS, read
from tests.formats.test_pair_files import FORMS, as_csv

TEXTS = [
    (f"A {a} car, next to {n} \N{LATIN SMALL LETTER U WITH DIAERESIS}ber-bus \u2028 \u201cx\u201d.", f"A {b} car, {n}.")
    for n, (a, b) in enumerate((("red", "blue"), ("black", "white"), ("green", "grey"), ("tall", "short")))
]
ODD: tuple[Any, ...] = (
    None,
    3,
    1.5,
    True,
    [],
    {},
    "",
    "  ",
    ["x"],
    {"a": 1},
    [None],
    [[]],
    [{}],
    float("nan"),
    "\ud800",
    "nul \0 nul",
    "line\nbreak",
    "\u2028",
    "\u0085",
    "x" * 10_000,
    {"bytes": "abc"},
    {"path": 3},
    "<image>",
    -1,
    10**30,
)


def as_parquet(rows: list[Any]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer, write_page_checksum=True)
    return buffer.getvalue()


def as_lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_utf8_lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "surrogatepass")


def as_sugarcrepe(rows: list[Any]) -> bytes:
    return json.dumps({str(3 * n): row for n, row in enumerate(rows)}, indent=1).encode()


def sugarcrepe_row(image: str, chosen: str, rejected: str) -> dict[str, Any]:
    return {"filename": image, "caption": chosen, "negative_caption": rejected}


def own_row(image: str, chosen: str, rejected: str) -> dict[str, Any]:
    record = {
        "pair_id": image,
        "image_ids": ["0"],
        "kind": "swap",
        "rule": "r",
        "edits": [[[0, 1], [0, 1]]],
        "seed": 1,
        "source": "s",
        "scores": {"a": 0.5},
        "details": {"a": "b"},
    }
    return {**FORMS["trl vision"](image, chosen, rejected), "provenance": record}


FLAT = {name: FORMS[name] for name in ("trl", "LLaMA-Factory, alpaca")} | {
    "two columns": lambda i, c, r: {"chosen": c, "rejected": r}
}
ROWS: dict[str, Callable[..., dict[str, Any]]] = {**FORMS, "own": own_row, "two columns": FLAT["two columns"]}
del ROWS["SCRAMBLe"]  # this format normalises white space, which changes the texts
FILES: list[tuple[str, str, dict[str, Any], Callable[[list[Any]], bytes]]] = [
    ("jsonl", "x.jsonl", ROWS, as_lines),
    ("jsonl-utf8", "x.jsonl", ROWS, as_utf8_lines),
    ("json", "x.json", ROWS, lambda rows: json.dumps(rows, indent=1).encode()),
    ("parquet", "x.parquet", ROWS, as_parquet),
    ("csv", "x.csv", FLAT, lambda rows: as_csv(rows).encode("utf-8", "surrogatepass")),
    ("csv-semicolon", "x.csv", FLAT, lambda rows: as_csv(rows, ";").encode("utf-8", "surrogatepass")),
    ("tsv", "x.tsv", FLAT, lambda rows: as_csv(rows, "\t").encode("utf-8", "surrogatepass")),
    ("sugarcrepe", "swap_obj.json", {"sugarcrepe": sugarcrepe_row}, as_sugarcrepe),
    ("mmpr", "a.jsonl", {"MMPR": FORMS["MMPR"]}, as_lines),
]


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths to all values within a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*at, key)
        yield from places(inner, (*at, key))


def damage_rows(rows: list[Any], rng: random.Random, flat: bool) -> list[Any]:
    """Return rows with one fault. Flat rows (of a table) remain objects with the same columns."""
    rows = copy.deepcopy(rows)
    how = rng.choice(("type", "type", "type", "drop row", "double row", "drop everywhere", "drop", "no object"))
    if how == "type" or (flat and how in ("drop", "no object")):
        *way, last = rng.choice([place for place in places(rows) if len(place) > 1])
        inner: Any = rows
        for key in way:
            inner = inner[key]
        inner[last] = rng.choice(ODD)
    elif how == "drop row":
        del rows[rng.randrange(len(rows))]
    elif how == "double row":
        rows.append(rng.choice(rows))
    elif how == "drop everywhere":
        name = rng.choice(list(rows[0]))
        rows = [{key: value for key, value in row.items() if key != name} for row in rows]
    elif how == "drop":
        row = rng.choice(rows)
        del row[rng.choice(list(row))]
    else:
        rows[rng.randrange(len(rows))] = rng.choice((None, 3, "x", [], {}, ["a", "b"]))
    return rows


def damage_bytes(data: bytes, rng: random.Random) -> bytes:
    place, size = rng.randrange(len(data)), rng.choice((1, 1, 2, 20))
    how = rng.choice(("flip", "flip", "any", "cut out", "put in", "cut off"))
    if how == "flip":
        return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]
    if how == "any":
        return data[:place] + rng.choice((b'"', b"\n", b"\0", b",", b"{", b"\\", b"\xff", b"\r")) + data[place + 1 :]
    if how == "cut out":
        return data[:place] + data[place + size :]
    if how == "put in":
        return data[:place] + rng.randbytes(size) + data[place:]
    return data[:place]


ENCODINGS = ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1252", "\r\n", "\r")


def recode(data: bytes, name: str) -> bytes:
    text = data.decode()
    if name in ("\r\n", "\r"):
        return text.replace("\r\n", "\n").replace("\n", name).encode()
    return text.encode(name, "replace" if name in ("latin-1", "cp1252") else "strict")


def outcome(path: Path) -> tuple[list[Any], list[Any], str]:
    """Return the pairs, the bad rows, and the message of an error of this package. Any other error is a fault of the
    reader.
    """
    bad: list[Any] = []
    pairs: list[Any] = []
    try:
        pairs.extend(read_pairs(path, lambda file, row, reason, detail: bad.append((row, reason))))
    except (ValueError, RuntimeError) as error:
        assert type(error).__module__.startswith("scramble.") and "\n" not in str(error), repr(error)
        assert path.name in str(error) or "meta.json" in str(error)
        return pairs, bad, str(error)
    assert all("\n" not in reason for _, reason in bad)
    return pairs, bad, ""


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for place in places(value):
        inner = value
        for key in place:
            inner = inner[key]
        if isinstance(inner, str):
            yield inner


def check(kind: str, folder: Path, rng: random.Random) -> None:
    _, name, forms, write = next(entry for entry in FILES if entry[0] == kind)
    make = forms[rng.choice(sorted(forms))]
    rows: list[Any] = [make(f"{n}.jpg", *texts) for n, texts in enumerate(TEXTS)]
    path, flat = folder / name, name.endswith((".csv", ".tsv"))
    if kind == "mmpr":
        (folder / "meta.json").write_text(json.dumps({"a": {"root": "", "annotation": name}}))
    target = folder if kind == "mmpr" else path
    how = rng.choice(("rows", "bytes", "encoding"))
    if how == "encoding" and kind != "parquet":
        path.write_bytes(recode(write(rows), rng.choice(ENCODINGS)))
        pairs, bad, error = outcome(target)
        assert error or bad or [(p.chosen, p.rejected) for p in pairs] == [(c.strip(), r.strip()) for c, r in TEXTS]
        allowed = {text for texts in TEXTS for text in texts}
        # In one-byte encodings only ASCII rows can be read, with "?" for characters outside of the encoding.
        assert all(t in allowed or "?" in t for p in pairs for t in (p.chosen, p.rejected))
    elif how == "bytes":
        path.write_bytes(damage_bytes(write(rows), rng))
        pairs, bad, error = outcome(target)
        ends_open = flat and not path.read_bytes().endswith((b"\n", b"\r"))  # nothing marks the end of a table
        whole = {text for texts in TEXTS for text in texts}
        for pair in pairs[: -1 if ends_open else None]:
            for text in (pair.chosen, pair.rejected):
                short = text not in whole and any(text in other and len(other) - len(text) > 25 for other in whole)
                assert not short or bad or error, text
    else:
        damaged = damage_rows(rows, rng, flat)
        try:
            path.write_bytes(write(damaged))
        except (ValueError, TypeError, OverflowError, AttributeError):
            return  # this file format cannot store it
        except Exception as failure:  # an error of Arrow: columns of mixed types
            assert type(failure).__module__.startswith("pyarrow"), repr(failure)
            return
        pairs, bad, error = outcome(target)
        if not any(isinstance(row, dict) and row for row in damaged[:1]):
            return  # Arrow takes the columns from the first row
        allowed_texts = {text.strip() for text in strings(damaged)} | {str(odd).strip() for odd in ODD if flat}
        assert all(p.chosen.strip() in allowed_texts and p.rejected.strip() in allowed_texts for p in pairs)
        assert error or len(pairs) + len(bad) == len(damaged)
    if pairs and rng.random() < 0.2:
        result = audit_pairs(pairs)
        json.dumps(result)
        write_audit_page(folder / "audit.html", result, pairs)


def run(kind: str, seeds: range, tmp_path: Path, check: Callable[[str, Path, random.Random], None] = check) -> None:
    for seed in seeds:
        folder = tmp_path / f"{kind}-{seed}"
        folder.mkdir()
        try:
            check(kind, folder, random.Random(zlib.crc32(kind.encode()) + seed))
        except BaseException as error:
            error.add_note(f"kind {kind}, seed {seed}, in {folder}")
            raise


def check_import(name: str, folder: Path, rng: random.Random) -> None:
    """Damage an export of :mod:`scramble.formats`, or this project's own table, and read it back with its images."""
    if name == "own table":
        write_table(folder, PreferencePair, PAIRS * 5)
        path = folder / "pairs.parquet"
    else:
        path, _ = write_export(name, IMAGES, PAIRS[:2], folder)
    data = path.read_bytes()
    rows: list[Any] = []
    if path.suffix == ".json":
        rows = json.loads(data)
    elif path.suffix == ".jsonl":
        rows = [json.loads(line) for line in data.split(b"\n") if line]
    if rows and rng.random() < 0.5:
        rows = damage_rows(rows, rng, flat=False)
        path.write_bytes(json.dumps(rows).encode() if path.suffix == ".json" else as_lines(rows))
    else:
        path.write_bytes(damage_bytes(data, rng))
    try:
        if name == "own table":
            list(read_pairs(folder))
        else:
            read(path)
    except (ValueError, RuntimeError) as error:
        assert type(error).__module__.startswith("scramble.") and "\n" not in str(error), repr(error)
        assert str(folder) in str(error)


KINDS = [entry[0] for entry in FILES]


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_pair_files(tmp_path: Path, kind: str) -> None:
    run(kind, range(8), tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS)
def test_many_damaged_pair_files(tmp_path: Path, kind: str) -> None:
    run(kind, range(8, 308), tmp_path)


@pytest.mark.parametrize("name", [*FORMATS, "own table"])
def test_damaged_exports(tmp_path: Path, name: str) -> None:
    run(name, range(3), tmp_path, check_import)


@pytest.mark.full
@pytest.mark.parametrize("name", [*FORMATS, "own table"])
def test_many_damaged_exports(tmp_path: Path, name: str) -> None:
    run(name, range(3, 153), tmp_path, check_import)
