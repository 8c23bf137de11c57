"""Every shipped model config composes, matches ``load_vlm``, and names a native checkpoint of a supported family."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from scramble.config.validation import check_root
from scramble.models import load_vlm
from scramble.models.families.registry import family_named
from scramble.models.hub import check_native

CONFIGS = Path(__file__).parents[2] / "configs"
# ``any`` has no family and no path.
NAMES = sorted(file.stem for file in (CONFIGS / "model").glob("[!_]*.yaml") if file.stem != "any")


@pytest.mark.parametrize("name", NAMES)
def test_config_binds(name: str) -> None:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", overrides=[f"model={name}"])
    assert check_root(cfg, "train", ()) == []
    values: Any = OmegaConf.to_container(cfg.model)
    assert values.pop("name") == name
    assert values.pop("new") is None
    family_named(values["family"])
    check_native(values["path"])
    inspect.signature(load_vlm).bind(**values)
    assert set(values) == set(inspect.signature(load_vlm).parameters)


CLASSES = {
    r"OpenGVLab/InternVL.*": "InternVLForConditionalGeneration",
    r"allenai/Molmo2-.*": "Molmo2ForConditionalGeneration",
    r"llava-hf/llava-1\.5-.*|llava-hf/llava-interleave-.*": "LlavaForConditionalGeneration",
    r"llava-hf/llava-v1\.6-.*|llava-hf/llama3-llava-next-.*": "LlavaNextForConditionalGeneration",
    r"llava-hf/llava-onevision-.*": "LlavaOnevisionForConditionalGeneration",
    r"Qwen/Qwen2-VL-.*": "Qwen2VLForConditionalGeneration",
    r"Qwen/Qwen2\.5-VL-.*": "Qwen2_5_VLForConditionalGeneration",
    r"Qwen/Qwen3-VL-\d+B-Instruct": "Qwen3VLForConditionalGeneration",
    r"Qwen/Qwen3-VL-.*-A.*": "Qwen3VLMoeForConditionalGeneration",
    r"Qwen/Qwen3\.[56]-[\d.]+B": "Qwen3_5ForConditionalGeneration",
    r"Qwen/Qwen3\.[56]-.*-A.*": "Qwen3_5MoeForConditionalGeneration",
    r"zai-org/GLM-4\.1V-.*|zai-org/GLM-4\.6V-Flash": "Glm4vForConditionalGeneration",
    r"zai-org/GLM-4\.[56]V": "Glm4vMoeForConditionalGeneration",
    r"google/gemma-4-.*": "Gemma4ForConditionalGeneration",
    r"google/gemma-3-.*": "Gemma3ForConditionalGeneration",
    r"thisisiron/Ovis2-.*-hf": "Ovis2ForConditionalGeneration",
    r"mistralai/Ministral-3-.*-BF16|mistralai/Mistral-Small-3\.1-.*": "Mistral3ForConditionalGeneration",
    r"CohereLabs/aya-vision-.*": "AyaVisionForConditionalGeneration",
    r"CohereLabs/command-a-vision-.*": "Cohere2VisionForConditionalGeneration",
    r"HuggingFaceTB/SmolVLM-.*": "Idefics3ForConditionalGeneration",
}


@pytest.mark.parametrize("name", [name for name in NAMES if "tiny" not in name])
def test_released_id_has_the_class_of_its_family(name: str) -> None:
    """Transformers maps the model type of a released id's class to this class, and the family accepts the type."""
    from omegaconf import OmegaConf
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    from scramble.models.molmo.family import Molmo

    values: Any = OmegaConf.load(CONFIGS / "model" / f"{name}.yaml")
    family = family_named(values.family)
    if isinstance(family, Molmo):  # the one family with classes of this project
        assert "Molmo-" in values.path
        return
    (expected,) = [cls for pattern, cls in CLASSES.items() if re.fullmatch(pattern, values.path)]
    assert expected in {MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[kind] for kind in family.model_types}


def test_released_sizes_are_there() -> None:
    assert len(NAMES) == 85
    assert {"molmo_7b_d", "molmo_72b", "molmo2_8b", "internvl3_8b", "llava_7b", "scramble_molmo_7b_d"} <= set(NAMES)
