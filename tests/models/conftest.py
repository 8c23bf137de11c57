"""Provides tiny models of every family, which are made once per session, and images of several shapes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.exactness import TEXTS

# Tiny models with another decoder than that of their family's tiny model.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "internvl_moe": ("internvl", {"experts": 4}),
    "qwen3_vl_moe": ("qwen3_vl", {"experts": 4}),
    "gemma4_moe": ("gemma4", {"experts": 4}),
    "gemma4_e2b": ("gemma4", {"per_layer_width": 8}),
    "qwen3_5_moe": ("qwen3_5", {"experts": 4}),
    "ministral3": ("mistral3", {"decoder": "ministral3"}),
    "aya_vision_windows": ("aya_vision", {"window": 24}),  # shorter than every prompt with an image
}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that makes the tiny model of a family or of one of the ``VARIANTS`` and returns its folder."""
    from scramble.models.tiny import save_tiny

    folders: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in folders:
            family, sizes = VARIANTS.get(name, (name, {}))
            folders[name] = save_tiny(family, tmp_path_factory.mktemp(name), TEXTS, seed=0, **sizes)
        return folders[name]

    return folder


@pytest.fixture(scope="session")
def with_lora() -> Callable[[Any, str], Any]:
    """Return a function that adds a LoRA adapter to a model, on the given targets and with two random matrices."""

    def wrap(model: Any, targets: str) -> Any:
        import peft

        torch.manual_seed(1)
        wrapped = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets))
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)
        return wrapped

    return wrap


@pytest.fixture(scope="session", params=["mllama", "paligemma"])
def without_trie(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny model of a family without a trie."""
    from tests.models.without_trie import MAKERS

    return MAKERS[request.param](tmp_path_factory.mktemp("models") / request.param, TEXTS)
