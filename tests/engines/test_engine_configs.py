"""Every engine's configuration fits its class, and the command line in its file composes."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from scramble.engines import ENGINE_KINDS
from scramble.engines.openai_server import OpenAIServer
from scramble.engines.transformers_local import TransformersEngine
from scramble.engines.vllm_local import VLLMEngine
from scramble.pairs.captions.chain_of_thought import CotGenerator

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
CLASSES: dict[str, type] = {"openai": OpenAIServer, "transformers": TransformersEngine, "vllm": VLLMEngine}


def pairs(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("generate", overrides=["data=image_folder", "pairs=cot", *overrides])
    section: Any = OmegaConf.to_container(cfg.pairs, resolve=False)
    return section


@pytest.mark.parametrize("name", [*ENGINE_KINDS, "own"])
def test_engine_binds(name: str) -> None:
    assert sorted(path.stem for path in (CONFIGS / "engine").glob("*.yaml")) == sorted([*ENGINE_KINDS, "own"])
    engine = pairs(f"engine@pairs.engine={name}")["engine"]
    kind = engine.pop("kind")
    assert kind == ("transformers" if name == "own" else name)
    inspect.signature(CLASSES[kind]).bind(**engine)


def test_shipped_command_line_and_options_bind() -> None:
    section = pairs("pairs.engine.model=m", "pairs.engine.base_url=http://localhost:8000/v1")
    assert section["engine"]["base_url"] == "http://localhost:8000/v1"
    inspect.signature(CotGenerator).bind("engine", "store", **section["options"])
