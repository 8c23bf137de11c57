"""Tests the papers' tables: checks of their descriptions, and the script from an empty folder to the table."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from scramble.launch.reproduce import TABLE_SIZES, plan
from scramble.launch.reproduce import reproduce as make
from scramble.pipeline import StageError
from scramble.reporting import reproduced
from scramble.reporting.comparison import ScoreRow
from scramble.reporting.reproduced import PaperColumn, ScoreSource
from scramble.reporting.table import NOT_COMPARABLE
from tests.pipeline.conftest import ENVIRONMENT, ROOT, command

TABLES = sorted(path.stem for path in (ROOT / "configs" / "table").glob("*.yaml"))
SECRETS = {
    name: f"secret-{name.lower().replace('_', '-')}-0123456789abcdef0123456789abcdef01234567"
    for name in ("HF_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY")
}


def described(name: str) -> dict[str, Any]:
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        cfg = compose("reproduce", overrides=[f"table={name}", "list=true"])
        for path in cfg.paths:
            cfg.paths[path] = f"path/to/{path}"
        actual: Any = OmegaConf.to_container(cfg.table, resolve=True)
    return actual


@pytest.mark.parametrize("size", TABLE_SIZES)
@pytest.mark.parametrize("name", TABLES)
def test_every_command_of_a_table_composes_and_measures_its_columns(name: str, size: str) -> None:
    description = described(name)
    steps = plan(description["runs"], "out", size=size, seeds=[0, 1])
    for step in steps:
        overrides = [o for o in step.overrides if not o.startswith(("-m", "objective=", "seed="))]
        with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
            cfg = compose(step.script, overrides=[*overrides, "objective=mpo"])
        assert cfg.run.dir == f"out/{step.run}"
        if step.script == "evaluate":
            assert {path.parent.name for path in step.makes} == set(cfg.benchmark)
        else:
            assert {path.parent.name for path in step.makes} >= {
                f"{o}-seed1" for o in description["runs"][step.run]["objectives"]
            }
    measured = {
        (evaluation, benchmark)
        for run in description["runs"].values()
        for evaluation, overrides in run[size]["evaluations"].items()
        for benchmark in overrides[0].partition("=")[2].strip("[]").split(",")
    }
    places = [ScoreSource(**column[size]) for column in description["columns"] if column.get(size)]
    assert places and {(place.folder, place.benchmark) for place in places} <= measured


@pytest.mark.parametrize("name", TABLES)
def test_every_row_and_column_finds_its_published_number(name: str) -> None:
    description = described(name)
    for column in description["columns"]:
        if "published" not in column:
            continue
        place = ScoreSource(**column["published"])
        labels = [label for run in description["runs"].values() for label in run["rows"].values()]
        actual = {label for label in labels if reproduced._entry(place, label) is not None}
        # The published table of algorithms does not include its base, and MPO's main table does not include SFT.
        unpublished = {"InternVL2-8B"} if place.protocol != "mpo" else {"InternVL2-8B + SFT on chosen"}
        assert set(labels) - actual <= unpublished, f"{place}: {set(labels) - actual}"


def row(method: str, value: float, protocol: str = "scramble", **more: Any) -> ScoreRow:
    given: dict[str, Any] = {"benchmark": "winoground", "score": "group", "seeds": 1, "standard_error": 2.0, "n": 400}
    return ScoreRow(method=method, value=value, protocol=protocol, chance=16.7, **{**given, "differences": {}, **more})


def test_measured_next_to_published_by_hand() -> None:
    """Poster: LLaVA-1.5-13B 36.5, tuned 39.3, a gain of 2.8. Ours: 35.0 and 40.0, tested against the base."""
    test = {"difference": 5.0, "low": 1.0, "high": 9.0, "p_value": 0.02}
    place = ScoreSource("winoground", "group")
    methods = {"a/base": ("LLaVA-1.5-13B",) * 2, "a/dpo": ("LLaVA-1.5-13B + SCRAMBLe", "LLaVA-1.5-13B")}
    rows = [row("a/base", 35.0), row("a/dpo", 40.0, differences={"base": test})]
    table = reproduced.compare_with_paper([PaperColumn(place, place)], methods, {"evaluation": rows})
    base, tuned = table.rows["LLaVA-1.5-13B"][0], table.rows["LLaVA-1.5-13B + SCRAMBLe"][0]
    assert (base.ours, base.published, base.published_gain) == (35.0, 36.5, None)
    assert (tuned.ours, tuned.published, tuned.comparable) == (40.0, 39.3, True)
    assert tuned.published_gain == pytest.approx(2.8)
    assert reproduced.ours(tuned) == "40.0 ± 2.0 (+5.0 [+1.0, +9.0] p = 0.020)"
    assert reproduced.published(tuned) == "39.3 (+2.8)"
    other = [row("a/dpo", 40.0, protocol="vqascore_3.0")]
    table = reproduced.compare_with_paper([PaperColumn(place, place)], methods, {"evaluation": other})
    cell = table.rows["LLaVA-1.5-13B + SCRAMBLe"][0]
    assert not cell.comparable and reproduced.published(cell).endswith(NOT_COMPARABLE)
    assert any("the published protocol is 'scramble' and ours is 'vqascore_3.0'" in note for note in table.notes)
    methods_here = {"a/dpo": methods["a/dpo"]}
    for deviation, comparable in (("", True), ("our wording", False)):
        named = PaperColumn(place, place, deviation=deviation)
        table = reproduced.compare_with_paper([named], methods_here, {"evaluation": other})
        assert table.rows["LLaVA-1.5-13B + SCRAMBLe"][0].comparable == comparable
        whose = "as in the paper" if comparable else "unlike the paper: our wording"
        assert any(f"measured with protocol vqascore_3.0 ({whose})" in note for note in table.notes)
    stand_in = PaperColumn(ScoreSource("world_winoground", "group"), place)
    table = reproduced.compare_with_paper(
        [stand_in], methods, {"evaluation": [row("a/dpo", 9.0, benchmark="world_winoground")]}
    )
    assert any("world_winoground was measured instead of winoground" in note for note in table.notes)


def test_differences_to_the_control_of_the_same_run() -> None:
    place, test = ScoreSource("world_vqa", "accuracy"), {"difference": -1.0, "low": -3.0, "high": 1.0, "p_value": 0.3}
    methods = {name: (name.replace("/", ": "), "captions: base") for name in ("captions/base", "captions/mpo")}
    rows = [row(name, 40.0, benchmark="world_vqa", score="accuracy", differences={"sft": test}) for name in methods]
    table = reproduced.compare_with_paper([PaperColumn(place, None)], methods, {"evaluation": rows}, baseline="sft")
    assert table.rows["captions: base"][0].test is None
    assert table.rows["captions: mpo"][0].test == test


def test_runs_share_their_data_but_for_those_with_their_own() -> None:
    run = {"objectives": ["sft"], "tiny": {"config": [], "evaluations": {}}}
    steps = plan({"a": run, "b": {**run, "own_data": True}}, "out", size="tiny", seeds=[0])
    actual = {step.run: next(o for o in step.overrides if o.startswith("run.data=")) for step in steps}
    assert actual == {"a": "run.data=out/data", "b": "run.data=out/b/data"}


def test_only_evaluations_get_the_judge() -> None:
    run = {"objectives": ["mpo"], "tiny": {"config": [], "evaluations": {"evaluation": ["benchmark=[mmhal]"]}}}
    steps = plan({"a": run}, "out", size="tiny", seeds=[0], judge=["judge.gradings=1"])
    assert {step.script: "judge.gradings=1" in step.overrides for step in steps} == {"train": False, "evaluate": True}


def test_published_rows_without_a_run() -> None:
    """RLAIF-V: 7.3 percent, 11.1 points fewer than the base."""
    place = ScoreSource("object_halbench", "response_rate", protocol="mpo")
    methods = {"published/x": ("InternVL2-8B, RLAIF-V", "InternVL2-8B")}
    (cell,) = reproduced.compare_with_paper([PaperColumn(place, place)], methods, {}).rows["InternVL2-8B, RLAIF-V"]
    assert (cell.ours, reproduced.published(cell)) == (None, "7.3 (-11.1)")


def test_bad_input(tmp_path: Path) -> None:
    description = described("mpo_main")
    with pytest.raises(StageError, match="size must be 'full' or 'tiny', not 'small'"):
        make(description, tmp_path, size="small")
    reason = "only=dpo: there is no such run or objective: choose from the runs internvl and the objectives mpo, sft"
    with pytest.raises(StageError, match=reason):
        make(description, tmp_path, size="tiny", only=["dpo"])
    asked = subprocess.run(
        command("reproduce", "table=mpo_main", f"dir={tmp_path}"),
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert (
        asked.returncode == 1
        and "missing values of paths.crpe, paths.llava_bench, paths.logicvista, paths.mmhal, " in asked.stderr
    )
    assert [path.name for path in tmp_path.iterdir()] in ([], ["log.txt"])


def reproduce(folder: Path, *overrides: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command("reproduce", "size=tiny", f"dir={folder}", *overrides),
        cwd=ROOT,
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Run the tiny size of the smallest table, with tokens in the environment and Weights & Biases offline."""
    folder = tmp_path_factory.mktemp("reproduced")
    done = reproduce(
        folder,
        "table=mpo_main",
        "only=[mpo]",
        'more=["trainer.report_to=[wandb]"]',
        **SECRETS,
        WANDB_MODE="offline",
        WANDB_CACHE_DIR=str(folder / "cache"),
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return folder, done


def test_a_table_from_nothing(short: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = short
    assert "internvl, train: 0 of 1 finished" in done.stdout
    made = json.loads((folder / "table.json").read_text())
    assert list(made["rows"]) == ["InternVL2-8B", "InternVL2-8B-MPO"]
    by_column = dict(zip(made["columns"], made["rows"]["InternVL2-8B-MPO"], strict=True))
    measured = by_column["mathvista accuracy (mpo direct)"]
    assert 0 <= measured["ours"] <= 100 and measured["test"]["p_value"] <= 1
    assert (measured["published"], measured["comparable"]) == (64.5, False)
    assert by_column["mathvista accuracy (mpo cot)"]["published"] == 67.0
    assert by_column["m3cot accuracy (mpo direct)"]["published"] == 77.2
    assert by_column["mathvision accuracy (mpo)"]["published"] == 25.7
    assert by_column["mmvet score (mpo direct)"]["ours"] is None
    text = (folder / "table.md").read_text()
    assert "the scores are meaningless" in text and "arxiv.org/abs/2411.10442" in text
    assert made["environment"]["packages"]["torch"]


def test_what_is_finished_is_not_run_again(short: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = short
    again = reproduce(folder, "table=mpo_main", "only=[mpo]", 'more=["trainer.report_to=[wandb]"]')
    assert again.returncode == 0 and "running:" not in again.stdout
    assert again.stdout.count(": finished") == 3


def test_no_token_is_written_anywhere(short: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = short
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files), "Weights & Biases wrote nothing"
    for name, secret in SECRETS.items():
        assert secret not in done.stdout + done.stderr, name
        holding = [str(path) for path in files if secret.encode() in path.read_bytes()]
        assert holding == [], f"{name} stands in {holding}"


@pytest.mark.full
@pytest.mark.parametrize("name", TABLES)
def test_the_whole_table_in_tiny(name: str, tmp_path: Path) -> None:
    started, clock = time.monotonic(), os.times()
    done = reproduce(tmp_path, f"table={name}")
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    used = os.times()
    print(f"{name}: {time.monotonic() - started:.0f} s, {used.children_user - clock.children_user:.0f} s of CPU")
    made = json.loads((tmp_path / "table.json").read_text())
    description = described(name)
    labels = list(dict.fromkeys(label for run in description["runs"].values() for label in run["rows"].values()))
    assert list(made["rows"]) == labels
    tiny = [place for place, column in enumerate(description["columns"]) if column.get("tiny")]
    shown = [c for c in description["columns"] if c.get("tiny") or c.get("published")]
    assert len(made["columns"]) == len(shown)
    for label in labels:
        cells = dict(zip(map(json.dumps, shown), made["rows"][label], strict=True))
        for place in tiny:
            assert cells[json.dumps(description["columns"][place])]["ours"] is not None, (label, place)
