"""Compares the preflight's estimates with a model's actual allocations, and checks its errors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from scramble.models import ModelError, load_vlm
from scramble.models.backbone import FamilyBackbone
from scramble.models.hub import num_adapter_weights
from scramble.models.preflight import GIB, preflight
from scramble.pipeline.train import needs
from scramble.training.trainable import add_lora, num_new_weights

LORA = partial(num_new_weights, peft={"r": 32})


def test_counts_are_those_of_the_loaded_model(tiny: Callable[[str], Path], with_lora: Any) -> None:
    for name in ("internvl", "molmo", "llava", "llava_next", "llava_onevision", "ovis2", "aya_vision", "smolvlm"):
        vlm = load_vlm(tiny(name))
        report = preflight(str(tiny(name)), num_adapter_weights=partial(num_new_weights, peft={"r": 4}))
        assert report.parameters == sum(p.numel() for p in vlm.model.parameters())
        model = with_lora(vlm.model, vlm.family.lora_targets)
        assert report.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert report.memory["weights"] == 4 * report.parameters
        assert report.memory["gradients and optimizer"] == 16 * report.trained
        assert report.family == name


@pytest.mark.parametrize(
    "peft",
    [
        {"r": 4},
        {"r": 4, "target_modules": ["q_proj"]},
        {"r": 4, "target_modules": "v_proj"},
        {"r": 4, "target_modules": r".*language_model.*\.(q|v)_proj", "rank_pattern": {"v_proj": 8}},
        {"r": 4, "use_dora": True},
        {"r": 4, "modules_to_save": "lm_head"},
    ],
    ids=str,
)
def test_the_weights_of_an_adapter_are_counted(peft: dict[str, Any], tiny: Callable[[str], Path]) -> None:
    for vision in (False, True):
        if vision and "target_modules" in peft:
            continue
        vlm = load_vlm(tiny("internvl"))
        count = partial(num_new_weights, peft=peft, vision=vision)
        report = preflight(str(tiny("internvl")), num_adapter_weights=count)
        model = add_lora(vlm, peft, vision=vision)
        assert report.trained == sum(p.numel() for p in model.parameters() if p.requires_grad) > 0


def test_the_weights_of_a_saved_adapter_are_counted(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    vlm = load_vlm(tiny("internvl"))
    peft = {"r": 4, "target_modules": ["q_proj"]}
    adapted: Any = add_lora(vlm, peft)
    adapted.save_pretrained(tmp_path)
    assert num_adapter_weights(str(tmp_path)) == num_new_weights(load_vlm(tiny("internvl")), peft)
    model, trainer = {"path": str(tiny("internvl")), "adapter": str(tmp_path)}, {"gradient_checkpointing": False}
    assert needs(model, trainer, None).trained == num_adapter_weights(str(tmp_path))
    assert needs({**model, "adapter": None}, trainer, None).trained > 10 * num_adapter_weights(str(tmp_path))


def saved_for_backward(model: Any, embeddings: torch.Tensor) -> int:
    """Return the bytes of activations that autograd stores in one decoder pass."""
    storages: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in model.model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    length = embeddings.shape[1]
    mask = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.decode(embeddings, {"full_attention": mask}, torch.arange(length)[None, None])
    return sum(storages.values())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["internvl", "molmo"])
def test_activations_are_within_a_quarter(
    name: str, checkpointing: bool, with_lora: Any, tmp_path: Path, tiny: Callable[[str], Path]
) -> None:
    """The model has width 512, for which small tensors are negligible, and the input has 256 tokens in float32."""
    from scramble.models.molmo.tiny import save_tiny_molmo
    from scramble.models.tiny import save_tiny_internvl

    make: Any = save_tiny_internvl if name == "internvl" else save_tiny_molmo
    vlm = load_vlm(make(tmp_path, ["a circle"], 0, width=512, heads=8))
    backbone = FamilyBackbone(vlm.family, with_lora(vlm.model, vlm.family.lora_targets))
    if checkpointing:
        decoder: Any = backbone.decoder
        decoder.gradient_checkpointing_enable({"use_reentrant": False})
        vlm.model.train()
    embeddings = torch.randn(1, 256, 512, requires_grad=True)
    remaining = saved_for_backward(backbone, embeddings)
    estimate = preflight(str(tmp_path), batch_tokens=256, gradient_checkpointing=checkpointing).memory["activations"]
    if checkpointing:  # the estimate also counts the layer that is being recomputed
        layer = preflight(str(tmp_path), batch_tokens=256).memory["activations"] / 4
        assert abs(remaining - (estimate - 2 * layer)) < 0.25 * remaining
    else:
        assert abs(remaining - estimate) < 0.25 * remaining


def test_refusals(tiny: Callable[[str], Path]) -> None:
    folder = str(tiny("internvl"))
    report = preflight(folder, num_adapter_weights=LORA, available=1 * GIB)
    with pytest.raises(ModelError, match=r"only 1\.0 GiB are available: try model\.dtype=bfloat16; trainer"):
        report.check()
    preflight(folder, num_adapter_weights=LORA, available=8 * GIB).check()
    assert "1.1" in report.line() and "\n" not in report.line()


def test_larger_jobs_need_more(tiny: Callable[[str], Path]) -> None:
    folder = str(tiny("internvl"))

    def need(**options: Any) -> float:
        return preflight(folder, **{"num_adapter_weights": LORA, **options}).total

    assert need() < need(num_adapter_weights=None) < need(num_adapter_weights=None, train_vision=True)
    assert need(gradient_checkpointing=True) < need() < need(batch_tokens=8192)
    assert need(dtype="bfloat16") < need()


def test_an_id_that_cannot_be_fetched() -> None:
    with pytest.raises(ModelError, match="could not be downloaded"):
        preflight("nobody/nothing")
