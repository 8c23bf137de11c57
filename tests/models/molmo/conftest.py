"""Provides recorded models of Molmo v1, and a tiny model whose answers depend on the model's input."""

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
    """Return the recorded sizes. Their nested ``vision`` block is ``vision_config`` here."""
    values = json.loads((GOLDEN / name / "config.json").read_text())
    values["vision_config"] = values.pop("vision")
    return MolmoConfig(**values)


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """Return the folder of recorded values, which molmo.md in this folder describes."""
    return GOLDEN


@pytest.fixture(scope="session")
def golden() -> Callable[..., Any]:
    """Return a function that loads a recorded model, ``molmo_model`` or ``molmo_model_o``, with options of
    ``from_pretrained``.
    """

    def load(name: str = "molmo_model", **options: Any) -> Any:
        return MolmoForCausalLM.from_pretrained(GOLDEN / name, config=golden_config(name), **options)

    return load


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    """Return the recorded batch of two prompts, with three and two crops. The second text is padded on the right."""
    names = ("input_ids", "images", "image_masks", "image_input_idx", "attention_mask")
    recorded = load_file(GOLDEN / "molmo_model" / "io.safetensors")
    return {name: recorded[name] for name in names}


@pytest.fixture(scope="session")
def processor(tiny: Callable[[str], Path]) -> MolmoProcessor:
    """Return the processor of the tiny model."""
    return MolmoProcessor.from_pretrained(tiny("molmo"))


@pytest.fixture(scope="session")
def lively(tiny: Callable[[str], Path]) -> MolmoForCausalLM:
    """Return the tiny model with large weights, so that greedy answers depend on image, prompt and position."""
    model = MolmoForCausalLM.from_pretrained(tiny("molmo")).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6)
    return model
