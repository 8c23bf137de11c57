"""Tests settings recorded in a run folder: the run's name is enough, and contradictions are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from scramble.config.record import complete, recall, remember
from scramble.field_checks import ConfigError
from scramble.project import CONFIGS
from scramble.storage.files import read_json, write_json

OWN = ["data=image_folder", "data.path=photos", "pairs=rules", "pairs.per_caption=2"]


def composed(root: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(root, list(overrides))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run with photographs as data, for which the generate command set a model."""
    overrides = [*OWN, "model=smolvlm_256m", "name=mine", f"run.dir={tmp_path}"]
    cfg = composed("generate", *overrides)
    made: Any = OmegaConf.to_container(cfg, resolve=True)
    config = {"data": made["data"], "pairs": made["pairs"], "seed": 0, "inputs": {}}
    write_json(tmp_path / "data" / "stage.json", {"status": "finished", "config": config, "summary": {}})
    remember(cfg, "generate", overrides)
    return tmp_path


def arm(run: Path, name: str, objective: str, status: str = "finished") -> None:
    cfg = composed("train", f"objective={objective}")
    config = {name: OmegaConf.to_container(cfg[name], resolve=True) for name in ("objective", "trainer")}
    write_json(run / "train" / name / "stage.json", {"status": status, "config": config})


@pytest.mark.parametrize(
    "root", ["train", "evaluate", "report", "browse", "watch", "export", "share", "chat", "external_harness"]
)
def test_the_name_is_enough(run: Path, root: str) -> None:
    overrides = ["name=mine", f"run.dir={run}"]
    cfg = composed(root, *overrides)
    line = recall(cfg, root, overrides)
    assert line is not None and line.startswith(f"{run}: using data=image_folder, pairs=rules, model=smolvlm_256m as")
    assert cfg.data.path == "photos" and cfg.pairs.per_caption == 2 and cfg.model.name == "smolvlm_256m"
    assert cfg.trainer.learning_rate == cfg.recommended.learning_rate == 1e-5, "recommended values go with the model"
    assert cfg.run.dir == str(run) and cfg.run.data == str(run / "data")


def test_a_run_without_a_record_is_left_alone(tmp_path: Path) -> None:
    overrides = [f"run.dir={tmp_path / 'none'}", "data=coco"]  # data.path has no value
    cfg = composed("train", *overrides)
    before = OmegaConf.to_container(cfg)
    assert recall(cfg, "train", overrides) is None and OmegaConf.to_container(cfg) == before
    remember(cfg, "train", overrides)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("given", "difference"),
    [
        (["data=image_folder", "data.path=others"], "data.path (photos -> others)"),
        (["pairs.per_caption=3"], "pairs.per_caption (2 -> 3)"),
        (["data_seed=1"], "data_seed (0 -> 1)"),
        (["data=image_folder", "data.path=photos", "data.limit=5"], "data.limit (None -> 5)"),
    ],
)
def test_a_contradiction_is_refused_by_its_differences_alone(run: Path, given: list[str], difference: str) -> None:
    overrides = ["name=mine", f"run.dir={run}", *given]
    with pytest.raises(ConfigError) as refused:
        recall(composed("evaluate", *overrides), "evaluate", overrides)
    section = difference.split()[0].partition(".")[0]
    message = f"{run} was created with different settings: {difference}. Leave out all arguments of {section}, "
    assert str(refused.value).startswith(message)


def test_the_same_command_line_again_is_no_contradiction(run: Path) -> None:
    overrides = [*OWN, "model=smolvlm_256m", f"run.dir={run}"]
    assert recall(composed("train", *overrides), "train", overrides) is None


def test_a_model_binds_once_an_arm_was_trained_and_how_it_is_loaded_never(run: Path) -> None:
    overrides = [f"run.dir={run}", "model=tiny_internvl"]
    cfg = composed("train", *overrides)
    recall(cfg, "train", overrides)
    assert cfg.model.name == "tiny_internvl" and cfg.recommended.learning_rate == 5e-4
    arm(run, "dpo-seed0", "dpo", status="failed")
    recall(composed("train", *overrides), "train", overrides)
    arm(run, "dpo-seed0", "dpo")
    with pytest.raises(ConfigError, match=r"model.family \(smolvlm -> internvl\), model.name"):
        recall(composed("evaluate", *overrides), "evaluate", overrides)
    overrides = [f"run.dir={run}", "model.device=cpu"]
    cfg = composed("evaluate", *overrides)
    recall(cfg, "evaluate", overrides)
    assert (cfg.model.name, cfg.model.device) == ("smolvlm_256m", "cpu")


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        ([], ["heldout_pairs"]),
        (["benchmark=[world_vqa]"], ["world_vqa"]),
        (["+benchmark.world_vqa.rot=x"], ["world_winoground", "world_vqa"]),  # unchanged: validation reports the error
    ],
)
def test_data_of_one_s_own_are_scored_on_their_own_pairs(run: Path, overrides: list[str], names: list[str]) -> None:
    given = [f"run.dir={run}", *overrides]
    cfg = composed("evaluate", *given)
    complete(cfg, "evaluate", given)
    assert list(cfg.benchmark) == names
    if names == ["heldout_pairs"]:
        assert cfg.benchmark.heldout_pairs.root == f"{run}/data/test"
    world = composed("evaluate", "run.dir=none")
    complete(world, "evaluate", ["run.dir=none"])
    assert list(world.benchmark) == ["world_winoground", "world_vqa"]


