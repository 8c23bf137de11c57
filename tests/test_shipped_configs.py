"""Every shipped configuration composes, and its keys are parameters of the code."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from scramble.app import ConfigError, plain_sections
from scramble.config.validation import check_root

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
ROOTS = ("generate", "train", "evaluate")
EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))
GROUPS = {
    group: sorted(path.stem for path in (CONFIGS / group).glob("*.yaml") if not path.stem.startswith("_"))
    for group in ("data", "pairs", "objective", "trainer")  # models: tests/models/test_model_configs.py
}


def composed(root: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(root, overrides=list(overrides))


def parameters(function: Any) -> set[str]:
    return {name for name, p in inspect.signature(function).parameters.items() if p.kind is not p.VAR_KEYWORD}


def check(cfg: DictConfig, root: str = "train") -> None:
    """Bind each section to the parameters of the function that receives it, without calling the function."""
    from peft import LoraConfig

    from scramble import world
    from scramble.evaluation.benchmarks import load_benchmark
    from scramble.models import load_vlm
    from scramble.sources import BUNDLES, SOURCES
    from scramble.sources.preference_data import PairInput
    from scramble.training import PreferenceConfig

    values: Any = OmegaConf.to_container(cfg, resolve=False)
    data, pairs, trainer = values["data"], values["pairs"], values["trainer"]
    read = world.build_world if data["kind"] == "world" else SOURCES.get(data["kind"]) or BUNDLES[data["kind"]].read
    shared = set() if data["kind"] == "world" else {"val_fraction", "test_fraction", "max_rejected", "limit"}
    if data["kind"] == "pairs":
        shared |= {field.name for field in dataclasses.fields(PairInput)}
    assert set(data) - {"kind"} <= parameters(read) | shared, data["kind"]
    check_pairs(pairs)
    assert set(values["model"]) - {"name", "new"} <= parameters(load_vlm)
    assert set(trainer) - {"watch"} <= {field.name for field in dataclasses.fields(PreferenceConfig)}
    assert set(values["peft"] or {}) <= {field.name for field in dataclasses.fields(LoraConfig)}
    assert callable(load_benchmark)
    # A spaCy pipeline and the run folder do not exist on every machine, and preference data have no default path.
    expected = ("is not installed", "no run", "data must have a path or a mix")
    assert [c for c in check_root(cfg, root, ()) if not any(part in c for part in expected)] == []


def check_pairs(pairs: dict[str, Any]) -> None:
    """Create the pair method; bind the settings that it passes on to the parameters of their functions."""
    from scramble.pairs.answers.correctness import CorrectnessPairs
    from scramble.pairs.answers.dropout_ntp import DropoutNTP
    from scramble.pairs.captions.assemble import caption_candidates, caption_pairs
    from scramble.pairs.captions.chain_of_thought import CotGenerator
    from scramble.pairs.captions.rules.generator import RuleGenerator
    from scramble.pairs.captions.world_swaps import WorldNegatives
    from scramble.pairs.registry import PAIR_STEPS, make_method

    method = make_method(pairs, seed=0)
    makers: dict[str, Any] = {"correctness": CorrectnessPairs, "dropout_ntp": DropoutNTP}
    generators: dict[str, Any] = {"world": WorldNegatives, "rules": RuleGenerator, "cot": CotGenerator}
    name = pairs["method"]
    for part in pairs.get("parts", {}).values():
        check_pairs(part)
    if name in makers:
        assert set(method._options) <= parameters(makers[name])  # type: ignore[attr-defined]
    if name in generators:
        shared = {"method", "options", "engine", "audit", *PAIR_STEPS}
        assert set(pairs) <= parameters(caption_pairs) | parameters(caption_candidates) | shared
        assert set(pairs.get("options") or {}) <= parameters(generators[name])


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes(experiment: str) -> None:
    for root in ROOTS:
        cfg = composed(root, f"+experiment={experiment}")
        assert cfg.name == experiment
        check(cfg, root)
    cfg = composed("train", f"+experiment={experiment}", "+debug=tiny")
    check(cfg)
    plain_sections(
        cfg, "run", "data", "pairs", "model", "objective", "trainer", "peft", "seed"
    )  # none of them lacks a value


@pytest.mark.parametrize(("group", "name"), [(g, n) for g, names in GROUPS.items() for n in names])
def test_every_group_option_composes(group: str, name: str) -> None:
    check(composed("train", f"{group}={name}"))


def test_every_experiment_says_how_to_run_it() -> None:
    for name in EXPERIMENTS:
        text = (CONFIGS / "experiment" / f"{name}.yaml").read_text()
        assert f"+experiment={name}" in text.partition("\nname:")[0], f"{name}: no run line in its header"


def test_missing_keys_are_named_all_at_once() -> None:
    cfg = composed("train", "data=gqa", "data.source=???")
    with pytest.raises(ConfigError, match=r"data\.path, data\.source.*data\.path=\.\.\. data\.source=\.\.\."):
        plain_sections(cfg, "data", "seed")
    assert plain_sections(cfg, "seed") == {"seed": 0}


def test_shipped_objectives_are_known_losses() -> None:
    from scramble.training.losses import resolve_loss_weights

    for name in GROUPS["objective"]:
        cfg = composed("train", f"objective={name}")
        assert cfg.objective.name == name and resolve_loss_weights(cfg.trainer.loss_type, cfg.trainer.loss_weights)


def test_the_values_of_the_trainers_file_are_the_defaults_of_the_class() -> None:
    """Defaults in Python and in scripts agree, except learning rate and beta, which a model's file sets."""
    from scramble.training import PreferenceConfig
    from scramble.training.fields import default_of

    trainer: Any = OmegaConf.to_container(
        composed("train", "model=internvl3_8b", "objective=dpo").trainer, resolve=True
    )
    different = {
        name for name, value in trainer.items() if name != "watch" and value != default_of(PreferenceConfig, name)
    }
    assert different == set()
