"""Tests MPO's data with the scripts: pairs from a random model's answers, resuming a killed run, training on MMPR
files.
"""

from __future__ import annotations

import io
import json
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from scramble.formats import read_pairs
from scramble.grading import rationales
from scramble.records import PreferencePair, Question
from scramble.storage.jsonl import read_jsonl
from scramble.storage.tables import read_table
from tests.loopback import Loopback
from tests.pipeline.conftest import ENVIRONMENT, ROOT, Run, command

COLORS = ("red", "green", "blue", "white", "black", "orange")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for color in COLORS:
        buffer = io.BytesIO()
        Image.new("RGB", (48, 48), color).save(buffer, "PNG")
        (tmp_path / f"{color}.png").write_bytes(buffer.getvalue())
    return tmp_path


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def replies_of(folder: Path) -> list[dict[str, Any]]:
    return list(read_jsonl(folder / "data" / "train" / "replies" / "replies.jsonl"))


SAMPLED = (
    "data=questions",
    "data.val_fraction=0",
    "data.test_fraction=0",
    "pairs=correctness",
    "pairs.audit=false",
    "pairs.options.styles=[direct]",
)


def test_a_random_model_is_sampled_and_its_answers_are_paired(pictures: Path, script: Run) -> None:
    """The model's own first words are the ground truth of a question, so that some of its answers are right."""
    from scramble.engines import Message, Request, open_engine
    from scramble.grading.vqa_accuracy import official
    from scramble.models.tiny import save_tiny_internvl

    texts = ["What is there?", "red green blue", "yes", "no"]
    model = save_tiny_internvl(pictures / "model", texts, seed=0)
    rows = []
    engine = open_engine("transformers", path=str(model), dtype="float32", batch_size=64)
    for color in COLORS[:3]:
        image = (pictures / f"{color}.png").read_bytes()
        message = Message("user", f"What is {color}?", (image,))
        replies = engine.generate(
            Request((message,), temperature=5.0, max_tokens=48, sample=n)  # at low temperature it would repeat one word
            for n in range(32)
        )
        finished = [r.text for r in replies if not r.fault and "\n" not in r.text and official(r.text)]
        rows.append({"image": f"{color}.png", "question": f"What is {color}?", "answer": (finished or [""])[0]})
    assert any(row["answer"] for row in rows)
    path = write_rows(pictures / "questions.jsonl", rows)
    script(
        "generate",
        *SAMPLED,
        f"data.path={path}",
        "pairs.options.max_tokens=48",
        "pairs.options.top_k=null",
        "pairs.options.temperature=5.0",
        f"model.path={model}",
        f"run.dir={pictures / 'run'}",
    )
    asked = [row["answer"] for row in rows if row["answer"]]
    stored = replies_of(pictures / "run")
    assert len(stored) == len({r["key"] for r in stored}) == 32 * len(asked)
    pairs = list(read_table(pictures / "run" / "data" / "train", PreferencePair))
    assert pairs and {p.chosen for p in pairs} <= set(asked)
    questions = {q.question_id: q for q in read_table(pictures / "run" / "data" / "train", Question)}
    for pair in pairs:
        question = questions[pair.details["question"]]
        assert pair.prompt == question.question and pair.image_ids == question.image_ids
        assert pair.chosen == question.answer != pair.rejected and pair.details["rejected_answer"] == pair.rejected
    assert max(Counter(p.prompt for p in pairs).values()) <= 15
    summary = json.loads((pictures / "run" / "data" / "stage.json").read_text())["summary"]["splits"]["train"]
    assert summary["engine"]["generator"]["num_requests"] == 32 * len(asked)


