"""Every failure to load a model is one line that names the cause and says how to fix it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import errors as hub

from scramble.models import ModelError, load_vlm
from scramble.models.families.registry import check_version, family_named, family_of
from scramble.models.hub import adapter_weights, check_native, explain, read_config
from scramble.models.loading import device_or_gpu, load_adapter


@pytest.fixture
def broken(tiny: Callable[[str], Path], tmp_path: Path) -> Path:
    """Return a copy of the tiny InternVL for a test to damage."""
    return Path(shutil.copytree(tiny("internvl"), tmp_path / "model"))


def edit_config(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads((folder / "config.json").read_text())
    edit(values)
    (folder / "config.json").write_text(json.dumps(values))


def refused(folder: str | Path, **options: Any) -> str:
    """Return the error message of ``load_vlm``, which must be one line."""
    with pytest.raises(ModelError) as caught:
        load_vlm(folder, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_unknown_id_without_connection() -> None:
    message = refused("nobody/nothing", revision="abc")
    assert "nobody/nothing (revision abc) could not be downloaded" in message
    assert "model.path=FOLDER" in message


def test_no_connection_is_found_out_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a server, there is a single request instead of retries for half a minute."""
    import time

    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{revision}/{filename}")
    start = time.monotonic()
    assert "nobody/nothing could not be downloaded (no connection)" in refused("nobody/nothing")
    assert time.monotonic() - start < 10


def test_missing_folder(tmp_path: Path) -> None:
    assert "there is no such folder" in refused(tmp_path / "absent")
    assert "there is no such folder" in refused("./absent")
    assert "no config.json" in refused(tmp_path)


def test_an_adapter_that_is_not_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, **options: Any) -> str:
        raise hub.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    monkeypatch.setattr("peft.config.hf_hub_download", offline)
    for load in (adapter_weights, lambda adapter: load_adapter(None, adapter)):
        with pytest.raises(ModelError, match=r"a/b could not be downloaded .* then set model\.adapter=FOLDER"):
            load("a/b")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (hub.GatedRepoError, "is gated: accept its terms at https://huggingface.co/a/b"),
        (hub.RepositoryNotFoundError, "the hub has no model a/b"),
        (hub.RevisionNotFoundError, "a/b has no revision 'v2'"),
        (hub.LocalEntryNotFoundError, "could not be downloaded"),
        (hub.OfflineModeIsEnabled, "could not be downloaded"),
        (hub.RemoteEntryNotFoundError, "lacks a required file"),
    ],
)
def test_what_the_hub_says_is_explained(error: type[Exception], words: str) -> None:
    import httpx

    request = httpx.Request("GET", "https://huggingface.co/a/b")
    if issubclass(error, httpx.HTTPStatusError) or issubclass(error, hub.HfHubHTTPError):
        cause: Exception = error("no", response=httpx.Response(404, request=request))  # type: ignore[call-arg, arg-type]
    else:
        cause = error("no")
    outer = OSError("wrapped by transformers")
    outer.__cause__ = cause
    assert words in str(explain(outer, "a/b", "v2"))


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ("OpenGVLab/InternVL3-8B", "OpenGVLab/InternVL3-8B-hf"),
        ("OpenGVLab/InternVL3-8B-Instruct", "OpenGVLab/InternVL3-8B-hf"),
        ("OpenGVLab/InternVL3_5-4B", "OpenGVLab/InternVL3_5-4B-HF"),
        ("OpenGVLab/InternVL3_5-30B-A3B", "OpenGVLab/InternVL3_5-30B-A3B-HF"),
        ("OpenGVLab/InternVL2_5-8B-MPO", "OpenGVLab/InternVL2_5-8B-MPO-hf"),
        ("OpenGVLab/InternVL2_5-8B", "no native checkpoint"),
        ("OpenGVLab/InternVL2-8B", "no native checkpoint"),
        ("OpenGVLab/InternVL2-8B", "OpenGVLab/InternVL3-8B-hf"),
        ("liuhaotian/llava-v1.5-7b", "llava-hf/llava-1.5-7b-hf"),
        ("allenai/MolmoE-1B-0924", "allenai/Molmo-7B-D-0924"),
    ],
)
def test_remote_code_ids_are_answered(given: str, answer: str) -> None:
    assert answer in refused(given)


@pytest.mark.parametrize(
    "path",
    [
        "OpenGVLab/InternVL3-78B-hf",
        "OpenGVLab/InternVL3_5-8B-HF",
        "OpenGVLab/InternVL2_5-8B-MPO-hf",
        "allenai/Molmo-7B-D-0924",
        "allenai/Molmo2-8B",
        "samarthm44/SCRAMBLe-Molmo-7B-D-0924",
        "llava-hf/llava-1.5-7b-hf",
    ],
)
def test_native_ids_pass(path: str) -> None:
    check_native(path)


