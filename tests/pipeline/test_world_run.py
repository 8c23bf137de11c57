"""Tests the whole pipeline on a tiny world with the scripts: run in sequence, repeated, killed and resumed."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.loopback import Loopback
from tests.pipeline.conftest import ENVIRONMENT, ROOT, Run, command
from tests.training import logs

STEPS = 60
TINY = ("+debug=tiny", f"trainer.max_steps={STEPS}", "trainer.save_steps=5", "trainer.logging_steps=5")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, script: Run) -> Path:
    """Return a finished run with two arms."""
    run = tmp_path_factory.mktemp("run")
    script("train", "-m", *TINY, f"run.dir={run}", "objective=sft,mpo")
    scored = script("evaluate", *TINY, f"run.dir={run}", "baselines=[base,sft]")
    (run / "evaluate.log").write_text(scored.stdout)
    script("report", *TINY, f"run.dir={run}")
    return run


def test_one_command_scores_base_and_adapters_and_compares_them(finished: Path) -> None:
    """The output of scripts/evaluate.py contains the scores of every arm, the batch-invariance check, and paired
    differences with p-values.
    """
    printed = (finished / "evaluate.log").read_text()
    for arm in ("base", "sft-seed0", "mpo-seed0"):
        for benchmark in ("world_winoground", "world_vqa"):
            assert f"{arm}: {benchmark} " in printed
    assert "batch-invariance" not in printed
    checks = [line for line in (finished / "log.txt").read_text().splitlines() if "batch-invariance check: " in line]
    assert len(checks) == 6 and all(line.endswith(" nats, 0 of 0 generations differ") for line in checks)
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if "│" in line]
    group = {row[1]: row for row in cells if row[0] == "group"}
    assert group.keys() == {"base", "sft", "mpo"}
    start = cells.index(group["mpo"])
    end = next(n for n in range(start + 1, len(cells)) if cells[n][0] or cells[n][1])  # cells may have several lines
    assert all("p =" in " ".join(row[place] for row in cells[start:end]) for place in (-1, -2))
    table = (finished / "report" / "table.md").read_text()
    assert "| mpo | base | world_winoground group | " in table and "McNemar exact" in table
    assert "\\toprule" in (finished / "report" / "table.tex").read_text()
    actual = json.loads((finished / "report" / "table.json").read_text())
    mpo = {row["name"]: row["cells"] for row in actual["rows"]}["mpo"]["world_vqa accuracy"]
    assert 0 <= mpo["tests"]["sft"]["p_value"] <= 1


def test_the_report_compares_every_arm_with_base_and_control(finished: Path) -> None:
    rows = json.loads((finished / "report" / "report.json").read_text())["rows"]
    group = {row["method"]: row for row in rows if (row["benchmark"], row["score"]) == ("world_winoground", "group")}
    assert group.keys() == {"base", "sft", "mpo"}
    assert group["mpo"]["differences"].keys() == {"base", "sft"}
    difference = group["mpo"]["differences"]["base"]
    assert difference["low"] <= difference["difference"] <= difference["high"]
    assert difference["difference"] == pytest.approx(group["mpo"]["value"] - group["base"]["value"])
    assert {row["benchmark"] for row in rows} == {"world_winoground", "world_vqa"}
    report = (finished / "report" / "report.md").read_text()
    assert "| world_winoground | group | mpo |" in report
    for picture in ("training.png", "contact_sheet.png"):
        assert (finished / "report" / picture).stat().st_size > 5000


def write_mmvet(folder: Path) -> Path:
    """Write MM-Vet's file with three questions about one image."""
    folder.mkdir()
    Image.new("RGB", (48, 48), "red").save(folder / "v.png")
    rows = {
        f"v1_{k}": {"imagename": "v.png", "question": f"What is {k}?", "answer": "red", "capability": ["rec"]}
        for k in range(3)
    }
    (folder / "mm-vet.json").write_text(json.dumps(rows))
    return folder