def test_killed_sampling_goes_on_without_loss_or_repetition(pictures: Path, script: Run, server: Loopback) -> None:
    def answer(payload: dict[str, Any]) -> str:
        """Return a right, a wrong or a new wrong answer, depending on the request's seed."""
        assert payload["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
        return ["5", "7", f"{payload['seed']}"][payload["seed"] % 3]

    server.answer_to = answer
    rows = [{"image": f"{c}.png", "question": f"How many {c}? | delay=0.05", "answer": 5} for c in COLORS]
    path = write_rows(pictures / "questions.jsonl", rows)

    def overrides(run: str) -> tuple[str, ...]:
        return (
            *SAMPLED,
            f"data.path={path}",
            f"run.dir={pictures / run}",
            "pairs.options.samples=16",
            "pairs.options.rule=numeric",
            "engine@pairs.engine=openai",
            "pairs.engine.model=m",
            f"pairs.engine.base_url={server.url}",
            "pairs.engine.concurrency=4",
        )

    process = subprocess.Popen(
        command("generate", *overrides("killed")),
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and sum(server.asked.values()) < 30:
        time.sleep(0.01)
    process.kill()
    process.wait()
    stored = {row["key"]: row for row in replies_of(pictures / "killed")}
    assert 20 <= len(stored) < 96
    script("generate", *overrides("killed"))
    after = replies_of(pictures / "killed")
    assert len(after) == 96 == len({row["key"] for row in after})
    assert [row for row in after if row["key"] in stored] == list(stored.values())
    assert 96 <= sum(server.asked.values()) <= 100  # pending requests are repeated, stored replies are not
    script("generate", *overrides("whole"))
    tables = [list(read_pairs(pictures / run / "data" / "train")) for run in ("killed", "whole")]
    assert tables[0] == tables[1] and {p.chosen for p in tables[0]} == {"5"}


def test_mmpr_trains_with_images_text_alone_and_several_images(pictures: Path, script: Run) -> None:
    good = {"chosen": "a red and a blue square", "rejected": "a green circle"}
    one = {"image": "red.png", "question": "<image>\nWhat is there?", **good}
    rows = [*({**one, "image": f"{c}.png"} for c in COLORS), {**one, "image": "gone.png"}, {**one, "chosen": ""}]
    write_rows(pictures / "images.jsonl", rows)
    both = {"image": ["red.png", "blue.png"], "question": "<image>\n<image>\nWhat differs?", **good}
    three = {"image": ["blue.png", "red.png", "green.png"], "question": "Which is red?", **good}
    write_rows(pictures / "both.jsonl", [both, three])
    write_rows(pictures / "text.jsonl", [{"question": f"What is {n}?", **good} for n in range(4)])
    sets = {
        name: {
            "root": ".",
            "annotation": f"{name}.jsonl",
            "data_augment": False,
            "repeat_time": repeat,
            "length": length,
            "max_dynamic_patch": 6,
        }
        for name, repeat, length in (("images", 1, 8), ("both", 2, 2), ("text", 0.5, 4))
    }
    (pictures / "meta.json").write_text(json.dumps(sets))
    run = pictures / "run"
    done = script(
        "train",
        "+experiment=mmpr_mpo",
        "+debug=tiny",
        "data=mmpr",
        f"data.path={pictures / 'meta.json'}",
        "data.max_rejected=0.5",
        "data.val_fraction=0",
        "pairs=given",
        f"run.dir={run}",
    )
    pairs = list(read_table(run / "data" / "train", PreferencePair))
    assert Counter(len(p.image_ids) for p in pairs) == {1: 6, 2: 2, 3: 2, 0: 2}
    reasons = [row["reason"].partition(":")[0] for row in read_jsonl(run / "data" / "rejected_rows.jsonl")]
    assert Counter(reasons) == {"missing image": 1, "empty chosen": 1}
    assert "2 rows could not be used" in done.stdout and "model.max_tiles applies to all sets" in done.stdout
    summary = json.loads((run / "train" / "mpo-seed0" / "stage.json").read_text())["summary"]
    assert summary["steps"] == 4 and summary["examples"] == 12 and summary["rejected_rows"] == 0
    rows = list(read_jsonl(run / "train" / "mpo-seed0" / "metrics.jsonl"))
    assert all(row["loss"] == row["loss"] for row in rows if "loss" in row)  # no NaN


def test_the_worlds_base_makes_pairs_of_its_own_answers_and_trains_on_them(tmp_path: Path, script: Run) -> None:
    script(
        "train",
        "data=world_tiny",
        "data.n_train=8",
        "data.objects=[2,2]",
        "pairs=mpo_world",
        "objective=mpo",
        "pairs.parts.correctness.options.samples=8",
        f"run.dir={tmp_path}",
        "trainer.max_steps=2",
        "trainer.global_batch_size=8",
        "trainer.logging_steps=1",
    )
    pairs = list(read_table(tmp_path / "data" / "train", PreferencePair))
    questions = {q.question_id: q for q in read_table(tmp_path / "data" / "train", Question)}
    kinds = Counter(pair.kind for pair in pairs)
    assert kinds["correctness"] > 0 and 0 < kinds["dropout-ntp"] <= 8
    for pair in pairs:
        if pair.kind == "correctness":
            question = questions[pair.details["question"]]
            assert pair.image_ids == question.image_ids
            chosen, rejected = pair.chosen, pair.rejected
            if pair.prompt == rationales.ask(question.question):
                chosen, rejected = rationales.read(chosen).answer, rationales.read(rejected).answer
            else:
                assert pair.prompt == question.question
            assert chosen.lower() == question.answer.lower() != rejected.lower()
        else:
            assert pair.rejected.startswith(pair.details["kept"]) and pair.chosen.startswith(pair.details["kept"])
    summary = json.loads((tmp_path / "train" / "mpo-seed0" / "stage.json").read_text())["summary"]
    assert summary["steps"] == 2 and summary["examples"] == len(pairs)
