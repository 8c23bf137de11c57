"""Tests a user's first hour: the README's commands on real photographs, in all common layouts.

The photographs are in the reference data folder; without it a dozen drawn images are used, with negatives that need no
English pipeline. No command may end with a traceback, and each error message is one line.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from tests.pipeline.conftest import ENVIRONMENT, ROOT, command
from tests.pipeline.test_own_images import draw

Rows = list[tuple[str, list[str]]]  # image file, captions
SIZES = [3, 8, 20, 40]
SEEDS = [0, 1, 2, 3]


class Material:
    """Image files with captions, and the settings of the method that can make negatives from these captions."""

    def __init__(self, folder: Path, rows: Rows, pairs: list[str]) -> None:
        self.folder, self.rows, self.pairs = folder, rows, pairs


@pytest.fixture(scope="module")
def material(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Material:
    """Return real photographs with two captions each if they are available, otherwise drawn images."""
    shared = request.config.rootpath.parent / "shared"
    photos, pipeline = shared / "field" / "photos", shared / "models" / "en_core_standin"
    if photos.is_dir() and pipeline.is_dir():
        grouped: dict[str, list[str]] = {}
        for line in (photos / "captions.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            grouped.setdefault(row["image"], []).append(row["caption"])
        return Material(photos, list(grouped.items()), ["pairs=rules", f"pairs.options.pipeline={pipeline}"])
    folder = tmp_path_factory.mktemp("drawn")
    rows = [(f"{index}.png", [draw(folder / f"{index}.png", index)]) for index in range(12)]
    return Material(folder, rows, ["pairs=world"])


def run(name: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Run a script, which must succeed or fail with one line."""
    done = subprocess.run(command(name, *overrides), cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert done.returncode == 1 and len(errors) == 1, done.stderr
        assert_keys_exist(errors[0])
    return done


def assert_keys_exist(message: str) -> None:
    """Assert that every ``section.key=`` in a message exists in a configuration."""
    known = set()
    for path in (ROOT / "configs").rglob("*.yaml"):
        section = path.parent.name
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        known |= {f"{section}.{key}" for key in content} | set(content)
        known |= {f"{key}.{inner}" for key, value in content.items() if isinstance(value, dict) for inner in value}
    for key in re.findall(r"\b((?:data|trainer|peft|pairs|model|objective|run)\.[a-z_]+)(?==)", message):
        assert key in known, f"{key} is no key: {message}"


def link(material: Material, folder: Path, count: int) -> Rows:
    """Copy the first ``count`` images to a separate folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, _ in material.rows[:count]:
        shutil.copy(material.folder / name, folder / name)
    return material.rows[:count]


def captions_jsonl(material: Material, folder: Path, count: int) -> list[str]:
    rows = link(material, folder, count)
    lines = [json.dumps({"image": name, "caption": text}) for name, texts in rows for text in texts]
    (folder / "captions.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return ["data=image_folder", f"data.path={folder}"]


def captions_csv(material: Material, folder: Path, count: int) -> list[str]:
    rows = link(material, folder, count)
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption"])
        writer.writerows((name, text) for name, texts in rows for text in texts)
    return ["data=image_folder", f"data.path={folder}"]


def coco(material: Material, folder: Path, count: int) -> list[str]:
    rows = link(material, folder / "train2017", count)
    (folder / "annotations").mkdir()
    content = {
        "images": [{"id": number, "file_name": name} for number, (name, _) in enumerate(rows)],
        "annotations": [
            {"id": 10 * number + k, "image_id": number, "caption": text}
            for number, (_, texts) in enumerate(rows)
            for k, text in enumerate(texts)
        ],
    }
    (folder / "annotations" / "captions_train2017.json").write_text(json.dumps(content), encoding="utf-8")
    return ["data=coco", f"data.path={folder}"]


def parquet(material: Material, folder: Path, count: int) -> list[str]:
    """Write one row per caption and no id, which is the usual layout on the hub."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    rows = [
        {"image": {"bytes": (material.folder / name).read_bytes(), "path": name}, "text": text}
        for name, texts in material.rows[:count]
        for text in texts
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "train-00000-of-00001.parquet")
    return ["data=hf", f"data.path={folder}", "data.caption_column=text"]


LAYOUTS: list[Callable[[Material, Path, int], list[str]]] = [captions_jsonl, captions_csv, coco, parquet]


