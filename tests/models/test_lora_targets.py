"""LoRA targets match all linear layers of the language model and no others, with the released module names."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

from scramble.models.families.registry import FAMILIES, family_of


def configs() -> dict[str, Any]:
    """Return a config with the released module names for each family, from which a model is built on the meta device
    below.
    """
    from transformers import (
        AyaVisionConfig,
        Cohere2VisionConfig,
        Gemma3Config,
        Gemma4Config,
        Glm4vConfig,
        Glm4vMoeConfig,
        Glm46VConfig,
        Idefics3Config,
        InternVLConfig,
        LlavaConfig,
        LlavaNextConfig,
        LlavaOnevisionConfig,
        Mistral3Config,
        Molmo2Config,
        Ovis2Config,
        Qwen2_5_VLConfig,
        Qwen2VLConfig,
        Qwen3_5Config,
        Qwen3_5MoeConfig,
        Qwen3VLConfig,
        SmolVLMConfig,
    )

    from scramble.models.molmo import MolmoConfig

    return {
        "internvl": InternVLConfig(),
        "internvl-llama": InternVLConfig(text_config={"model_type": "llama"}),
        "internvl-qwen3": InternVLConfig(text_config={"model_type": "qwen3"}),
        "molmo": MolmoConfig(),
        "molmo2": Molmo2Config(),
        "llava": LlavaConfig(),
        "llava-interleave": LlavaConfig(text_config={"model_type": "qwen2"}),
        "llava_next": LlavaNextConfig(),
        "llava_next-mistral": LlavaNextConfig(text_config={"model_type": "mistral"}),
        "llava_onevision": LlavaOnevisionConfig(),
        "ovis2": Ovis2Config(text_config={"model_type": "qwen2", "hidden_size": 1536}),
        "mistral3": Mistral3Config(),
        "mistral3-ministral": Mistral3Config(text_config={"model_type": "ministral3"}),
        "aya_vision": AyaVisionConfig(vision_config={"model_type": "siglip_vision_model"}),
        "cohere2_vision": Cohere2VisionConfig(),
        "smolvlm": SmolVLMConfig(),
        "idefics3": Idefics3Config(),
        "gemma3": Gemma3Config(),
        "gemma4": Gemma4Config(vision_config={}, audio_config={}),
        "glm4v": Glm4vConfig(),
        "glm4v_moe": Glm4vMoeConfig(),
        "glm46v": Glm46VConfig(),
        "qwen2_vl": Qwen2VLConfig(),
        "qwen2_5_vl": Qwen2_5_VLConfig(),
        "qwen3_vl": Qwen3VLConfig(),
        "qwen3_5": Qwen3_5Config(),
        "qwen3_5_moe": Qwen3_5MoeConfig(),
    }


@pytest.mark.parametrize("name", configs())
def test_pattern(name: str) -> None:
    from transformers import AutoModelForImageTextToText

    config = configs()[name]
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    family = family_of(config.model_type)
    language_model = family.language_model
    outside = {id(model.get_submodule(family.head))}
    for path in family.vision:
        outside |= {id(module) for module in model.get_submodule(path).modules()}
    hit = {n for n, module in model.named_modules() if re.fullmatch(family.lora_targets, n)}
    linear = {
        n
        for n, module in model.get_submodule(language_model).named_modules(prefix=language_model)
        if isinstance(module, nn.Linear) and id(module) not in outside
    }
    if family.name == "glm4v_moe":  # see its class: PEFT would adapt the routed experts instead
        linear = {n for n in linear if ".self_attn." in n}
    assert hit == linear
    assert len(hit) >= 4 * config.get_text_config().num_hidden_layers
    assert not {n for n in hit if id(model.get_submodule(n)) in outside}


def test_every_family_has_a_config_here() -> None:
    assert {family_of(config.model_type).name for config in configs().values()} == {f.name for f in FAMILIES}
