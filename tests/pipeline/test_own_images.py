"""Tests the commands on a folder of the user's own images, and the messages for bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from tests.pipeline.conftest import ROOT, Run

CAPTIONS = ("a red circle left of a blue square", "a blue square left of a red circle")


def draw(path: Path, index: int) -> str:
    """Draw an image of one of the captions, and return the caption."""
    caption = CAPTIONS[index % 2]
    image = Image.new("RGB", (64, 64), "white")
    pen, left = ImageDraw.Draw(image), index % 2 == 0
    shift = index % 5
    pen.ellipse((6 + shift if left else 38, 20, 26 + shift if left else 58, 40), fill="red")
    pen.rectangle((38 if left else 6 + shift, 20, 58 if left else 26 + shift, 40), fill="blue")
    image.save(path)
    return caption


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with forty drawn images and a captions.jsonl."""
    root = tmp_path_factory.mktemp("images")
    rows = [{"image": f"{i}.png", "caption": draw(root / f"{i}.png", i)} for i in range(40)]
    (root / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def own(folder: Path, run: Path, *more: str) -> tuple[str, ...]:
    """Return the overrides for a run on an image folder whose captions the world's grammar can parse."""
    tiny = ("+debug=tiny", "data=image_folder", "pairs=world", f"data.path={folder}", f"run.dir={run}")
    return (*tiny, "data.val_fraction=0.1", "data.test_fraction=0.2", *more)


def test_the_whole_pipeline_on_an_image_folder(folder: Path, tmp_path: Path, script: Run) -> None:
    overrides = own(folder, tmp_path)
    script("train", *overrides, "objective=mpo")
    scored = script("evaluate", *overrides).stdout  # the benchmark is selected by the data
    assert "protocol caption_sum" in scored and "world" not in scored
    script("report", *overrides)
    assert "Published numbers" not in (tmp_path / "report" / "report.md").read_text()
    rows = json.loads((tmp_path / "report" / "report.json").read_text())["rows"]
    accuracy = {row["method"]: row for row in rows if row["score"] == "accuracy"}
    assert accuracy.keys() == {"base", "mpo"}
    assert accuracy["mpo"]["chance"] == 50.0
    assert (
        accuracy["mpo"]["n"]
        == json.loads((tmp_path / "data" / "stage.json").read_text())["summary"]["splits"]["test"]["pairs"]
    )


def broken(folder: Path, tmp_path: Path, *rows: str) -> Path:
    """Return a copy of the folder with additional lines in the caption file."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        os.link(file, copy / file.name)
    text = (copy / "captions.jsonl").read_text() + "".join(row + "\n" for row in rows)
    (copy / "captions.jsonl").unlink()
    (copy / "captions.jsonl").write_text(text)
    return copy


def test_bad_rows_are_listed_and_the_rest_is_used(folder: Path, tmp_path: Path, script: Run) -> None:
    rows = (
        '{"image": "none.png", "caption": "a red circle"}',
        '{"image": "0.png"}',
        '{"image": "1.png", "caption": "  "}',
        '{"image": "torn.png", "caption": "a red circle"}',
    )
    copy = broken(folder, tmp_path, *rows)
    (copy / "torn.png").write_bytes((copy / "0.png").read_bytes()[:60])
    run = tmp_path / "run"
    done = script("generate", *own(copy, run, "data.max_rejected=0.2"))
    assert "4 rows could not be used" in done.stdout
    reasons = [json.loads(line) for line in (run / "data" / "rejected_rows.jsonl").read_text().splitlines()]
    assert sorted(row["row"] for row in reasons) == [41, 42, 43, 44]
    assert any("none.png" in row["reason"] for row in reasons) and any("torn.png" in row["reason"] for row in reasons)
    failed = script("generate", *own(copy, tmp_path / "other", "data.max_rejected=0.05"), status=1)
    assert "4 of 44 rows cannot be used" in failed.stderr and "Traceback" not in failed.stderr


def test_captions_without_a_negative_are_counted_and_listed(tmp_path: Path, script: Run) -> None:
    root = tmp_path / "images"
    root.mkdir()
    rows = [{"image": f"{i}.png", "caption": draw(root / f"{i}.png", i)} for i in range(20)]
    draw(root / "odd.png", 0)
    rows.append({"image": "odd.png", "caption": "there is something"})
    (root / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    failed = script("generate", *own(root, tmp_path / "run"), status=1)
    assert "there is something" in failed.stderr  # the world's grammar cannot read it


def test_the_log_says_that_too_few_images_were_not_refined(folder: Path, tmp_path: Path, script: Run) -> None:
    small = tmp_path / "three"
    small.mkdir()
    for name in ("0.png", "1.png", "2.png"):
        os.link(folder / name, small / name)
    (small / "captions.jsonl").write_text("".join((folder / "captions.jsonl").read_text().splitlines(True)[:3]))
    done = script("generate", *own(small, tmp_path / "run", "pairs.refine={}", "data.test_fraction=0"))
    train = json.loads((tmp_path / "run" / "data" / "stage.json").read_text())["summary"]["splits"]["train"]
    assert train["not_refined"] and sum(train["not_refined"].values()) == train["pairs"]
    assert "data, train: the pairs were not refined, because refinement needs at least 20 pairs from 5" in done.stdout
    assert (
        "data, test: no images; raise data.test_fraction for more" in done.stdout
        and "comparing models" not in done.stdout
    )
    few = script("generate", *own(small, tmp_path / "few", "pairs.refine={}", "data.test_fraction=0.4")).stdout
    assert "data, test: 1 image, " in few
    assert "1 pair; comparing models needs at least 30: raise data.test_fraction, or add images" in few
    assert "audit: there are too few training pairs for text-only accuracies (20 pairs of 5 images are needed)" in few
    none = ("data.val_fraction=0", "data.test_fraction=1")
    done = script("generate", *own(small, tmp_path / "empty", *none), status=1)
    assert "the training split has no images; set data.val_fraction=0 data.test_fraction=0" in done.stderr


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("train", ("nonsense=1",), "nonsense"),
        ("train", ("trainer.learnin_rate=1",), "did you mean trainer.learning_rate"),
        ("train", ("+debug=tiny", "+trainer.lerning_rate=1", "run.dir={tmp}"), "did you mean trainer.learning_rate"),
        ("train", ("data=image_folder", "model.path=x"), "data.path"),
        ("train", ("data=scramble_release", "pairs=given"), "set either data.path=... or"),
        ("train", ("data=pairs", "pairs=rules", "data.path=x"), "set pairs=given"),
        ("train", ("data=pairs", "+experiment=molmo_dpo", "+debug=tiny", "data.path=x"), "data.path=x does not exist"),
        (
            "train",
            ("data=pairs", "data.path=data/exam_ple"),
            "data.path=data/exam_ple does not exist: use a ",
        ),
        ("train", ("data=pairs", "data.path=data/exam_ple"), "; did you mean data/example?"),
        ("train", ("data=hf", "data.path=data/exam_ple"), "; did you mean data/example?"),
        ("train", ("model=internvl3_1b", "model.path=data/tiny_internvll"), "; did you mean data/tiny_internvl?"),
        (
            "train",
            ("data=pairs", "data.path=x", "data.mix=[{{path: y, weight: 1}}]"),
            "several inputs, data.mix=[...]",
        ),
        (
            "train",
            ("data=pairs", "data.mix=[{{path: y, weight: 0}}]"),
            "data.mix: the weights [0] must sum to more than 0",
        ),
        ("train", ("data=pairs", "data.path=x", "data.format=tlr"), "must be one of scramble, povid, ms-swift"),
        ("generate", ("data=image_folder", "data.path=/does/not/exist", "run.dir={tmp}"), "/does/not/exist"),
        ("generate", ("run.dir=/proc/none",), "cannot write /proc/none"),
        ("generate", ("data.image_size=20", "run.dir={tmp}"), "48"),
        ("evaluate", ("run.dir={tmp}", "arms=[mpo-seed7]"), "mpo-seed7"),
        ("evaluate", ("run.dir={tmp}", "benchmark=[winogrand]"), "winoground"),
        ("report", ("run.dir={tmp}",), "scripts/evaluate.py"),
        (
            "chat",
            ("prompt=x", "image=null"),
            "no such key; did you mean text?",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_settings_get_one_clear_message(
    name: str, overrides: tuple[str, ...], message: str, tmp_path: Path, script: Run
) -> None:
    done = script(name, *(o.format(tmp=tmp_path / "run") for o in overrides), status=1)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("generate", ("data=image_folder", "data.path={tmp}/absent", "pairs=world"), "absent does not exist"),
        ("train", ("data=world_tiny", "model=internvl3_1b", "model.path={tmp}/absent"), "there is no such folder"),
        (
            "train",
            ("data=world_tiny", "model=internvl3_1b", "model.path=nobody/nothing"),
            "'hf download nobody/nothing",
        ),
        ("train", ("data=world_tiny", "model=internvl3_1b", "model.path={tmp}"), "has no config.json"),
        (
            "generate",
            ("data=world_tiny", "pairs=cot", "engine@pairs.engine=vllm", "pairs.engine.path={tmp}/absent"),
            "pairs.engine.path={tmp}/absent: there is no such folder",
        ),
        (
            "generate",
            ("data=world_tiny", "pairs=correctness", "model=internvl3_1b", "model.path=nobody/nothing"),
            "set pairs.engine.path=FOLDER",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_missing_data_and_models_are_found_before_any_work_and_leave_no_run(
    name: str, overrides: tuple[str, ...], message: str, tmp_path: Path, script: Run
) -> None:
    run = tmp_path / "run"
    done = script(name, *(o.format(tmp=tmp_path) for o in overrides), f"run.dir={run}", status=1)
    assert message.format(tmp=tmp_path) in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == "" and not run.exists()


def test_a_run_folder_that_was_there_or_holds_work_stays(folder: Path, tmp_path: Path, script: Run) -> None:
    run = tmp_path / "run"
    run.mkdir()
    script("generate", "data=image_folder", "data.path=absent", "pairs=world", f"run.dir={run}", status=1)
    assert (run / "log.txt").exists()
    rows = ('{"image": "none.png", "caption": "a red circle"}',)
    copy = broken(folder, tmp_path, *rows)
    script("generate", *own(copy, tmp_path / "other", "data.max_rejected=0"), status=1)
    assert (tmp_path / "other" / "data" / "rejected_rows.jsonl").stat().st_size > 0


def test_lora_that_touches_the_tower_or_nothing_is_refused(folder: Path, tmp_path: Path, script: Run) -> None:
    for pattern, message in (("q_proj|v_proj", "tower"), ("no_such_layer", "no_such_layer")):
        overrides = own(folder, tmp_path / message, f"+peft.target_modules='.*({pattern})'")
        done = script("train", *overrides, status=1)
        assert message in done.stderr and "Traceback" not in done.stderr


def test_the_config_is_shown_without_heavy_imports() -> None:
    code = (
        "import runpy, sys; sys.argv = ['train.py', '--cfg', 'job']\n"
        f"runpy.run_path({str(ROOT / 'scripts' / 'train.py')!r}, run_name='__main__')\n"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "objective:" in done.stdout
