"""The project runs no code from files, loads no pickles, unpacks no archives, and writes no access tokens."""

from __future__ import annotations

import ast
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from scramble.models import load_vlm
from scramble.models.family import ModelError
from scramble.models.tiny import save_tiny
from scramble.pipeline import StageError
from scramble.pipeline.share import check_files

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "scripts").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")])
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "marshal", "shelve", "tarfile"}
READS_MEMBERS = {"src/scramble/sources/shards.py": ["imports tarfile"]}  # reads members and writes no file
UNSAFE_CALLS = {"eval", "exec", "extractall", "unpack_archive"}


def findings(tree: ast.AST) -> list[str]:
    """List the calls in a source file that could execute or unpack the contents of a file."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"imports {n}" for n in names if n.partition(".")[0] in UNSAFE_MODULES]
        if not isinstance(node, ast.Call):
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        owner = (
            node.func.value.id if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name) else ""
        )
        given = {k.arg: k.value for k in node.keywords}

        def is_true(key: str, given: dict[str | None, ast.expr] = given) -> bool:
            value = given.get(key)
            return value is not None and not (isinstance(value, ast.Constant) and not value.value)

        method = isinstance(node.func, ast.Attribute)  # model.eval() is allowed
        if name in UNSAFE_CALLS and not (name in ("eval", "exec") and method):
            found.append(f"calls {name}")
        if (owner, name) == ("torch", "load") and not is_true("weights_only"):
            found.append("calls torch.load without weights_only")
        if (owner, name) == ("yaml", "load"):
            found.append("calls yaml.load")
        if name == "ZipFile" and not (len(node.args) > 1 and getattr(node.args[1], "value", "r") == "w"):
            found.append("reads a zip file")
        found += [f"sets {key}" for key in ("trust_remote_code", "allow_pickle", "shell") if is_true(key)]
    return found


def test_no_source_runs_or_unpacks_what_a_file_brings() -> None:
    assert len(SOURCES) > 100
    found = {str(path.relative_to(ROOT)): findings(ast.parse(path.read_text(encoding="utf-8"))) for path in SOURCES}
    assert {path: what for path, what in found.items() if what} == READS_MEMBERS


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("load(p, trust_remote_code=True)", "sets trust_remote_code"),
        ("import pickle", "imports pickle"),
        ("torch.load(p)", "calls torch.load without weights_only"),
        ("np.load(p, allow_pickle=True)", "sets allow_pickle"),
        ("eval(text)", "calls eval"),
        ("zipfile.ZipFile(p)", "reads a zip file"),
        ("subprocess.run(line, shell=True)", "sets shell"),
    ],
)
def test_the_search_finds_what_it_looks_for(source: str, what: str) -> None:
    assert findings(ast.parse(source)) == [what]


class Bomb:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.path,))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("internvl", tmp_path_factory.mktemp("model") / "tiny", ["a red circle", "a blue square"], seed=0)


def test_code_in_a_model_folder_is_not_run(model: Path, tmp_path: Path) -> None:
    folder, mark = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(model, folder)
    (folder / "modeling_evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Evil: pass\n")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = dict.fromkeys(
        ("AutoConfig", "AutoModelForImageTextToText", "AutoProcessor"), "modeling_evil.Evil"
    )
    (folder / "config.json").write_text(json.dumps(config))
    vlm = load_vlm(folder)
    assert not mark.exists()
    assert type(vlm.model).__module__.startswith("transformers.")


def test_pickled_weights_are_refused_unread(model: Path, tmp_path: Path) -> None:
    folder, mark = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(model, folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(ModelError, match=r"model has its weights in pickle format .* use a copy with safetensors"):
        load_vlm(folder)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    settings = {"peft_type": "LORA", "r": 2, "target_modules": "q_proj", "base_model_name_or_path": str(model)}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(ModelError, match="adapter has its weights in pickle format"):
        load_vlm(model, adapter=adapter)
    assert not mark.exists()


def test_the_loader_of_checkpoints_runs_nothing(tmp_path: Path) -> None:
    """Optimizer states are torch files, which transformers reads with ``weights_only``, so a malicious file is
    refused.
    """
    torch.save({"state": Bomb(tmp_path / "ran")}, tmp_path / "optimizer.pt")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "optimizer.pt", weights_only=True)
    assert not (tmp_path / "ran").exists()
    import inspect

    from transformers import Trainer

    loader = inspect.getsource(Trainer._load_optimizer_and_scheduler) + inspect.getsource(Trainer._load_rng_state)
    calls = [n for n in ast.walk(ast.parse("class T:\n" + loader)) if isinstance(n, ast.Call)]
    loads = [c for c in calls if isinstance(c.func, ast.Attribute) and (ast.unparse(c.func) == "torch.load")]
    assert loads and all(any(k.arg == "weights_only" for k in c.keywords) for c in loads)


@pytest.mark.parametrize("name", ["weights.bin", "model.pt", "model.pkl", "run.py", "link.json"])
def test_only_safe_kinds_of_files_are_shared(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x")
    (tmp_path / "README.md").write_text("card")
    check_files(tmp_path)
    if name.startswith("link"):
        (tmp_path / name).symlink_to("/etc/passwd")
    else:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(StageError, match=f"{name} cannot be shared"):
        check_files(tmp_path)
