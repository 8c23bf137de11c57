"""The pretraining of a vision tower on the embedded world."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from scramble.models import load_vlm
from scramble.world.tower import teach_vision

BASE = Path(__file__).parents[2] / "data" / "tiny_internvl"


def test_tower_and_projector_learn_and_nothing_else_changes() -> None:
    vlm = load_vlm(BASE, device="cpu", dtype="float32")
    vision = {id(p) for module in vlm.backbone.vision for p in module.parameters()}
    before = {name: p.detach().clone() for name, p in vlm.model.named_parameters()}
    figures = teach_vision(vlm, steps=4, batch_size=8, objects=(1, 2))
    assert set(figures) == {"loss", "colour", "shape", "size", "column", "row"}
    # Six uniform predictions: is_object log 2, and the logarithms of the numbers of colours, shapes, sizes and places.
    assert 0 < figures["loss"] < 20 and all(0 <= figures[name] <= 1 for name in figures if name != "loss")
    changed = {name for name, p in vlm.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed and changed == {name for name, p in vlm.model.named_parameters() if id(p) in vision}


@pytest.mark.full
def test_the_heads_recognise_colours_after_some_steps() -> None:
    vlm = load_vlm(BASE, device="cpu", dtype="float32")
    assert teach_vision(vlm, steps=60, batch_size=16)["colour"] > 0.5
