"""lmms-eval itself scores a model on a small task and its results are imported.

The test runs only if LMMS_EVAL_PYTHON is the Python of an environment with lmms-eval. docs/evaluation.md describes how
to make such an environment.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
from pathlib import Path
from typing import Any

import datasets
import pytest

from scramble.world.drawing import draw
from scramble.world.questions import ask
from scramble.world.scenes import draw_scene
from tests.pipeline.conftest import ENVIRONMENT, ROOT, Run

HARNESS_PYTHON = os.environ.get("LMMS_EVAL_PYTHON", "")
TASK = """\
task: colours
dataset_path: parquet
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function colours.images
doc_to_text: question
doc_to_target: answer
generation_kwargs: {{max_new_tokens: 8, do_sample: false}}
process_results: !function colours.score
metric_list: [{{metric: accuracy, aggregation: mean, higher_is_better: true}}]
metadata: [{{version: 1.0}}]
"""
FUNCTIONS = """\
def images(row):
    return [row["image"].convert("RGB")]


def score(row, replies):
    return {"accuracy": float(replies[0].strip().lower() == row["answer"].lower())}
"""


def write_task(folder: Path, items: int) -> None:
    """Write a task in lmms-eval's format, with questions about the colour of an object in the embedded world."""
    generator, rows = random.Random(0), list[dict[str, Any]]()
    while len(rows) < items:
        scene = draw_scene(generator)
        question = ask(scene, generator, "colour")
        if question is not None:
            rows.append({"image": draw(scene, 48), "question": question.question, "answer": question.answer})
    table = datasets.Dataset.from_list(
        rows,
        features=datasets.Features(
            {"image": datasets.Image(), "question": datasets.Value("string"), "answer": datasets.Value("string")}
        ),
    )
    folder.mkdir()
    table.to_parquet(folder / "test.parquet")
    (folder / "colours.yaml").write_text(TASK.format(file=folder / "test.parquet"))
    (folder / "colours.py").write_text(FUNCTIONS)


@pytest.mark.full
@pytest.mark.skipif(not HARNESS_PYTHON, reason="LMMS_EVAL_PYTHON does not name a Python with lmms-eval")
def test_lmms_eval_scores_a_model_on_a_task_of_the_user(tmp_path: Path, script: Run) -> None:
    run, task = tmp_path / "run", tmp_path / "task"
    write_task(task, 24)
    options = [
        f"run.dir={run}",
        f"model.path={ROOT / 'data' / 'tiny_internvl'}",
        "arms=[base]",
        "tasks=[colours]",
        "+harness_args.device=cpu",
        "+harness_args.device_map=cpu",
        "+harness_args.max_patches=1",
        f"harness_flags=[--include_path,{task}]",
        f"harness_python={HARNESS_PYTHON}",
    ]
    script("external_harness", *options)
    harness = ["sh", str(run / "external_harness" / "base" / "lmms-eval.sh")]
    subprocess.run(harness, check=True, cwd=tmp_path, env=ENVIRONMENT | {"HF_DATASETS_OFFLINE": "1"})
    imported = script("external_harness", *options)
    assert "base: imported colours from lmms-eval: accuracy " in imported.stdout
    folder = run / "evaluation" / "base" / "colours.lmms-eval"
    assert json.loads((folder / "result.json").read_text())["scores"].keys() == {"accuracy"}
    outcomes = [json.loads(line)["values"]["accuracy"] for line in (folder / "items.jsonl").read_text().splitlines()]
    score = json.loads((folder / "result.json").read_text())["scores"]["accuracy"]
    assert len(outcomes) == score["n"] == 24
    assert score["value"] == pytest.approx(100 * sum(outcomes) / 24)
    assert score["value"] > 50, "the model was trained on such questions; chance is 12.5"
