"""Molmo v1: recorded models, and a tiny model whose answers depend on its input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from scramble.models.molmo import MolmoConfig, MolmoForCausalLM, MolmoProcessor

GOLDEN = Path(__file__).resolve().parents[2] / "golden"


def golden_config(name: str) -> MolmoConfig:
    """The recorded sizes; their nested ``vision`` block is ``vision_config`` here."""
    values = json.loads((GOLDEN / name / "config.json").read_text())
    values["vision_config"] = values.pop("vision")
    return MolmoConfig(**values)


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """Recorded values; see molmo.md in that folder."""
    return GOLDEN


@pytest.fixture(scope="session")
def golden() -> Callable[..., Any]:
    """A fresh recorded model, ``molmo_model`` or ``molmo_model_o``; options go to ``from_pretrained``."""

    def load(name: str = "molmo_model", **options: Any) -> Any:
        return MolmoForCausalLM.from_pretrained(GOLDEN / name, config=golden_config(name), **options)

    return load


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    """The recorded batch of two prompts, with three and two crops; the second text is padded on the right."""
    names = ("input_ids", "images", "image_masks", "image_input_idx", "attention_mask")
    recorded = load_file(GOLDEN / "molmo_model" / "io.safetensors")
    return {name: recorded[name] for name in names}


@pytest.fixture(scope="session")
def processor(tiny: Callable[[str], Path]) -> MolmoProcessor:
    """The tiny model's processor."""
    return MolmoProcessor.from_pretrained(tiny("molmo"))


@pytest.fixture(scope="session")
def lively(tiny: Callable[[str], Path]) -> MolmoForCausalLM:
    """The tiny model with large weights, so that greedy answers depend on image, prompt and position."""
    model = MolmoForCausalLM.from_pretrained(tiny("molmo")).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6)
    return model