def test_config(broken: Path) -> None:
    edit_config(broken, lambda c: c.update(quantization_config={"quant_method": "awq"}))
    assert "quantised checkpoint (awq)" in refused(broken)
    edit_config(broken, lambda c: (c.pop("quantization_config"), c.update(model_type="internvl_chat")))
    assert "OpenGVLab/InternVL3-8B-hf" in refused(broken)
    edit_config(broken, lambda c: c.update(model_type="bert"))
    message = refused(broken)
    assert "'bert'" in message and "image-text-to-text" in message
    edit_config(broken, lambda c: c.pop("model_type"))
    assert "no model_type" in refused(broken)
    (broken / "config.json").write_text("{")
    assert "is not JSON" in refused(broken)


def test_weight_files(broken: Path) -> None:
    weights = broken / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    assert "model.safetensors cannot be read" in refused(broken)
    weights.write_bytes(b"")
    assert "model.safetensors cannot be read" in refused(broken)
    weights.unlink()
    assert "has no model.safetensors" in refused(broken)


def test_missing_shard(broken: Path) -> None:
    model = load_vlm(broken).model
    (broken / "model.safetensors").unlink()
    model.save_pretrained(broken, max_shard_size="2MB")
    load_vlm(broken)
    shard = sorted(broken.glob("model-*.safetensors"))[1]
    shard.unlink()
    message = refused(broken)
    assert shard.name in message and "lacks 1 of" in message


def test_tensors(broken: Path) -> None:
    edit_config(broken, lambda c: c["text_config"].update(intermediate_size=64))
    message = refused(broken)
    assert "mlp.down_proj.weight ((128, 352) in the file, (128, 64) in the config)" in message
    edit_config(broken, lambda c: c["text_config"].update(intermediate_size=352, num_hidden_layers=5, layer_types=None))
    message = refused(broken)
    assert "the weight files lack" in message and "layers.4." in message


def test_processor_of_another_family(broken: Path, tiny: Callable[[str], Path]) -> None:
    for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny("llava") / name, broken / name)
    message = refused(broken)  # with torchvision, the missing video part is reported first
    assert "does not belong to internvl" in message or "no complete processor" in message
    (broken / "processor_config.json").unlink()
    (broken / "tokenizer.json").unlink()
    assert "no complete processor" in refused(broken) or "does not belong to internvl" in refused(broken)


def test_processor_of_another_model_of_the_family(broken: Path, tmp_path: Path) -> None:
    edit_config(broken, lambda c: c.update(image_token_id=7))
    assert "belongs to another model" in refused(broken)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"family": "llava"}, "is of family internvl, not llava"),
        ({"dtype": "int8"}, "model.dtype=int8"),
        ({"attn_implementation": "fast"}, "model.attn_implementation=fast"),
        ({"attn_implementation": "flash_attention_2"}, "flash-attn"),
        ({"quantization": {"load_in_4bit": True}}, "bitsandbytes"),
        ({"device": "cuda"}, "no CUDA GPU"),
        ({"max_tiles": 0}, "model.max_tiles must be at least 1, not 0"),
        ({"adapter": "/nowhere"}, "there is no adapter at /nowhere"),
        ({"adapter": "runs/none"}, "there is no adapter at runs/none, because this folder does not exist"),
    ],
)
def test_options(options: dict[str, Any], words: str, tiny: Callable[[str], Path]) -> None:
    import torch

    if torch.cuda.is_available() and words in ("no CUDA GPU", "bitsandbytes"):
        pytest.skip("has a GPU")
    assert words in refused(tiny("internvl"), **options)


@pytest.mark.parametrize(
    ("device", "has_gpu", "expected"),
    [
        (None, True, "cuda:1"),
        ("cuda", True, "cuda:1"),
        ("cuda:0", True, "cuda:0"),
        ("cpu", True, "cpu"),
        ("auto", True, "auto"),
        (None, False, None),
        ("cuda", False, "cuda"),  # load_vlm reports the missing GPU
    ],
)
def test_the_default_device_is_the_gpu_of_this_process(
    device: str | None, has_gpu: bool, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: has_gpu)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert device_or_gpu(device) == expected


def test_adapter_of_another_base(tiny: Callable[[str], Path], with_lora: Any, tmp_path: Path) -> None:
    vlm = load_vlm(tiny("internvl"))
    tuned = with_lora(vlm.model, vlm.family.lora_targets)
    tuned.save_pretrained(tmp_path)
    again = load_vlm(tiny("internvl"), adapter=tmp_path)
    for name, parameter in tuned.named_parameters():
        assert parameter.equal(again.model.get_parameter(name))
    message = refused(tiny("llava"), adapter=tmp_path)
    assert "does not match" in message and str(tmp_path) in message