def test_a_served_model_is_scored_and_judged_by_other_engines(tmp_path: Path, script: Run) -> None:
    """Both engines are the same scripted server, which answers questions with "red" and grades with 0.7."""
    server = Loopback(answer=lambda text: "0.7" if "Grade:" in text else "red")
    try:
        arguments = [
            "+debug=tiny",
            f"run.dir={tmp_path / 'run'}",
            "benchmark=[mmvet]",
            "benchmark.mmvet.partial=true",
            f"benchmark.mmvet.root={write_mmvet(tmp_path / 'mmvet')}",
            "arms=[served]",
            "export_predictions=[vlmevalkit]",
            "engine=openai",
            "engine.model=m",
            f"engine.base_url={server.url}",
        ]
        waiting = script("evaluate", *arguments)
        assert "no score (n = 3, protocol standard, grading: none yet (the answers need a judge))" in waiting.stdout
        judge = ["engine@judge.engine=openai", "judge.engine.model=m", f"judge.engine.base_url={server.url}"]
        graded = script("evaluate", *arguments, *judge)
    finally:
        server.close()
    assert "score 70.0" in graded.stdout and "grading: 5 gradings by m" in graded.stdout
    assert len(server.payloads) == 3 + 3 * 5
    result = json.loads((tmp_path / "run/evaluation/served/mmvet/result.json").read_text())
    assert result["scores"]["score"]["grading_interval"] == 0
    assert (result["model"]["engine"], result["model"]["path"]) == ("openai", "m")
    assert "red" in (tmp_path / "run/evaluation/served/mmvet/served_mmvet.tsv").read_text()


FAKE_HARNESS = """
import json, pathlib, sys
values = dict(zip(sys.argv[1::2], sys.argv[2::2]))
model = pathlib.Path(dict(pair.split("=", 1) for pair in values["--model_args"].split(","))["pretrained"])
assert (model / "model.safetensors").exists() and (model / "tokenizer.json").exists(), model
out = pathlib.Path(values["--output_path"]) / "model"
out.mkdir(parents=True)
right = [1, 0, 1, 1] if "external_harness" in str(model) else [0, 0, 0, 1]
table = {"alias": "mmstar", "average,none": sum(right) / 4, "average_stderr,none": 0.1}
(out / "1_results.json").write_text(json.dumps({"results": {"mmstar": table}}))
rows = [json.dumps({"doc_id": k, "average": r}) for k, r in enumerate(right)]
(out / "1_samples_mmstar.jsonl").write_text("\\n".join(rows))
"""