def listen_to_ctrl_c() -> None:
    """React to SIGINT like a foreground job. Background jobs of a shell, and the programs that they start, ignore
    SIGINT.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


def splits(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "data" / "stage.json").read_text())["summary"]["splits"]


@pytest.mark.parametrize(
    "layout",
    [coco, captions_csv, *(pytest.param(layout, marks=pytest.mark.full) for layout in (captions_jsonl, parquet))],
    ids=lambda layout: layout.__name__,
)
def test_every_layout_gives_the_same_pairs(layout: Any, material: Material, tmp_path: Path) -> None:
    source = layout(material, tmp_path / "source", 12)
    done = run("generate", *source, *material.pairs, f"run.dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    actual = splits(tmp_path / "run")
    assert sum(split["images"] for split in actual.values()) == 12
    assert actual["train"]["pairs"] > 0
    from scramble.records import ImageRecord
    from scramble.storage.tables import read_table

    texts = {
        text
        for split in actual
        for image in read_table(tmp_path / "run" / "data" / split, ImageRecord)
        for text in image.captions
    }
    assert len(texts) == len({text.strip() for _, captions in material.rows[:12] for text in captions})


@pytest.mark.parametrize(
    ("count", "seed"),
    [
        pytest.param(count, seed, marks=() if (count, seed) in {(3, 0), (8, 1)} else pytest.mark.full)
        for count in SIZES
        for seed in SEEDS
    ],
)
def test_few_photographs_of_any_seed(count: int, seed: int, material: Material, tmp_path: Path) -> None:
    """The README's command for a user's own images works with another model."""
    count = min(count, len(material.rows))
    source = captions_jsonl(material, tmp_path / "source", count)
    done = run("generate", *source, *material.pairs, f"data_seed={seed}", f"run.dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    actual = splits(tmp_path / "run")
    assert sum(split["images"] for split in actual.values()) == count
    if count >= 8:
        assert all(actual[split]["images"] >= 1 for split in ("train", "val", "test"))
        assert actual["train"]["pairs"] >= 1


@pytest.mark.full
def test_questions_release_and_mmpr(material: Material, tmp_path: Path) -> None:
    """Existing pairs and questions are imported, and pairs are used for training."""
    folder = tmp_path / "source"
    rows = link(material, folder, 12)
    turns = [{"from": "human", "value": "<image>\ncaption:"}]
    release = [
        {
            "id": number,
            "image": name,
            "conversations": [*turns, {"from": "gpt", "value": texts[0]}],
            "rejected_conversations": [*turns, {"from": "gpt", "value": f"{rows[number - 1][1][0]} {number}"}],
        }
        for number, (name, texts) in enumerate(rows)
    ]
    (folder / "release.json").write_text(json.dumps(release), encoding="utf-8")
    given = ["data=scramble_release", f"data.path={folder / 'release.json'}", f"data.images={folder}"]
    done = run("train", "+debug=tiny", *given, "pairs=given", f"run.dir={tmp_path / 'release'}")
    assert done.returncode == 0, done.stderr

    lines = [
        {"image": name, "question": "<image>\nWhat is this?", "chosen": texts[0], "rejected": f"not {number}"}
        for number, (name, texts) in enumerate(rows)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    meta = {"mine": {"root": str(folder), "annotation": str(folder / "rows.jsonl"), "repeat_time": 1, "length": 12}}
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    given = ["data=mmpr", f"data.path={folder / 'meta.json'}", "pairs=given"]
    done = run("train", "+debug=tiny", *given, f"run.dir={tmp_path / 'mmpr'}")
    assert done.returncode == 0, done.stderr
    assert splits(tmp_path / "mmpr")["train"]["pairs"] >= 8  # drawn images may be equal and then share a split

    questions = [{"image": name, "question": "Is this a photo?", "answer": "yes"} for name, _ in rows]
    (folder / "questions.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions), encoding="utf-8")
    run("generate", "data=questions", f"data.path={folder / 'questions.jsonl'}", f"run.dir={tmp_path / 'questions'}")


@pytest.mark.full  # shorter: test_the_whole_pipeline_on_an_image_folder
def test_the_first_hour(material: Material, tmp_path: Path) -> None:
    """Train on own images, stop with Ctrl-C, resume, evaluate, browse, audit, export and share, in one folder."""
    out = tmp_path / "run"
    source = captions_jsonl(material, tmp_path / "source", 40)
    own = ("+debug=tiny", *source, *material.pairs, "data.val_fraction=0.1", "data.test_fraction=0.2")
    own = (*own, f"run.dir={out}", "objective=dpo", "trainer.max_steps=40", "trainer.save_steps=10")
    process = subprocess.Popen(
        command("train", *own),
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=listen_to_ctrl_c,
    )
    log = out / "train" / "dpo-seed0" / "metrics.jsonl"
    while process.poll() is None and not (log.exists() and len(log.read_text().splitlines()) > 5):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert "Traceback" not in errors and "KeyboardInterrupt" not in errors, errors
    assert process.returncode not in (0, 1), errors
    checkpoints = list((out / "train" / "dpo-seed0" / "checkpoints").iterdir())
    assert checkpoints, "Ctrl-C saved nothing"

    for words in (
        ("train", *own),
        ("evaluate", *own, "benchmark=[heldout_pairs]"),
        ("report", *own),
        ("browse", *own, "benchmark=[heldout_pairs]"),
        ("export", *own),
        ("share", *own, "what=adapter"),
        ("share", *own, "what=data"),
        ("audit", f"path={out / 'share' / 'data'}", f"out={tmp_path / 'audit'}"),
    ):
        done = run(*words)
        assert done.returncode == 0, f"{words[0]}: {done.stdout}\n{done.stderr}"
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines() if '"loss"' in line]
    assert steps == sorted(set(steps)) and steps[-1] == 40
    assert (out / "report" / "report.md").exists() and (out / "report" / "browser" / "index.html").exists()
    contact_sheet = out / "report" / "contact_sheet.png"
    if contact_sheet.exists():
        with Image.open(contact_sheet) as image:
            assert image.width > 100


@pytest.mark.parametrize(
    ("script", "overrides", "words"),
    [
        ("train", ["data=image_folder", "data.path=nowhere", "pairs=world"], "nowhere"),
        ("train", ["trainer.learning_rate=fast"], "trainer.learning_rate"),
        ("train", ["trainer.beta=-1"], "trainer.beta"),
        ("evaluate", ["name=no_such_run"], "no_such_run"),
        ("report", ["name=no_such_run"], "no_such_run"),
        ("browse", ["name=no_such_run"], "no_such_run"),
        ("audit", ["path=nowhere.jsonl"], "nowhere.jsonl"),
        ("export", ["name=no_such_run"], "no_such_run"),
        ("share", ["name=no_such_run"], "no_such_run"),
    ],
)
def test_a_slip_gets_one_line(script: str, overrides: list[str], words: str) -> None:
    done = run(script, *overrides)
    assert done.returncode == 1
    assert words in done.stderr