@pytest.fixture
def adapter(tiny: Callable[[str], Path], with_lora: Any, tmp_path: Path) -> Path:
    """Return a saved adapter of the tiny InternVL for a test to damage."""
    vlm = load_vlm(tiny("internvl"))
    with_lora(vlm.model, vlm.family.lora_targets).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("adapter_model.safetensors", None, "has no adapter_model.safetensors"),
        ("adapter_model.safetensors", b"", "adapter_model.safetensors cannot be read"),
        ("adapter_model.safetensors", b"half", "adapter_model.safetensors cannot be read"),
        ("adapter_config.json", None, "has no adapter_config.json"),
        ("adapter_config.json", b"", "adapter_config.json is not JSON"),
        ("adapter_config.json", b'{"peft_type": "LO', "adapter_config.json is not JSON"),
        ("adapter_config.json", b"\xff\xfe\x00", "adapter_config.json is not JSON"),
        ("adapter_config.json", b"[]", "is not a JSON object"),
        ("adapter_config.json", b"{}", "has no peft_type"),
        ("adapter_config.json", b'{"peft_type": "NOTHING"}', "cannot be read ('NOTHING')"),
        ("adapter_config.json", b'{"peft_type": "LORA", "r": "many"}', "does not match"),
        ("adapter_config.json", b'{"peft_type": "LORA", "r": 4, "target_modules": "nothing"}', "does not match"),
    ],
)
def test_a_broken_adapter_is_named(
    file: str, content: bytes | None, words: str, adapter: Path, tiny: Callable[[str], Path]
) -> None:
    broken = adapter / file
    whole = broken.read_bytes()
    broken.unlink()
    if content is not None:
        broken.write_bytes(whole[: len(whole) // 2] if content == b"half" else content)
    message = refused(tiny("internvl"), adapter=adapter)
    assert words in message and str(adapter) in message


@pytest.mark.parametrize(("layers", "words"), [(5, "the adapter lacks"), (3, "the model lacks")])
def test_adapter_of_a_deeper_or_shallower_base(layers: int, words: str, adapter: Path, tmp_path: Path) -> None:
    from scramble.models.tiny import save_tiny

    other = save_tiny("internvl", tmp_path / "other", ["describe the image"], 0, layers=layers)
    message = refused(other, adapter=adapter)
    assert words in message and str(adapter) in message and str(other) in message


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("config.json", b"[]", "is not a JSON object"),
        ("config.json", b"\xff\xfe\x00", "is not JSON"),
        ("config.json", b'{"model_type": "clip"}', "are not supported"),
        ("config.json", b'{"model_type": ["internvl"]}', "no model_type"),
        ("config.json", b'{"model_type": "internvl", "text_config": 3}', "config.json of"),
        ("config.json", b'{"model_type": "internvl", "quantization_config": "nf4"}', "quantised checkpoint"),
        ("tokenizer.json", None, "processor"),
        ("tokenizer.json", b'{"version": "1.0", ', "processor"),
        ("tokenizer_config.json", b"{", "processor"),
        ("processor_config.json", b"[]", "processor"),
        ("processor_config.json", b"", "processor"),
    ],
)
def test_broken_files_of_a_model_are_named(file: str, content: bytes | None, words: str, broken: Path) -> None:
    from scramble.models.preflight import preflight

    (broken / file).unlink()
    if content is not None:
        (broken / file).write_bytes(content)
    message = refused(broken)
    assert words in message and str(broken) in message
    if file == "config.json":
        with pytest.raises(ModelError, match=words):
            preflight(str(broken))


def test_what_ships_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of a shipped file is looked up in the working directory, then in the project, and never on the hub."""
    from omegaconf import OmegaConf

    from scramble.app import plain_sections
    from scramble.project import ROOT, shipped

    monkeypatch.chdir(tmp_path)
    assert load_vlm("data/tiny_internvl").path == str(ROOT / "data" / "tiny_internvl")
    cfg = OmegaConf.create({"model": {"path": "data/tiny_internvl", "name": "x"}, "data": {"path": "data/example"}})
    values = plain_sections(cfg, "model", "data")
    assert values["model"] == {"path": str(ROOT / "data" / "tiny_internvl"), "name": "x"}
    assert values["data"]["path"] == str(ROOT / "data" / "example")
    assert shipped("data/nothing") == "data/nothing" and shipped("docs") == "docs"
    assert "there is no such folder" in refused("data/nothing") and "there is no such folder" in refused("runs/none")
    (tmp_path / "data" / "example").mkdir(parents=True)
    assert shipped("data/example") == "data/example"


def test_llava_does_not_tile(tiny: Callable[[str], Path]) -> None:
    assert "llava does not divide images into tiles" in refused(tiny("llava"), max_tiles=4)


def test_versions() -> None:
    check_version("5.20.0")
    for version in ("5.19.2", "6.0.0"):
        with pytest.raises(ModelError, match=f"version {version} is installed: run pip install"):
            check_version(version)


def test_model_types() -> None:
    assert family_of("internvl").name == "internvl"
    with pytest.raises(ModelError, match="there is no family"):
        family_named("clip")


def test_config_is_read_without_weights(broken: Path) -> None:
    (broken / "model.safetensors").unlink()
    assert read_config(str(broken))["model_type"] == "internvl"
