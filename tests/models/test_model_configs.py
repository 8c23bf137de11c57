"""Every shipped model config composes, matches ``load_vlm``, and names a native checkpoint of a supported family."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from scramble.models import load_vlm
from scramble.models.families.registry import family_named
from scramble.models.hub import native_id

CONFIGS = Path(__file__).parents[2] / "configs"
NAMES = sorted(file.stem for file in (CONFIGS / "model").glob("[!_]*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_config_binds(name: str) -> None:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        values: Any = OmegaConf.to_container(compose("train", overrides=[f"model={name}"]).model)
    assert values.pop("name") == name
    assert values.pop("new") is None
    family_named(values["family"])
    assert native_id(values["path"]) == values["path"]
    inspect.signature(load_vlm).bind(**values)
    assert set(values) == set(inspect.signature(load_vlm).parameters)


def test_released_sizes_are_there() -> None:
    assert len(NAMES) == 28
    assert {"molmo_7b_d", "molmo_72b", "molmo2_8b", "internvl3_8b", "llava_7b", "scramble_molmo_7b_d"} <= set(NAMES)
