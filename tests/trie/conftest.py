from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.exactness import TEXTS


@pytest.fixture(scope="session")
def tiny_internvl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from scramble.models.tiny import save_tiny_internvl

    return save_tiny_internvl(tmp_path_factory.mktemp("tiny-internvl"), TEXTS, seed=0)


@pytest.fixture
def vlm(tiny_internvl: Path) -> Any:
    """Return a tiny InternVL in float32 with a LoRA adapter whose two matrices are both random."""
    import peft

    from scramble import models

    vlm = models.load_vlm(str(tiny_internvl), dtype="float32")
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=vlm.family.lora_targets)
    torch.manual_seed(1)
    model = peft.get_peft_model(vlm.model, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    vlm.model = model
    return vlm
