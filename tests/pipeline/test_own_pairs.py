"""Tests a user's own preference pairs: every layout trains through scripts/train.py, alone and in a mix."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scramble.records import PreferencePair
from scramble.storage.jsonl import read_jsonl
from scramble.storage.tables import read_table
from tests.pipeline.conftest import Run
from tests.pipeline.test_own_images import draw
from tests.sources.preference_layouts import LAYOUTS

TWO_STEPS = (
    "trainer.max_steps=2",
    "trainer.global_batch_size=8",
    "trainer.per_device_train_batch_size=8",
    "trainer.logging_steps=1",
    "data.max_rejected=0",
    "trainer.max_rejected_fraction=0",
)


def losses(run: Path) -> list[float]:
    (log,) = run.glob("train/*/metrics.jsonl")
    return [row["loss"] for row in read_jsonl(log) if "loss" in row]


def test_a_mix_of_all_layouts_trains(tmp_path: Path, script: Run) -> None:
    made = {name: make(tmp_path / f"in{n}") for n, (name, (make, _)) in enumerate(LAYOUTS.items())}
    mix = ",".join(f"{{path: '{path}', weight: 1}}" for path in made.values())
    run = tmp_path / "run"
    done = script("train", "data=pairs", f"data.mix=[{mix}]", "data.val_fraction=0.1", f"run.dir={run}", *TWO_STEPS)
    splits = json.loads((run / "data" / "stage.json").read_text())["summary"]["splits"]
    assert sum(split["pairs"] for split in splits.values()) == 6 * len(LAYOUTS)
    assert "the mix ends because" in done.stdout and "format vlfeedback" in done.stdout
    assert len(losses(run)) == 2 and all(loss == loss for loss in losses(run))
    assert not (run / "data" / "rejected_rows.jsonl").read_text()


@pytest.mark.full
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_trains(layout: str, tmp_path: Path, script: Run) -> None:
    path, run = LAYOUTS[layout][0](tmp_path / "in"), tmp_path / "run"
    script("train", "data=pairs", f"data.path='{path}'", "data.test_fraction=0", f"run.dir={run}", *TWO_STEPS)
    assert len(losses(run)) == 2 and all(loss == loss for loss in losses(run))
    assert len(list(read_table(run / "data" / "train", PreferencePair))) >= 4


def test_a_smoke_test_of_own_pairs_and_questions(tmp_path: Path, script: Run) -> None:
    """With ``+debug=tiny``, own pairs need no ``pairs=given``, and a new model answers the questions of MPO."""
    pairs = LAYOUTS["TRL, strings"][0](tmp_path / "in")
    script("train", "data=pairs", f"data.path='{pairs}'", "+debug=tiny", f"run.dir={tmp_path / 'pairs'}")
    assert len(losses(tmp_path / "pairs")) == 4
    rows = [
        {"image": f"{n}.png", "question": "What is shown?", "answer": draw(tmp_path / f"{n}.png", n)} for n in range(12)
    ]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mpo = ("+experiment=mmpr_mpo", "data=questions", f"data.path={tmp_path / 'questions.jsonl'}", "pairs=mpo")
    short = ("pairs.parts.correctness.options.max_tokens=8",)
    for _ in range(2):  # the second command reuses the data, although the new model exists now
        script("train", *mpo, *short, "+debug=tiny", f"run.dir={tmp_path / 'mpo'}")
    assert len(losses(tmp_path / "mpo")) == 4