def test_a_chat_takes_the_model_that_is_named_and_else_the_run_s(run: Path) -> None:
    for more, name, device in (
        (["model=tiny_internvl"], "tiny_internvl", None),
        (["model.path=elsewhere"], "tiny_internvl", None),
        (["model.device=cpu"], "smolvlm_256m", "cpu"),
    ):
        overrides = [f"run.dir={run}", *more]
        cfg = composed("chat", *overrides)
        recall(cfg, "chat", overrides)
        assert (cfg.model.name, cfg.model.device) == (name, device)


def test_the_objective_is_that_of_the_arms_unless_they_differ(run: Path) -> None:
    arm(run, "dpo-seed0", "dpo")
    overrides = [f"run.dir={run}"]
    cfg = composed("export", *overrides)
    recall(cfg, "export", overrides)
    assert cfg.run.arm == "dpo-seed0" and cfg.adapter == f"{run}/train/dpo-seed0/adapter"
    other = composed("train", *overrides, "objective=sft")
    recall(other, "train", [*overrides, "objective=sft"])
    assert other.objective.name == "sft", "another arm of the same run"
    arm(run, "sft-seed0", "sft")
    cfg = composed("export", *overrides)
    recall(cfg, "export", overrides)
    assert cfg.objective.name == "mpo", "the configuration's own choice"


def test_an_experiment_counts_as_given_where_something_is_made(run: Path) -> None:
    overrides = ["+experiment=quickstart", f"run.dir={run}"]
    with pytest.raises(ConfigError, match="was created with different settings: data"):
        recall(composed("train", *overrides), "train", overrides)
    cfg = composed("report", *overrides)
    recall(cfg, "report", overrides)
    assert cfg.data.kind == "image_folder"


def test_debug_does_not_take_the_data_from_the_folder(run: Path) -> None:
    """``+debug=tiny`` selects the embedded world, so that all keys of the data and pairs differ."""
    overrides = ["name=mine", f"run.dir={run}", "+debug=tiny"]
    with pytest.raises(ConfigError) as error:
        recall(composed("train", *overrides), "train", overrides)
    message = str(error.value)
    assert message.startswith(f"{run} was created with different settings: data.kind (image_folder -> world)")
    assert "data.path" not in message and "pairs.method" not in message and len(message) < 800
    assert "repeat the data and pairs arguments of the first command" in message and f"run.dir={run}" in message
    assert "Leave out" not in message
    repeated = ["name=mine", f"run.dir={run}", *OWN, "+debug=tiny"]
    recall(composed("train", *repeated), "train", repeated)


def test_the_record_holds_what_was_given(tmp_path: Path) -> None:
    remember(composed("generate", f"run.dir={tmp_path}"), "generate", [])
    assert not (tmp_path / "run.json").exists(), "a default that nobody chose binds nobody"
    remember(composed("train", f"run.dir={tmp_path}"), "train", [])
    assert read_json(tmp_path / "run.json")["model"]["name"] == "tiny_internvl"


def test_a_new_run_is_announced_with_similar_names(tmp_path: Path) -> None:
    """If ``name=`` is misspelt, a new run would start instead of the existing one."""
    (tmp_path / "photos" / "data").mkdir(parents=True)

    def line(root: str, name: str) -> str | None:
        overrides = [f"run.dir={tmp_path / name}"]
        return complete(composed(root, *overrides), root, overrides)

    for name in ("phtos", "photo", "photoes", "phoots", "Photos"):
        assert line("train", name) == f"new run {tmp_path / name} (there is also name=photos)"
    for name in ("fotos", "photos2", "photos_b"):
        assert line("train", name) == f"new run {tmp_path / name}"
    assert line("generate", "mine") == f"new run {tmp_path / 'mine'}"
    assert line("train", "photos") is None
    assert line("report", "photo") is None  # this script starts no run, and validation reports the missing one


def test_another_runs_data_folder_is_remembered(run: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """For a run that was trained on the data of another run, later commands need only the run's name; a folder on the
    command line takes precedence."""
    second = tmp_path_factory.mktemp("second")
    overrides = ["name=second", f"run.dir={second}", f"run.data={run / 'data'}"]
    cfg = composed("train", *overrides)
    assert recall(cfg, "train", overrides) is not None
    remember(cfg, "train", overrides)
    for root in ("evaluate", "share", "train"):
        cfg = composed(root, *overrides[:2])
        line = recall(cfg, root, overrides[:2])
        assert cfg.run.data == str(run / "data") and cfg.data.path == "photos"
        assert line is not None and f"run.data={run / 'data'}" in line
    cfg = composed("train", *overrides[:2], "run.data=other")
    recall(cfg, "train", [*overrides[:2], "run.data=other"])
    assert cfg.run.data == "other"
