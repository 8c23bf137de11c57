"""Tests export and chat: exported models load anywhere and give the same answers as the tuned model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from scramble.models import ModelError, load_vlm
from scramble.models.chat import answer
from scramble.models.export import export_model
from scramble.storage.files import StoreError

FAMILIES = ("internvl", "internvl_moe", "llava", "llava_onevision", "ovis2", "smolvlm", "molmo")


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of all saved tensors."""
    actual: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            actual |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    return actual


def logits(vlm: Any) -> torch.Tensor:
    prompt = vlm.family.encode_prompt(vlm.processor, "describe", [Image.linear_gradient("L").resize((60, 40))])
    with torch.no_grad():
        return vlm.model(**vlm.family.generation_inputs(prompt, vlm.model)).logits


@pytest.mark.parametrize("name", FAMILIES)
def test_merged_folder_answers_as_the_adapter(
    name: str, tiny: Callable[[str], Path], with_lora: Any, tmp_path: Path
) -> None:
    base = load_vlm(tiny(name))
    plain = logits(base)
    with_lora(base.model, base.family.lora_targets).save_pretrained(tmp_path / "adapter")
    tuned = load_vlm(tiny(name), adapter=tmp_path / "adapter")
    out = export_model(tiny(name), tmp_path / "out", adapter=tmp_path / "adapter", max_shard_size="300KB")
    merged = load_vlm(out)
    assert not hasattr(merged.model, "peft_config")
    torch.testing.assert_close(logits(merged), logits(tuned), atol=1e-5, rtol=0)
    assert (logits(merged) - plain).abs().max() > 1e-3
    assert shapes(out) == shapes(tiny(name))
    assert len(list(out.glob("*.safetensors"))) > 1
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (out / file).read_bytes() == (tiny(name) / file).read_bytes()
    assert json.loads((out / "export.json").read_text())["base"] == str(tiny(name))


def test_another_type_is_named_in_the_config(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    out = export_model(tiny("internvl"), tmp_path / "out", dtype="bfloat16")
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    assert next(load_vlm(out).model.parameters()).dtype == torch.bfloat16


def test_the_home_folder_is_expanded(
    tiny: Callable[[str], Path], with_lora: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").symlink_to(tiny("internvl"))
    vlm = load_vlm("~/model")
    with_lora(vlm.model, vlm.family.lora_targets).save_pretrained(tmp_path / "adapter")
    out = export_model("~/model", tmp_path / "out", adapter="~/adapter")
    assert (out / "tokenizer.json").is_file()


def test_nothing_is_overwritten(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(StoreError, match="is not an empty folder"):
        export_model(tiny("internvl"), tmp_path)
    with pytest.raises(ModelError, match="no adapter"):
        export_model(tiny("internvl"), tmp_path / "out", adapter=tmp_path / "absent")
    assert [file.name for file in tmp_path.iterdir()] == ["note.txt"]


@pytest.mark.parametrize("name", FAMILIES)
def test_answer(name: str, tiny: Callable[[str], Path]) -> None:
    """Greedy answers are reproducible, equal with and without a cache, and stop at the end of turn."""
    vlm = load_vlm(tiny(name))
    image = Image.linear_gradient("L").resize((60, 40))
    first = answer(vlm, "describe the image", [image], max_new_tokens=12)
    assert first
    vlm.model.generation_config.use_cache = False
    assert answer(vlm, "describe the image", [image], max_new_tokens=12) == first
    sampled = [
        answer(vlm, "describe the image", [image], max_new_tokens=12, temperature=1.0, seed=seed) for seed in (1, 1, 2)
    ]
    assert sampled[0] == sampled[1] != sampled[2]
    assert isinstance(answer(vlm, "name a shape", max_new_tokens=4), str)
