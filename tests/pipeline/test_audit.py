"""Tests scripts/audit.py: a separate folder for each file, a list of bad rows, and one-line errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scramble.formats import FormatError
from scramble.pipeline.audit import audit
from scramble.reporting.audit_page import audit_tables
from scramble.storage.files import StoreError
from tests.pipeline.conftest import Run
from tests.sources.preference_layouts import encoded

ANIMALS = ("cat", "dog", "cow", "hen", "fox")


def lines(count: int, extra: str = "") -> str:
    rows = []
    for n in range(count):
        a, b = ANIMALS[n % 5], ANIMALS[(n + 1 + n // 5 % 3) % 5]
        image = f"train/{n}/image.png"
        rows.append(
            {"image": image, "prompt": "p", "chosen": f"A {a} and a {b} {n}.", "rejected": f"A {b} and a {a} {n}."}
        )
    return "".join(json.dumps(row) + "\n" for row in rows) + extra


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_file_has_an_audit_of_its_own(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("a", "b"):
        (here / folder).mkdir()
        (here / folder / "pairs.jsonl").write_text(lines(40 if folder == "a" else 30))
        audit(here / folder / "pairs.jsonl")
    assert {path.name for path in here.iterdir()} == {"a", "b", "runs"}
    audits = {json.loads(p.read_text())["pairs"]: p for p in (here / "runs" / "audits").glob("pairs-*/audit.json")}
    assert sorted(audits) == [30, 40]
    message = capsys.readouterr().out
    assert all(str(path.with_name("audit.html").relative_to(here)) in message for path in audits.values())
    audit(here / "a" / "pairs.jsonl")  # auditing the same file again replaces the audit
    with pytest.raises(StoreError, match=r"contains the audit of .*a/pairs\.jsonl: choose another folder \(out="):
        audit(here / "b" / "pairs.jsonl", audits[40].parent)
    (here / "data").mkdir()
    (here / "data" / "audit.json").write_text("{}")  # a data set's own audit
    with pytest.raises(StoreError, match="contains the audit of other pairs"):
        audit(here / "b" / "pairs.jsonl", here / "data")


def test_each_split_and_each_setting_has_an_audit_of_its_own(here: Path) -> None:
    (here / "pairs").mkdir()
    for name, count in (("train", 40), ("test", 30), ("held_out", 20)):
        (here / "pairs" / f"{name}.jsonl").write_text(lines(count))
    audit(here / "pairs")
    audit(here / "pairs", split="test")
    audit(here / "pairs" / "train.jsonl", held_out=here / "pairs" / "held_out.jsonl")
    audits = sorted((here / "runs" / "audits").glob("*/audit.json"))
    records = [json.loads(file.read_text()) for file in audits]
    assert [file.parent.name[:-9] for file in audits] == ["pairs", "pairs-test", "train"]
    assert [(record["pairs"], record["settings"]) for record in records] == [
        (40, {}),
        (30, {"split": "test"}),
        (40, {"held_out": str(here / "pairs" / "held_out.jsonl")}),
    ]
    assert "<title>Audit of pairs, split test</title>" in audits[1].with_name("audit.html").read_text()
    audit(here / "pairs", split="test")  # replaces its own audit
    assert len(list((here / "runs" / "audits").iterdir())) == 3
    with pytest.raises(StoreError, match=r"other settings \(split \(test -> None\)\): choose another folder \(out="):
        audit(here / "pairs", audits[1].parent)


def test_images_of_one_name_are_many_images(here: Path) -> None:
    (here / "x.jsonl").write_text(lines(60))
    result = audit("x.jsonl")
    assert result["images"] == 60 and "bigram" in result["kinds"]["all"]["blind"]


def test_too_few_pairs_have_no_table_of_accuracies(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for count in (19, 20):
        (here / f"{count}.jsonl").write_text(lines(count))
        result = audit(f"{count}.jsonl")
        (page,) = (path.read_text() for path in here.glob(f"runs/audits/{count}-*/audit.html"))
        heads = [table.columns[0].title for table in audit_tables(result)]
        assert ("kind" in heads) == ("accuracy by kind" in page) == ("50 % is chance" in page) == (count == 20)
        assert ("20 pairs and 5 images are needed" in page) == (count == 19)
        assert ("the text-only accuracies are missing" in capsys.readouterr().out) == (count == 19)


def test_bad_rows_are_listed_and_the_rest_is_audited(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = '{"prompt": "p", "chosen": "c", "rejected": null}\n' * 2 + '{"prompt": "p", "chosen": "c", "rejected": "c"}\n'
    (here / "x.jsonl").write_text(lines(25, bad))
    assert audit("x.jsonl", "out")["pairs"] == 25
    listed = [json.loads(line) for line in (here / "out" / "rejected_rows.jsonl").read_text().splitlines()]
    assert [(row["row"], row["reason"]) for row in listed] == [
        (26, "rejected is not a string"),
        (27, "rejected is not a string"),
        (28, "chosen and rejected are the same text"),
    ]
    message = capsys.readouterr().out
    assert (
        "3 of 28 rows cannot be used and are skipped (2 x rejected is not a string, 1 x chosen and rejected" in message
    )
    (here / "x.jsonl").write_text(lines(12))
    audit("x.jsonl", "out")
    assert not (here / "out" / "rejected_rows.jsonl").exists()
    assert "and the data has 12 pairs of 12 images or prompts" in capsys.readouterr().out


def test_nothing_is_left_of_what_cannot_be_read(here: Path) -> None:
    with pytest.raises(FormatError, match=r"gone\.jsonl does not exist"):
        audit("gone.jsonl")
    (here / "x.json").write_text("[")
    with pytest.raises((FormatError, StoreError), match="cannot read"):
        audit("x.json")
    assert not list(here.glob("runs/audits/*/*"))


def test_the_script_says_it_in_one_line(tmp_path: Path, script: Run) -> None:
    (tmp_path / "x.csv").write_text("chosen;rejected\nA cat, a dog;A dog, a cat\nA hen;A fox\n")
    done = script("audit", f"path={tmp_path / 'x.csv'}", f"out={tmp_path / 'out'}")
    assert f"audit: the results are in {tmp_path / 'out' / 'audit.html'}" in done.stdout
    (tmp_path / "y.csv").write_text("chosen,rejected\nA cat,A cat\n,A fox\n")
    done = script("audit", f"path={tmp_path / 'y.csv'}", f"out={tmp_path / 'other'}", status=1)
    assert "none of the 2 rows can be used (1 x " in done.stderr and len(done.stderr.splitlines()) == 1


COLUMNS = "{chosen: good, rejected: bad, prompt: question, image: photo}"


def own_columns(folder: Path, count: int = 25, extra: str = "") -> Path:
    from PIL import Image

    (folder / "photos").mkdir()
    rows = []
    for n in range(count):
        a, b = ANIMALS[n % 5], ANIMALS[(n + 1 + n // 5 % 3) % 5]
        Image.new("RGB", (16, 16), (n * 9, 0, 0)).save(folder / "photos" / f"{n}.png")
        texts = {"good": f"A {a} and a {b} {n}.", "bad": f"A {b} and a {a} {n}."}
        rows.append({"photo": f"{n}.png", "question": "p", **texts, "rater": "r"})
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + extra)
    return path


def test_the_script_audits_columns_with_other_names(tmp_path: Path, script: Run) -> None:
    bad = '{"photo": "0.png", "question": "p", "good": "a", "bad": null}\n'
    path, out = own_columns(tmp_path, extra=bad), tmp_path / "out"
    done = script("audit", f"path={path}", f"out={out}", f"columns={COLUMNS}", f"images={tmp_path / 'photos'}")
    assert "1 of 26 rows cannot be used and are skipped (1 x rejected (column bad) is not a string)" in done.stdout
    assert (out / "audit.html").read_text().count("data:image/png") == 25


@pytest.mark.parametrize("layout", ["parquet", "saved", "pattern", "hub", "arrow"])
def test_the_audit_reads_what_training_reads_and_shows_embedded_images(
    here: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    import datasets

    rows = [json.loads(line) for line in lines(25).splitlines()]
    images = [[{"bytes": encoded("red", size=n + 8), "path": "image.png"}] for n in range(25)]
    data = datasets.Dataset.from_list([{**row, "image": None} for row in rows]).remove_columns("image")
    data = data.add_column("images", images).cast_column("images", datasets.List(datasets.Image()))
    path = {"saved": "saved", "pattern": "parts/train-*.parquet", "hub": "nobody/pairs"}.get(layout, "x." + layout)
    if layout == "parquet":
        data.to_parquet(path)
    elif layout == "pattern":
        for part in range(2):
            data.shard(2, part).to_parquet(f"parts/train-{part}.parquet")
    else:
        data.save_to_disk("saved")
    if layout == "arrow":
        next(Path("saved").glob("*.arrow")).rename(path)
    if layout == "hub":
        monkeypatch.setattr(datasets, "load_dataset", lambda *_, **options: data.to_iterable_dataset())
    result = audit(path, "out", columns={"images": "images"}, split="train")
    assert (result["pairs"], result["images"]) == (25, 25)
    assert Path("out", "audit.html").read_text().count("data:image/") == 25
    assert audit(path, "out")["pairs"] == 25  # the same data set


def test_paths_that_name_no_data_are_one_line(here: Path) -> None:
    (here / "x.jsonl").write_text(lines(25))
    for arguments, message in (
        ({"pairs": "gone/*.jsonl"}, r"gone/\*\.jsonl does not exist: set path="),
        ({"pairs": "x.jsonl", "held_out": "gone"}, "gone does not exist: set held_out="),
        ({"pairs": "x.jsonl", "revision": "main"}, "x.jsonl is a local copy: remove revision"),
        ({"pairs": here, "split": "test"}, r"has no split 'test': choose one of train \(split="),
    ):
        with pytest.raises(FormatError, match=message):
            audit(**arguments)


@pytest.mark.full
def test_data_of_a_run_are_audited_by_their_training_split(tmp_path: Path, script: Run) -> None:
    path, run = own_columns(tmp_path), tmp_path / "run"
    keys = (f"data.columns={COLUMNS}", "data.columns.image=photo", f"data.images={tmp_path / 'photos'}")
    script("generate", "data=pairs", f"data.path={path}", *keys, f"run.dir={run}")
    for folder in (run / "data", run):
        done = script("audit", f"path={folder}", f"out={tmp_path / 'own'}")
        assert f"the audited split is {run / 'data' / 'train'}" in done.stdout
    assert (tmp_path / "own" / "audit.html").read_text().count("data:image/png") > 10
    script("audit", f"path={path}", f"held_out={run}", f"out={tmp_path / 'mixed'}", f"columns={COLUMNS}")


def test_errors_about_columns_name_the_columns_of_the_file(tmp_path: Path, script: Run) -> None:
    path = own_columns(tmp_path, 3)
    columns = "photo, question, good, bad, rater"
    for keys, clause in (
        ([], "set the names of your columns (columns.chosen=<your column> columns.rejected=<your column>)"),
        (["columns.chosen=good"], f"the columns ({columns}) match no known format; the nearest is mmpr"),
        (["columns.chosen=god"], f"columns.chosen=god: {path} has no column god: choose one of {columns}"),
        (["columns.good=chosen"], "the value is the name in the file: write columns.chosen=good"),
        (["format=trl"], f"format=trl needs the columns chosen and rejected, but {path} has the columns {columns}"),
        (["images=/nowhere"], "images=/nowhere is not a folder"),
    ):
        done = script("audit", f"path={path}", f"out={tmp_path / 'out'}", *keys, status=1)
        assert clause in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
