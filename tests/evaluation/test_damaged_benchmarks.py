"""Loading a damaged benchmark file gives the complete benchmark, another count that the version records, or a one-line
error."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Picture

from scramble.evaluation.benchmarks import load_benchmark
from scramble.evaluation.items import Benchmark, CaptionChoice, EvaluationError, Item, QueryReply
from scramble.evaluation.protocols import named_protocol, queries
from scramble.evaluation.scoring.outcomes import outcome
from scramble.records import ImageFile, ImageRecord, PreferencePair, Question, RecordError, TwoByTwoItem
from scramble.storage.files import StoreError
from scramble.storage.tables import write_table
from tests.evaluation.benchmark_files import FILES, HUB, PART, BenchmarkFiles

ODD: tuple[Any, ...] = (None, 0, -1, 5, 2.5, float("nan"), True, "", " ", "x", [], {}, ["x"], {"x": 1}, [[]], 10**30)
ENCODINGS = ("latin-1", "utf-16", "utf-16-le", "utf-8-sig", "utf-32", "cp1252")


def load(name: str, root: Path, options: dict[str, Any]) -> Benchmark:
    return load_benchmark(name.partition("/")[0], root, **options)


def words(item: Item) -> tuple[str, ...]:
    record = item.record
    if isinstance(record, (TwoByTwoItem, CaptionChoice)):
        return record.captions
    return (record.question, *record.choices)


def check(name: str, files: BenchmarkFiles, undamaged: Benchmark, damage: str) -> None:
    """Load mutated files; fail unless the result is the complete benchmark, a recorded count, or a one-line error."""
    root, options = files
    try:
        loaded = load(name, root, options)
    except (EvaluationError, StoreError) as error:
        assert "\n" not in str(error).strip() and len(str(error)) < 600, damage
        assert name.partition("/")[0] in str(error) or str(root) in str(error), damage
        return
    part_is_meant = options.get("partial") and "partial" in loaded.version
    assert part_is_meant or loaded.version != undamaged.version or len(loaded.items) == len(undamaged.items), damage
    originals = {item.item_id: words(item) for item in undamaged.items}
    for item in loaded.items:
        before, after = originals.get(item.item_id), words(item)
        assert all(isinstance(text, str) for text in after), damage
        for old, new in zip(before or (), after, strict=False):
            assert old == new or not (old.startswith(new) or old.endswith(new)), (damage, old, new)
        item_queries = queries(item, named_protocol("standard"), loaded)
        if len(item_queries) == 1 and not item_queries[0].candidates:
            outcome(item, {item.item_id: QueryReply(text="A")}, named_protocol("standard"))
        for image_id in item.image_ids:
            try:
                loaded.images[image_id].open()
            except (EvaluationError, RecordError) as error:
                assert "\n" not in str(error), damage


# ----------------------------------------------------------------------------------------------------------- mutations


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for key in value:
            yield (*path, key)
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield (*path, number)
            yield from places(inner, (*path, number))


def change_json(text: str, rng: random.Random, drop: bool) -> str:
    """Return JSON or JSON lines with one key removed or one value replaced."""
    try:
        value, lines = json.loads(text), False
    except ValueError:
        value, lines = [json.loads(line) for line in text.splitlines()], True
    place = rng.choice(list(places(value)))
    holder = value
    for key in place[:-1]:
        holder = holder[key]
    if drop:
        del holder[place[-1]]
    else:
        holder[place[-1]] = rng.choice(ODD)
    return "".join(json.dumps(row) + "\n" for row in value) if lines else json.dumps(value)


def change_csv(text: str, rng: random.Random, drop: bool, delimiter: str = ",") -> str:
    """Return a CSV file with one field removed or replaced."""
    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    row = rng.choice(rows)
    place = rng.randrange(len(row))
    if drop:
        del row[place]
    else:
        row[place] = rng.choice(("", "x", "-1", '"', "nan", "a,b", " ", "[1", "0", "['x']", "9" * 30))
    changed = io.StringIO(newline="")
    csv.writer(changed, delimiter=delimiter).writerows(rows)
    return changed.getvalue()


def mutate(file: Path, rng: random.Random) -> str:
    """Damage a text file in one of many ways and return a description of the damage."""
    data = file.read_bytes()
    text = data.decode()
    damage = rng.choice(
        (
            "flip",
            "flip",
            "insert",
            "cut end",
            "cut rows",
            "drop key",
            "change value",
            "change value",
            "encode",
            "empty",
            "line separators",
            "add row",
            "stray sign",
        )
    )
    change: Callable[[str, random.Random, bool], str] = change_json
    if file.suffix in (".csv", ".tsv"):
        change = partial(change_csv, delimiter="\t" if file.suffix == ".tsv" else ",")
    if damage == "flip":
        place = rng.randrange(len(data))
        data = data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]
    elif damage == "insert":
        place = rng.randrange(len(data))
        data = data[:place] + bytes([rng.randrange(256)]) + data[place:]
    elif damage == "stray sign":
        place = rng.randrange(len(text))
        data = (text[:place] + rng.choice('",\n{}[]:;\r\0') + text[place:]).encode()
    elif damage == "cut end":
        data = data[: rng.randrange(len(data))]
    elif damage == "cut rows":
        lines = text.split("\n")
        begin = rng.randrange(len(lines))
        data = "\n".join(lines[:begin] + lines[begin + rng.randrange(1, 4) :]).encode()
    elif damage == "add row":
        lines = text.split("\n")
        place = rng.randrange(len(lines))
        data = "\n".join([*lines[:place], lines[place], *lines[place:]]).encode()
    elif damage in ("drop key", "change value"):
        data = change(text, rng, damage == "drop key").encode("utf-8", "surrogatepass")
    elif damage == "encode":
        damage = rng.choice(ENCODINGS)
        data = text.encode(damage, "replace")
    elif damage == "line separators":
        data = text.replace(" ", rng.choice("\u2028\u0085\x0b\x0c"), 2).encode()
    else:
        data = b""
    file.write_bytes(data)
    return f"{file.name}: {damage}"


def run_cases(name: str, folder: Path, count: int, seed: int = 0) -> None:
    root_and_options = FILES[name](folder)
    undamaged = load(name, *root_and_options)
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".jsonl", ".csv", ".tsv"))
    pictures = sorted(path for path in folder.rglob("*") if path.suffix in (".png", ".jpg"))
    for case in range(count):
        rng = random.Random(f"{seed}/{name}/{case}")
        file = rng.choice(pictures if case % 10 == 9 else files)
        data = file.read_bytes()
        if file in pictures:
            damage = rng.choice((None, b"", data[: len(data) // 2], b"not an image"))
            file.unlink() if damage is None else file.write_bytes(damage)
            how = f"{file.name}: image"
        else:
            how = mutate(file, rng)
        try:
            check(name, root_and_options, undamaged, f"{name}, case {case}, {how}")
        finally:
            file.write_bytes(data)
    assert load(name, *root_and_options).items == undamaged.items  # the files are restored after the cases


@pytest.mark.parametrize("name", FILES)
def test_damaged_files(name: str, tmp_path: Path) -> None:
    run_cases(name, tmp_path, 4)


@pytest.mark.full
@pytest.mark.parametrize("name", FILES)
def test_damaged_files_in_many_ways(name: str, tmp_path: Path) -> None:
    run_cases(name, tmp_path, 140, seed=1)


# ----------------------------------------------------------------------------------------------------- hub layouts


def run_hub_cases(name: str, folder: Path, count: int, seed: int = 0) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tests.evaluation.test_benchmarks import write_hub

    split, rows, images = HUB[name]
    options = {} if name == "seed" else PART
    root = write_hub(folder / "whole", split, rows, images)
    undamaged = load_benchmark(name, root, **options)
    table = pq.read_table(next(root.rglob("*.parquet")))
    for case in range(count):
        rng = random.Random(f"{seed}/{name}/{case}")
        damaged = folder / str(case) / "data" / f"{split}-00000-of-00001.parquet"
        damaged.parent.mkdir(parents=True)
        column = rng.choice(table.column_names)
        place = table.column_names.index(column)
        how = rng.choice(("drop", "null", "type", "bytes", "cut", "rows", "utf8"))
        changed = table
        if how == "drop":
            changed = table.drop_columns([column])
        elif how == "null":
            values = [None if n == 1 else value for n, value in enumerate(table.column(column).to_pylist())]
            changed = table.set_column(place, column, pa.array(values, table.schema.field(column).type))
        elif how == "type":
            odd = rng.choice([[1] * len(table), [["x"]] * len(table), [{"x": 1}] * len(table), [True] * len(table)])
            changed = table.set_column(place, column, pa.array(odd)).replace_schema_metadata(None)
        elif how == "utf8" and pa.types.is_string(table.schema.field(column).type):
            bad = pa.array([b"\xff\xfe"] * len(table), pa.binary()).view(pa.string())
            changed = table.set_column(place, column, bad)
        elif how == "rows":
            changed = table.slice(0, len(table) - 1)
        pq.write_table(changed, damaged, compression="none")
        data = damaged.read_bytes()
        if how == "bytes":
            at = rng.randrange(len(data))
            damaged.write_bytes(data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :])
        elif how == "cut":
            damaged.write_bytes(data[: rng.randrange(len(data))])
        check(name, (folder / str(case), options), undamaged, f"{name}, case {case}, {how} {column}")


@pytest.mark.parametrize("name", HUB)
def test_damaged_hub_layouts(name: str, tmp_path: Path) -> None:
    run_hub_cases(name, tmp_path, 2)


@pytest.mark.full
@pytest.mark.parametrize("name", HUB)
def test_damaged_hub_layouts_in_many_ways(name: str, tmp_path: Path) -> None:
    run_hub_cases(name, tmp_path, 40, seed=1)


# ------------------------------------------------------------------------------------------------- our own tables


def run_table_cases(folder: Path, count: int) -> None:
    """Flip bytes and truncate the tables that the benchmarks of generated data read."""
    pictures = [io.BytesIO() for _ in range(4)]
    for number, stream in enumerate(pictures):
        Picture.new("RGB", (8, 8), (number, 0, 0)).save(stream, "PNG")
    ids = [str(n) for n in range(4)]
    write_table(folder, ImageRecord, [ImageRecord(i, ImageFile(bytes=pictures[int(i)].getvalue())) for i in ids])
    pairs = [PreferencePair(i, (i,), "Describe.", f"a red cat {i}", f"a blue cat {i}", "swap") for i in ids]
    write_table(folder, PreferencePair, pairs)
    write_table(
        folder,
        TwoByTwoItem,
        [TwoByTwoItem(i, (i, ids[int(i) - 1]), (f"one {i}", f"two {i}"), "swap", ("x",)) for i in ids],
    )
    questions = [Question(i, (i,), f"what is {i}?", "red" if int(i) % 2 else "blue", "colour") for i in ids]
    write_table(folder, Question, questions)
    for name, table in (
        ("heldout_pairs", "pairs"),
        ("world_winoground", "quads"),
        ("world_vqa", "questions"),
        ("heldout_pairs", "images"),
    ):
        file = folder / f"{table}.parquet"
        data = file.read_bytes()
        for case in range(count):
            rng = random.Random(f"{table}/{case}")
            at = rng.randrange(len(data))
            flipped = data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
            file.write_bytes(data[:at] if case % 5 == 0 else flipped)
            try:
                benchmark = load_benchmark(name, folder)
                for item in benchmark.items:
                    for image_id in item.image_ids:
                        benchmark.images[image_id].open()
            except (EvaluationError, StoreError, RecordError) as error:
                assert "\n" not in str(error).strip(), (table, case)
        file.write_bytes(data)


def test_damaged_tables(tmp_path: Path) -> None:
    run_table_cases(tmp_path, 3)


@pytest.mark.full
def test_damaged_tables_in_many_ways(tmp_path: Path) -> None:
    run_table_cases(tmp_path, 250)


def test_a_missing_image_of_our_own_tables_is_named(tmp_path: Path) -> None:
    write_table(tmp_path, ImageRecord, [ImageRecord("0", ImageFile(bytes=b"x"))])
    write_table(tmp_path, PreferencePair, [PreferencePair("p", ("1",), "Describe.", "a", "b", "swap")])
    with pytest.raises(EvaluationError, match=r"heldout_pairs: 1 images are missing from .*first: '1'"):
        load_benchmark("heldout_pairs", tmp_path)


def test_a_split_without_a_table_is_answered_with_the_benchmark_that_fits(tmp_path: Path) -> None:
    for name in ("world_winoground", "world_vqa", "heldout_pairs"):
        with pytest.raises(StoreError, match=r"is missing: first run scripts/generate.py"):
            load_benchmark(name, tmp_path)  # no data set at all
    write_table(tmp_path, ImageRecord, [])
    for name in ("world_winoground", "world_vqa"):
        with pytest.raises(
            EvaluationError,
            match=rf"{name}: .* is missing, because .* set benchmark=\[heldout_pairs\] \(in training, trainer",
        ):
            load_benchmark(name, tmp_path)
    for _ in ("absent", "empty"):
        with pytest.raises(
            EvaluationError, match=r"contains no pairs: generate the data with a larger data.test_fraction, or choose"
        ):
            load_benchmark("heldout_pairs", tmp_path)
        write_table(tmp_path, PreferencePair, [])
