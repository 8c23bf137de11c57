"""Compares the preflight's estimates with a model's actual allocations, and checks its errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scramble.models import ModelError, load_vlm
from scramble.models.backbone import FamilyBackbone
from scramble.models.preflight import GIB, preflight


def test_counts_are_those_of_the_loaded_model(tiny: Callable[[str], Path], with_lora: Any) -> None:
    for name in ("internvl", "molmo", "llava", "llava_next", "llava_onevision", "ovis2", "aya_vision", "smolvlm"):
        vlm = load_vlm(tiny(name))
        report = preflight(str(tiny(name)), lora_r=4)
        assert report.parameters == sum(p.numel() for p in vlm.model.parameters())
        model = with_lora(vlm.model, vlm.family.lora_targets)
        assert report.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert report.memory["weights"] == 4 * report.parameters
        assert report.memory["gradients and optimizer"] == 16 * report.trained
        assert report.family == name


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
    report = preflight(folder, available=1 * GIB)
    with pytest.raises(ModelError, match=r"only 1\.0 GiB are available: try model\.dtype=bfloat16; trainer"):
        report.check()
    preflight(folder, available=8 * GIB).check()
    assert "1.1" in report.line() and "\n" not in report.line()


def test_larger_jobs_need_more(tiny: Callable[[str], Path]) -> None:
    folder = str(tiny("internvl"))

    def need(**options: Any) -> float:
        return preflight(folder, **options).total

    assert need() < need(lora_r=None) < need(lora_r=None, train_vision=True)
    assert need(gradient_checkpointing=True) < need() < need(batch_tokens=8192)
    assert need(dtype="bfloat16") < need()


def test_an_id_that_cannot_be_fetched() -> None:
    with pytest.raises(ModelError, match="could not be downloaded"):
        preflight("nobody/nothing")
