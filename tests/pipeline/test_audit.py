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
        assert ("too few for text-only accuracies" in capsys.readouterr().out) == (count == 19)


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
    assert "12 pairs (12 images or prompts) are too few for text-only accuracies" in capsys.readouterr().out


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
    assert "none of the 2 rows can be used. The first error is:" in done.stderr and len(done.stderr.splitlines()) == 1