def test_another_harness_scores_the_exported_arm(finished: Path, tmp_path: Path, script: Run) -> None:
    """A fake harness accepts lmms-eval's arguments, checks for a complete model and writes lmms-eval's files."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    arguments = ["+debug=tiny", f"run.dir={run}", "arms=[base,mpo-seed0]", "tasks=[mmstar]"]
    first = script("external_harness", *arguments)
    assert f"run `sh {run}/external_harness/mpo-seed0/lmms-eval.sh` in lmms-eval's environment" in first.stdout
    (tmp_path / "lmms_eval.py").write_text(FAKE_HARNESS)
    environment = {**ENVIRONMENT, "PYTHONPATH": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    for arm in ("base", "mpo-seed0"):
        subprocess.run(["sh", run / "external_harness" / arm / "lmms-eval.sh"], check=True, cwd=ROOT, env=environment)
    second = script("external_harness", *arguments)
    assert "mpo-seed0: imported mmstar from lmms-eval: average 75.0" in second.stdout
    script("report", "+debug=tiny", f"run.dir={run}")
    table = (run / "report" / "table.md").read_text()
    assert "mmstar (lmms-eval) average" in table and "- mmstar (lmms-eval): protocol lmms-eval" in table
    assert "| mpo | base | mmstar (lmms-eval) average | +50.0 " in table


@pytest.mark.full
def test_two_processes_score_as_one(finished: Path, tmp_path: Path) -> None:
    for part in ("new_model", "data", "train"):
        shutil.copytree(finished / part, tmp_path / part)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29655"]
    both = subprocess.run(
        [*launch, str(ROOT / "scripts" / "evaluate.py"), *TINY, f"run.dir={tmp_path}"],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert both.returncode == 0, both.stderr
    for arm in ("base", "sft-seed0", "mpo-seed0"):
        for benchmark in ("world_winoground", "world_vqa"):
            items = f"evaluation/{arm}/{benchmark}/items.jsonl"
            assert (tmp_path / items).read_bytes() == (finished / items).read_bytes()
            assert len(list((tmp_path / items).parent.glob("responses-*.jsonl"))) == 2


def test_further_adapters_are_arms_of_their_own(finished: Path, tmp_path: Path, script: Run) -> None:
    scored = script(
        "evaluate",
        "+debug=tiny",
        f"run.dir={tmp_path}",
        f"model.path={finished / 'new_model'}",
        f"run.data={finished / 'data'}",
        f"adapter=[{finished / 'train/sft-seed0/adapter'}]",
        "benchmark=[world_vqa]",
    )
    items = "world_vqa/items.jsonl"
    own, other = tmp_path / "evaluation/sft-seed0" / items, finished / "evaluation/sft-seed0" / items
    assert own.read_text() == other.read_text()
    assert "minus base" in scored.stdout


def test_a_run_folder_says_what_made_it(finished: Path) -> None:
    arm = finished / "train" / "mpo-seed0"
    stage = json.loads((arm / "stage.json").read_text())
    trainer = stage["config"]["trainer"]
    assert stage["config"]["objective"] == {"name": "mpo"}
    assert trainer["loss_type"] == ["sigmoid", "bco_pair", "sft"] and trainer["loss_weights"] == [0.8, 0.2, 1.0]
    assert stage["summary"]["steps"] == STEPS
    environment = json.loads((arm / "environment.json").read_text())
    assert environment["packages"]["torch"] and environment["git_commit"]
    assert (arm / "adapter" / "adapter_model.safetensors").exists()


def test_the_same_command_again_reuses_finished_work(finished: Path, script: Run) -> None:
    before = (finished / "train" / "mpo-seed0" / "metrics.jsonl").stat().st_mtime_ns
    again = script("train", *TINY, f"run.dir={finished}", "objective=mpo")
    assert "mpo-seed0: finished already" in again.stdout
    assert (finished / "train" / "mpo-seed0" / "metrics.jsonl").stat().st_mtime_ns == before


def test_another_configuration_is_refused_with_the_keys_that_differ(finished: Path, script: Run) -> None:
    other = script("train", *TINY, f"run.dir={finished}", "data.n_train=30", status=1)
    assert "data.n_train (24 -> 30)" in other.stderr and "Traceback" not in other.stderr


@pytest.mark.full
def test_an_adapter_of_another_base_is_refused(finished: Path, tmp_path: Path, script: Run) -> None:
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "new_model")
    script("train", *TINY, f"run.dir={tmp_path / 'run'}", "objective=dpo", "seed=1", f"run.data={tmp_path / 'data'}")
    refused = script("evaluate", *TINY, f"run.dir={tmp_path / 'run'}", "arms=[mpo-seed0]", status=1)
    assert "was trained on" in refused.stderr and "Traceback" not in refused.stderr


@pytest.mark.full
def test_same_seed_same_bytes_and_same_losses(finished: Path, tmp_path: Path, script: Run) -> None:
    script("train", *TINY, f"run.dir={tmp_path}", "objective=mpo")
    for table in ("images", "pairs", "questions"):
        name = f"data/train/{table}.parquet"
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()
    assert logs.rows(tmp_path / "train" / "mpo-seed0") == logs.rows(finished / "train" / "mpo-seed0")


def kill_when(process: subprocess.Popen[bytes], condition: Any) -> None:
    while process.poll() is None and not condition():
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_killed_stages_go_on_and_end_with_the_same_losses(finished: Path, tmp_path: Path, script: Run) -> None:
    overrides = (*TINY, f"run.dir={tmp_path}", "objective=mpo")
    arm = tmp_path / "train" / "mpo-seed0"

    def start(name: str, *more: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command(name, *overrides, *more),
            cwd=ROOT,
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    kill_when(start("generate"), lambda: (tmp_path / "data" / "test" / "images.parquet").exists())
    assert json.loads((tmp_path / "data" / "stage.json").read_text())["status"] == "running"
    kill_when(start("train"), lambda: any((arm / "checkpoints").glob("step-*")))
    assert not (arm / "adapter").exists()
    done = script("train", *overrides)
    assert "this one resumes from the checkpoint of step " in done.stdout
    assert logs.rows(arm) == logs.rows(finished / "train" / "mpo-seed0")
    weights = "adapter/adapter_model.safetensors"
    assert (arm / weights).read_bytes() == (finished / "train" / "mpo-seed0" / weights).read_bytes()

    answered = tmp_path / "evaluation" / "base" / "world_winoground" / "responses.jsonl"
    kill_when(start("evaluate"), lambda: answered.exists() and answered.stat().st_size > 0)
    script("evaluate", *overrides)
    items = "evaluation/mpo-seed0/world_winoground/items.jsonl"
    assert (tmp_path / items).read_text() == (finished / items).read_text()
    keys = [json.loads(line)["key"] for line in answered.read_text().splitlines()]
    assert len(keys) == len(set(keys))


def interrupted(overrides: tuple[str, ...], when: Any, number: signal.Signals) -> subprocess.CompletedProcess[str]:
    """Train until ``when()``, then send a signal."""
    process = subprocess.Popen(
        command("train", *overrides),
        cwd=ROOT,
        env=ENVIRONMENT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while process.poll() is None and not when():
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.mark.full
def test_asked_to_stop_it_saves_and_goes_on_even_where_the_last_checkpoint_is_cut(
    finished: Path, tmp_path: Path, script: Run
) -> None:
    overrides = (*TINY, f"run.dir={tmp_path}", "objective=mpo")
    shutil.copytree(finished / "data", tmp_path / "data")
    shutil.copytree(finished / "new_model", tmp_path / "new_model")
    arm = tmp_path / "train" / "mpo-seed0"
    stopped = interrupted(overrides, lambda: (arm / "checkpoints" / "step-00000005").exists(), signal.SIGUSR1)
    last = max((arm / "checkpoints").glob("step-*"))
    assert stopped.returncode == 75 and "Traceback" not in stopped.stderr
    assert f"stopped by SIGUSR1 and saved at step {int(last.name[5:])} of {STEPS}" in stopped.stderr
    assert json.loads((arm / "stage.json").read_text())["status"] == "stopped"
    weights = last / "weights" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    done = script("train", *overrides)
    assert f"checkpoint {last} is damaged" in done.stderr and "the previous checkpoint is used" in done.stderr
    assert logs.rows(arm) == logs.rows(finished / "train" / "mpo-seed0")
    name = "adapter/adapter_model.safetensors"
    assert (arm / name).read_bytes() == (finished / "train" / "mpo-seed0" / name).read_bytes()


def test_ctrl_c_saves_and_says_where_the_same_command_starts(finished: Path, tmp_path: Path, script: Run) -> None:
    """A signal before the first checkpoint saves at the current step. A second one ends the run and names the loss."""
    overrides = (*TINY, f"run.dir={tmp_path}", "objective=mpo", "trainer.save_steps=1000", "trainer.logging_steps=1")
    shutil.copytree(finished / "data", tmp_path / "data")
    shutil.copytree(finished / "new_model", tmp_path / "new_model")
    arm = tmp_path / "train" / "mpo-seed0"

    def under_way() -> bool:
        file = arm / "metrics.jsonl"
        return file.exists() and file.read_text().count('"loss"') >= 3

    stopped = interrupted(overrides, under_way, signal.SIGINT)
    (saved,) = (arm / "checkpoints").glob("step-*")
    step = int(saved.name[5:])
    assert stopped.returncode == 75 and "Traceback" not in stopped.stderr
    assert (
        f"stopped by Ctrl-C and saved at step {step} of {STEPS}; the same command resumes from there" in stopped.stderr
    )
    other = script("train", *overrides, f"trainer.max_steps={STEPS + 1}", status=1)
    assert f"trainer.max_steps ({STEPS} -> {STEPS + 1}). Choose another arm (run.arm=...)" in other.stderr
    assert "an earlier run was interrupted" not in other.stdout, "it resumes nothing"
    scored = script("evaluate", *TINY, f"run.dir={tmp_path}", "benchmark=[world_winoground]", "limit=1").stdout
    assert f"Arms whose training is not finished are not included: mpo-seed0 (checkpoint of step {step})." in scored
    shutil.rmtree(saved)
    (arm / "metrics.jsonl").unlink()
    again = interrupted(overrides, under_way, signal.SIGINT)
    assert "an earlier run was interrupted; this one starts again (no checkpoint yet)" in again.stdout
    done = script("train", *overrides)
    assert "this one resumes from the checkpoint of step " in done.stdout
    assert 10 < sum(line.startswith("mpo-seed0: step ") for line in done.stdout.splitlines()) <= 21
    assert logs.rows(arm)[-1]["step"] == STEPS


def test_partial_results_live_apart_and_trials_must_be_named(finished: Path, tmp_path: Path, script: Run) -> None:
    for name in ("data", "new_model", "evaluation", "train"):
        shutil.copytree(finished / name, tmp_path / name)
    shutil.copytree(tmp_path / "train" / "mpo-seed0", tmp_path / "train" / "trial000-seed0")
    full = {path: path.read_bytes() for path in (tmp_path / "evaluation").rglob("*") if path.is_file()}
    done = script("evaluate", *TINY, f"run.dir={tmp_path}", "limit=1", "benchmark=[world_winoground]")
    assert "does not include the trials of a study" in done.stdout and "limit=1: the results" in done.stdout
    assert {path: path.read_bytes() for path in (tmp_path / "evaluation").rglob("*") if path.is_file()} == full
    partial = tmp_path / "evaluation-limit1"
    assert sorted(path.name for path in partial.iterdir()) == ["base", "mpo-seed0", "sft-seed0"]
    result = json.loads((partial / "base" / "world_winoground" / "result.json").read_text())
    assert result["benchmark"]["limit"] == 1 and result["times"]["scored_now"] == 0  # replies on disk are reused
    named = script("evaluate", *TINY, f"run.dir={tmp_path}", "arms=[trial000-seed0]", "benchmark=[world_winoground]")
    assert "trial000-seed0: world_winoground" in named.stdout


@pytest.mark.full
def test_every_way_to_end_early_gives_the_uninterrupted_losses(finished: Path, tmp_path: Path, script: Run) -> None:
    """One run is ended by SIGTERM before training, a full disk, SIGKILL and SIGTERM during training, in sequence."""
    overrides = (*TINY, f"run.dir={tmp_path}", "objective=mpo")
    arm = tmp_path / "train" / "mpo-seed0"
    checkpoints = arm / "checkpoints"

    early = interrupted(overrides, (tmp_path / "data" / "train" / "images.parquet").exists, signal.SIGTERM)
    assert early.returncode == 75 and "stopped by SIGTERM" in early.stderr

    limit = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000)); "
    limit += "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    script("generate", *overrides)
    shutil.copytree(finished / "new_model", tmp_path / "new_model", dirs_exist_ok=True)
    full = subprocess.run(
        [sys.executable, "-c", limit, *command("train", *overrides)[1:]],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert full.returncode == 1 and "Traceback" not in full.stderr
    assert "cannot write the checkpoint of step" in full.stderr
    assert not list(checkpoints.glob("step-*")) and not list(checkpoints.glob(".step-*"))

    killed = interrupted(overrides, lambda: any(checkpoints.glob("step-*")), signal.SIGKILL)
    assert killed.returncode == -9
    step = max(checkpoints.glob("step-*"))
    stopped = interrupted(overrides, lambda: max(checkpoints.glob("step-*")) > step, signal.SIGTERM)
    assert stopped.returncode == 75
    script("train", *overrides)
    assert logs.rows(arm) == logs.rows(finished / "train" / "mpo-seed0")


def test_two_processes_share_one_run_folder(tmp_path: Path, script: Run) -> None:
    """tests/training/test_distributed.py tests that the losses are those of one process."""
    short = (*TINY, "trainer.max_steps=6", "objective=mpo", f"run.dir={tmp_path}")
    script("train", *short, "launcher=accelerate", "launcher.num_processes=2")
    (job,) = (tmp_path / "jobs").iterdir()
    assert json.loads((job / "status.json").read_text())["status"] == "finished"
    assert [path.name for path in (tmp_path / "train").iterdir()] == ["mpo-seed0"]
    assert (tmp_path / "train" / "mpo-seed0" / "checkpoints" / "step-00000005" / "log-1.json").exists()
