"""Tests models without a trie through the scripts: evaluation of all item types, chat, export and generated
captions.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.models.without_trie import MAKERS
from tests.pipeline.conftest import ROOT, Run

IMAGE = str(ROOT / "data" / "example" / "01.png")
BENCHMARKS = "benchmark=[world_winoground,world_vqa]"


@pytest.fixture(scope="module", params=[pytest.param("mllama", marks=pytest.mark.full), "paligemma"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MAKERS[request.param](
        tmp_path_factory.mktemp("models") / request.param, ["a red circle is left of a blue square", "Yes", "No"]
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, script: Run) -> Path:
    """Return a run folder with a small world and no model."""
    run = tmp_path_factory.mktemp("world")
    script("generate", "+debug=tiny", f"run.dir={run}")
    return run


def test_all_item_types(model: Path, world: Path, tmp_path: Path, script: Run) -> None:
    own = ("+debug=tiny", "model=any", f"model.path={model}", "model.new=null", f"run.dir={tmp_path}")
    data = f"run.data={world / 'data'}"
    for protocol in ("world", "standard", "two_choice"):
        done = script(
            "evaluate", *own, data, BENCHMARKS, f"protocol={protocol}", f"folder={protocol}", "limit=6", "arms=base"
        )
        assert "each sequence is a separate row, which is slower" in done.stdout
        for benchmark in ("world_winoground", "world_vqa"):
            folder = tmp_path / f"{protocol}-limit6" / "base" / benchmark
            result = json.loads((folder / "result.json").read_text())
            assert result["self_test"]["max_logprob_difference"] < 1e-4 and result["self_test"]["texts_differ"] == 0
            assert all(0 <= score["value"] <= 100 for score in result["scores"].values())
    written = ("benchmark=[world_rationales]", "benchmark.world_rationales.max_new_tokens=8", "limit=4", "arms=base")
    script("evaluate", *own, data, *written)
    folder = tmp_path / "evaluation" / "base" / "world_rationales"
    rows = [json.loads(line) for line in (folder / "responses.jsonl").read_text().splitlines()]
    assert len({row["text"] for row in rows}) > 1, "generated replies depend on the item"


def test_a_batch_is_shown_as_rows(model: Path, world: Path, tmp_path: Path, script: Run) -> None:
    own = ("+debug=tiny", "model=any", f"model.path={model}", "model.new=null", f"run.dir={tmp_path}")
    shown = script("train", *own, f"run.data={world / 'data'}", "objective=dpo", "show_batch=1").stdout
    assert "so each sequence is a separate row" in shown
    assert "tries in" not in shown and not (tmp_path / "batch.png").exists()
    count = int(shown.rpartition("batch: ")[2].split()[0])
    assert f"batch: {count} examples, {2 * count} rows of " in shown
    rows = [line for line in shown.splitlines() if "<image token x" in line]
    assert len(rows) == 2 * count and all(line.endswith("]") for line in rows)


def test_chat_and_export(model: Path, tmp_path: Path, script: Run) -> None:
    """The exported model answers as the base with the adapter, and not as the base alone."""
    adapter = str(save_adapter(model, tmp_path / "adapter"))
    asked = ("chat", "model=any", f"image={IMAGE}", "text=Describe the image.", "max_new_tokens=5")
    base = script(*asked, f"model.path={model}").stdout.splitlines()
    tuned = script(*asked, f"model.path={model}", f"adapter={adapter}").stdout.splitlines()
    exported = tmp_path / "exported"
    script("export", "model=any", f"model.path={model}", f"adapter={adapter}", f"out={exported}")
    merged = script(*asked, f"model.path={exported}").stdout.splitlines()
    assert base[-1] != tuned[-1] == merged[-1] != ""
    assert sum("separate row" in line for line in base) == 1


def save_adapter(model: Path, folder: Path) -> Path:
    """Save a LoRA adapter with random weights on the family's targets."""
    import peft
    import torch

    from scramble.models import load_vlm

    vlm = load_vlm(model)
    torch.manual_seed(1)
    wrapped = peft.get_peft_model(vlm.model, peft.LoraConfig(r=4, target_modules=vlm.family.lora_targets))
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    wrapped.save_pretrained(str(folder))
    return folder
