"""Tests shared folders with their cards, and a push to a hub on the loopback address."""

from __future__ import annotations

import base64
import json
import shlex
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from huggingface_hub import DatasetCard, ModelCard, constants
from safetensors.torch import save_file

from scramble.evaluation.scoring import results
from scramble.evaluation.scoring.aggregation import rates, scores
from scramble.evaluation.scoring.outcomes import Outcome
from scramble.evaluation.scoring.results import Result
from scramble.formats import read_pairs
from scramble.formats.card import without_folders
from scramble.pipeline import StageError, check_arm
from scramble.pipeline.generate import generate
from scramble.pipeline.share import share
from scramble.project import ROOT
from scramble.records import PreferencePair
from scramble.storage.files import StoreError, write_json
from scramble.storage.tables import read_table

ARM = "mpo-seed0"
SETTINGS: dict[str, Any] = {
    "model": {"path": "me/base-model"},
    "objective": {"name": "mpo"},
    "trainer": {
        "loss_type": ["sigmoid", "bco_pair", "sft"],
        "loss_weights": [0.8, 0.2, 1.0],
        "beta": 0.1,
        "global_batch_size": 8,
        "learning_rate": 1e-5,
        "seed": 0,
    },
    "peft": {"r": 4, "lora_alpha": 8},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run with real data, an arm with adapter files, and scores. Of 40 items the base has 10 right, and the
    arm has 20 right.
    """
    run = tmp_path_factory.mktemp("run")
    world = {"kind": "world", "n_train": 12, "n_val": 4, "n_test": 4, "quads_val": 1, "quads_test": 1}
    generate(run / "data", data=world, pairs={"method": "world", "prompt": "Describe it.", "surface": False}, seed=0)
    arm = run / "train" / ARM
    (arm / "adapter").mkdir(parents=True)
    save_file({"base_model.a": torch.zeros(2)}, arm / "adapter" / "adapter_model.safetensors")
    write_json(arm / "adapter" / "adapter_config.json", {"base_model_name_or_path": "me/base-model"})
    write_json(arm / "stage.json", {"status": "finished", "config": SETTINGS, "summary": {"steps": 7}})
    write_json(arm / "environment.json", {"packages": {"torch": "2.13.0"}, "git_commit": "abcdef0123456789"})
    for method, right in (("base", 10), (ARM, 20)):
        actual = [Outcome(str(n), "", "", (), str(n), {"accuracy": float(n < right)}, "a", "a") for n in range(40)]
        benchmark = {"name": "pope", "version": "v", "scoring": "plain", "items": 40, "limit": None}
        result = Result(benchmark, {"path": "x"}, {"name": "standard"}, scores("plain", actual), rates(actual))
        results.write(run / "evaluation" / method / "pope", result, actual)
    return run


def give(run: Path, out: Path, what: str = "adapter", **more: Any) -> Path:
    return share(run, ARM, run / "data", out, what=what, model={"path": "me/base-model"}, name="mine", **more)


def test_the_model_card_says_what_it_must(run: Path, tmp_path: Path) -> None:
    folder = give(run, tmp_path / "adapter", license="apache-2.0", notes="Look twice.")
    assert {path.name for path in folder.iterdir()} == {"README.md", "adapter_model.safetensors", "adapter_config.json"}
    card = ModelCard.load(folder / "README.md")
    assert (card.data.license, card.data.base_model, card.data.library_name) == ("apache-2.0", "me/base-model", "peft")
    assert card.data.eval_results[0].metric_value == 50.0
    text = card.text
    # By hand: 20 of 40 right, standard error 50 / sqrt(39) = 8.0; the base has 10 of 40.
    assert "| pope | accuracy | 40 | 50.0 ± 8.0 | 25.0 | +25.0 [" in text
    assert "| objective | mpo (0.8 sigmoid + 0.2 bco_pair + 1 sft) |" in text and "| learning rate | 1e-05 |" in text
    assert "images" in text and "picks the chosen text" in text and "Look twice." in text
    for what in ("## Limitations", "2504.04740", "2411.10442", "2601.05600", "commit abcdef0123"):
        assert what in text, what


def test_whole_weights_and_a_card_without_scores(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "run"
    arm = other / "train" / ARM
    (arm / "model").mkdir(parents=True)
    save_file({"a": torch.zeros(2)}, arm / "model" / "model.safetensors")
    settings = {**SETTINGS, "trainer": {**SETTINGS["trainer"], "lora": None}}
    write_json(arm / "stage.json", {"status": "finished", "config": settings, "summary": {}})
    folder = share(other, ARM, run / "data", tmp_path / "out", what="model", model={"path": "b"}, name="mine")
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "transformers" and "The model was not evaluated." in card.text
    with pytest.raises(StageError, match=r"mpo-seed0 has no adapter, because all weights were trained: set what=model"):
        share(other, ARM, run / "data", tmp_path / "no", what="adapter", model={"path": "b"}, name="mine")


def test_the_data_opens_as_a_data_set_and_reads_back(run: Path, tmp_path: Path) -> None:
    from datasets import Image, load_dataset

    folder = give(run, tmp_path / "data", "data", license="cc-by-4.0")
    pairs = list(read_table(run / "data" / "train", PreferencePair))
    rows = load_dataset("parquet", data_files=str(folder / "pairs.parquet"), cache_dir=str(tmp_path / "cache"))["train"]
    assert len(rows) == len(pairs) and isinstance(rows.features["images"].feature, Image)
    assert next(iter(read_pairs(folder / "pairs.parquet"))).chosen == pairs[0].chosen
    card = DatasetCard.load(folder / "README.md")
    assert card.data.license == "cc-by-4.0" and f"{len(pairs)} preference pairs" in card.text
    assert "fitted on pairs of other images (transfer accuracy)" in card.text
    assert "2601.05600" in card.text and "## Limitations" in card.text
    assert "| world | 12 | Apache-2.0 |" in card.text and "No images of benchmarks were excluded" in card.text


def test_cards_state_licences_benchmark_images_and_commands(run: Path, tmp_path: Path) -> None:
    other, base = tmp_path / "run", tmp_path / "base"
    shutil.copytree(run, other)
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: llama3.2\n---\n# Base\n")
    stage = json.loads((other / "data" / "stage.json").read_text())
    stage["config"]["data"]["kind"] = "image_folder"
    stage["config"]["pairs"]["exclude_benchmarks"] = ["winoground", "pope"]
    stage["summary"]["splits"]["train"]["excluded_images"] = {"winoground": 3}
    write_json(other / "data" / "stage.json", stage)
    (other / "data" / "command.txt").write_text("python scripts/generate.py name=mine\n")
    (other / "train" / ARM / "command.txt").write_text("python scripts/train.py name=mine\n")
    options: dict[str, Any] = {"name": "mine", "model": {"path": str(base)}, "data_license": "CC BY 4.0"}
    adapter = share(other, ARM, other / "data", what="adapter", **options)
    text = (adapter / "README.md").read_text()
    assert "| llama3.2 |" in text and "| training data `image_folder` | CC BY 4.0 |" in text
    assert "python scripts/generate.py name=mine\npython scripts/train.py name=mine\n" in text
    assert "were excluded by COCO id and by file hash: winoground, pope (3 images)" in text
    text = (share(other, ARM, other / "data", what="data", **options) / "README.md").read_text()
    assert "winoground, pope (3 images)" in text and "python scripts/generate.py name=mine\n" in text
    options |= {"base_license": "mine", "model": {"path": "me/base-model"}}
    folder = share(other, ARM, other / "data", tmp_path / "again", what="adapter", **options)
    assert "| base model `me/base-model` | mine |" in (folder / "README.md").read_text()
    options |= {"base_license": None, "model": {"path": str(ROOT / "data" / "tiny_internvl")}}
    folder = share(other, ARM, other / "data", tmp_path / "shipped", what="adapter", **options)
    assert "| base model `me/base-model` | apache-2.0 |" in (folder / "README.md").read_text()


def test_nothing_shared_contains_paths_of_this_machine(run: Path, tmp_path: Path) -> None:
    other, base = tmp_path / "run", tmp_path / "models" / "my-base"
    shutil.copytree(run, other)
    base.mkdir(parents=True)
    command = f"python scripts/train.py data.path={tmp_path}/photos 'benchmark=[pope]' model.path={base} x=runs/a"
    for folder in (other / "data", other / "train" / ARM):
        (folder / "command.txt").write_text(command + "\n")
    arm = other / "train" / ARM
    settings = {**SETTINGS, "model": {"path": str(base)}}
    write_json(arm / "stage.json", {"status": "finished", "config": settings, "summary": {"steps": 7}})
    write_json(arm / "adapter" / "adapter_config.json", {"base_model_name_or_path": str(base), "r": 4})
    options: dict[str, Any] = {"name": "mine", "model": {"path": str(base)}}
    adapter = share(other, ARM, other / "data", what="adapter", **options)
    data = share(other, ARM, other / "data", what="data", **options)
    for file in (adapter / "README.md", adapter / "adapter_config.json", data / "README.md"):
        assert str(tmp_path) not in file.read_text(), file
    text = (adapter / "README.md").read_text()
    assert "data.path=path/to/photos 'benchmark=[pope]' model.path=path/to/my-base x=runs/a\n" in text
    assert ModelCard.load(adapter / "README.md").data.base_model == "my-base" and 'load_vlm("my-base"' in text
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config == {"base_model_name_or_path": "my-base", "r": 4}


@pytest.mark.parametrize(
    ("word", "public"),
    [
        ("data.path=/data/coco/", "data.path=path/to/coco"),
        ("x=[/a/b,/c/d]", "'x=[path/to/b,path/to/d]'"),
        ("data.path=~/photos", "data.path=path/to/photos"),
        ('data.path="/my dir/a b"', "'data.path=\"path/to/a b\"'"),
        ("data.path=C:\\Users\\me\\data", "data.path=path/to/data"),
        ("engine.base_url=http://127.0.0.1:8000/v1", "engine.base_url=http://127.0.0.1:8000/v1"),
        ("model.path=me/model", "model.path=me/model"),
        ("prompt=Is it red and/or blue?", "'prompt=Is it red and/or blue?'"),
    ],
)
def test_absolute_paths_in_commands(word: str, public: str) -> None:
    assert without_folders(shlex.join([word])) == public


def test_a_mistyped_run_or_arm_is_answered_with_those_there_are(run: Path, tmp_path: Path) -> None:
    assert check_arm(run, ARM) == run / "train" / ARM
    with pytest.raises(StageError, match=rf"there is no run .*did you mean .*{run}\b"):
        check_arm(run.with_name(run.name + "x"), ARM)
    with pytest.raises(StageError, match=r"name a run \(name=...\) or train it first"):
        check_arm(tmp_path / "nothing" / "here", ARM)
    with pytest.raises(StageError, match=r"has no finished arm: train an arm first"):
        check_arm(tmp_path, ARM)


def test_a_folder_with_spaces_and_brackets(run: Path, tmp_path: Path) -> None:
    folder = give(run, tmp_path / "my [best] adapter, 1", "data")
    assert (folder / "pairs.parquet").exists()


def test_bad_input(run: Path, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="what=weights cannot be shared: choose one of adapter, model, data"):
        give(run, tmp_path / "out", "weights")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep me")
    with pytest.raises(StoreError, match=r"full exists and has different content: choose another folder"):
        give(run, tmp_path / "full")
    with pytest.raises(StageError, match=r"has no finished arm dpo-seed0: choose one of mpo-seed0 \(run.arm=...\)"):
        share(run, "dpo-seed0", run / "data", tmp_path / "out", what="adapter", model={"path": "b"}, name="mine")
    with pytest.raises(StageError, match="push_to_hub=a/b/c is not the name of a repository: write owner/name"):
        give(run, tmp_path / "out", push_to_hub="a/b/c")
    (tmp_path / "a file").touch()
    with pytest.raises(StoreError, match=r"cannot write .*: choose another folder \(out=\.\.\.\)"):
        give(run, tmp_path / "a file" / "out")
    (tmp_path / "a file").unlink()
    (run / "train" / ARM / "adapter" / "optimizer.pt").write_bytes(b"x")
    try:
        with pytest.raises(StageError, match=r"optimizer.pt cannot be shared"):
            give(run, tmp_path / "out")
    finally:
        (run / "train" / ARM / "adapter" / "optimizer.pt").unlink()
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's interface that a push needs: repositories and files by commit."""

    repositories: ClassVar[dict[str, dict[str, Any]]] = {}
    files: ClassVar[dict[str, bytes]] = {}
    keys: ClassVar[set[str]] = set()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        Hub.keys.add(self.headers.get("Authorization", ""))
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            Hub.repositories[f"{asked.get('organization', 'me')}/{asked['name']}"] = asked
            self.reply({"url": f"{constants.ENDPOINT}/me/{asked['name']}", "name": f"me/{asked['name']}"})
        elif self.path.endswith("/preupload/main"):
            names = [file["path"] for file in json.loads(body)["files"]]
            self.reply({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        elif self.path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    Hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.reply({"success": True, "commitUrl": f"{constants.ENDPOINT}/me/mine/commit/0", "commitOid": "0" * 40})
        else:
            self.reply({"warnings": [], "errors": []})

    def do_GET(self) -> None:
        self.reply({"id": "me/mine", "sha": "0" * 40, "siblings": []})

    def reply(self, value: Any) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret0123456789")
    yield
    server.shutdown()


def test_a_push_goes_to_the_repository_that_is_named_and_is_private(run: Path, tmp_path: Path, hub: None) -> None:
    give(run, tmp_path / "quiet")
    assert Hub.repositories == {}  # off by default
    folder = give(run, tmp_path / "adapter", push_to_hub="me/mine")
    asked = Hub.repositories["me/mine"]  # "private" before huggingface_hub 2
    assert asked.get("visibility") == "private" or asked.get("private") is True
    assert Hub.files == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert Hub.keys == {"Bearer hf_secret0123456789"}
    assert all(b"hf_secret" not in content for content in Hub.files.values())


def test_a_push_that_fails_keeps_the_folder(run: Path, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"adapter was written but not pushed to me/mine"):
        give(run, tmp_path / "adapter", push_to_hub="me/mine")  # no connection in tests
    assert (tmp_path / "adapter" / "README.md").is_file()
    with pytest.raises(StageError, match=r"not pushed to me/mine.*run the command again"):
        give(run, tmp_path / "adapter", push_to_hub="me/mine")  # the existing folder is accepted


def test_the_same_again_is_reused_and_each_arm_has_a_folder(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def shared(arm: str, what: str, notes: str = "") -> Path:
        return share(run, arm, run / "data", what=what, model={"path": "me/base-model"}, name="mine", notes=notes)

    other = run / "train" / "dpo-seed0"
    shutil.copytree(run / "train" / ARM, other)
    try:
        folders = [shared(ARM, "adapter"), shared("dpo-seed0", "adapter"), shared(ARM, "data")]
        assert folders == [run / "share" / part for part in (f"{ARM}/adapter", "dpo-seed0/adapter", "data")]
        files = [path for folder in folders for path in folder.iterdir()]
        before = [path.stat().st_mtime_ns for path in files]
        capsys.readouterr()
        assert [shared(ARM, "adapter"), shared("dpo-seed0", "adapter"), shared(ARM, "data")] == folders
        assert [path.stat().st_mtime_ns for path in files] == before
        assert capsys.readouterr().out.count("(finished already)") == 3
        with pytest.raises(StoreError, match="exists and has different content"):
            shared(ARM, "adapter", notes="Another card.")
        assert "Another card" not in (folders[0] / "README.md").read_text()
    finally:
        shutil.rmtree(other)
        shutil.rmtree(run / "share")
