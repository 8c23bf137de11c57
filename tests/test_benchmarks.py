"""Tests the arithmetic of the benchmark scripts, and a short run of each. Their results are in docs/results/."""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("family", ["internvl", "molmo"])
def test_the_floor_counts_what_a_pass_multiplies(family: str, tmp_path: Path) -> None:
    """For one trie without gradient the count equals torch's count of linear layers and convolutions (no attention)."""
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks.floor import count_products
    from scramble.models import load_vlm
    from scramble.models.tiny import save_tiny
    from scramble.training.trainable import add_lora
    from scramble.trie import TrieItem, logprobs, pack

    vlm = load_vlm(save_tiny(family, tmp_path / "model", ["describe", "a red dog", "a dog red"], 0))
    add_lora(vlm, {"r": 4, "lora_alpha": 8})
    prompt = vlm.family.encode_prompt(vlm.processor, "describe", [Image.new("RGB", (48, 48))])
    answers = [vlm.family.encode_completion(vlm.processor, text) for text in ("a red dog", "a dog red")]
    item = TrieItem(
        [prompt.input_ids + answer for answer in answers],
        [[False] * len(prompt.input_ids) + [True] * len(answer) for answer in answers],
        prompt.images,
    )
    parts = count_products(vlm.backbone, [item])
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        logprobs(vlm.backbone, pack([item], vlm.backbone.token_rules))
    counts = counter.get_flop_counts()["Global"]
    measured = sum(n for op, n in counts.items() if "attention" not in str(op) and "bmm" not in str(op))
    forward = [parts[name][0] for name in ("tower", "decoder forward", "head forward")]
    counted = sum(2 * n * k * m * times for part in forward for (n, k, m), times in part.items())
    assert measured == counted
    backward = parts["decoder backward"][0]
    assert sum(backward.values()) > sum(parts["decoder forward"][0].values())  # LoRA's weights also get gradients


@pytest.mark.parametrize("shape", ["tiny", "qwen-tiny", "qwen35-tiny"])
def test_the_head_at_answer_positions_leaves_the_loss_of_trl(
    shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss and gradients equal those of TRL's DPOTrainer for the same batch, with fewer rows through the output
    head.
    """
    import trl.trainer.utils
    from trl import DPOTrainer

    from benchmarks.shapes import ALL_SHAPES, noise_image, save_model
    from benchmarks.trl_answers import AnswersDPOTrainer

    model = save_model(tmp_path / "model", ALL_SHAPES[shape], ["a red dog on grass", "grass on a red dog"])
    head = trl.trainer.utils._ChunkedLogProbFunction
    rows: list[int] = []

    class CountingHead:
        @staticmethod
        def apply(hidden: torch.Tensor, *rest: object) -> object:
            rows.append(len(hidden))
            return head.apply(hidden, *rest)

    monkeypatch.setattr(trl.trainer.utils, "_ChunkedLogProbFunction", CountingHead)
    losses, gradients, scored = [], [], []
    for cls in (DPOTrainer, AnswersDPOTrainer):
        trainer = dpo_trainer(cls, model, noise_image(0, 112, 112), tmp_path)
        batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
        answer_positions = int(batch["completion_mask"].sum())
        positions = batch["input_ids"][:, 1:].numel()
        assert shape == "tiny" or {"image_grid_thw", "mm_token_type_ids"} <= batch.keys()  # Qwen's positions
        rows.clear()
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        losses.append(float(loss.detach()))
        gradients.append({n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None})
        scored.append(set(rows))
    assert scored == [{positions}, {answer_positions}]
    assert abs(losses[0] - losses[1]) < 1e-5 and abs(losses[0] - 0.6931) > 1e-3  # the policy is not the reference
    assert gradients[0] and gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-4)


def dpo_trainer(cls: Any, model: Path, image: Image.Image, folder: Path) -> Any:
    """Return a trainer of two pairs on a CPU with a random adapter, so that the loss differs from log 2."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import DPOConfig

    from scramble.models import load_vlm

    vlm = load_vlm(model, dtype="float32", device="cpu")
    pairs = [("a red dog", "a dog red on grass"), ("grass on a dog", "a grass")]
    prompt = [{"role": "user", "content": "describe"}]
    data = Dataset.from_list(
        [
            {
                "prompt": prompt,
                "chosen": [{"role": "assistant", "content": chosen}],
                "rejected": [{"role": "assistant", "content": rejected}],
                "image": image,
            }
            for chosen, rejected in pairs
        ]
    )
    settings = DPOConfig(
        str(folder / "run"), per_device_train_batch_size=2, use_cpu=True, bf16=False, max_length=None, report_to=[]
    )
    lora = LoraConfig(target_modules=vlm.family.lora_targets)
    trainer = cls(model=vlm.model, args=settings, train_dataset=data, processing_class=vlm.processor, peft_config=lora)
    torch.manual_seed(0)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return trainer


@pytest.mark.full
@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("score", "--shape tiny --images 1 --sequences 2 --repeats 1 --threads 1"),
        ("evaluate", "--shape tiny --images 2 --rows 1 --repeats 1 --threads 1"),
        ("engine_overhead", "--requests 20 --rounds 1"),
        ("scenealign", "--scenes 20"),
    ],
)
def test_the_benchmark_runs(script: str, arguments: str) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), *arguments.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and done.stdout, done.stderr


@pytest.mark.full
def test_the_input_benchmark_runs(tmp_path: Path) -> None:
    out = tmp_path / "input.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "input_pipeline.py"), "--json", str(out), "--images", "2"]
    command += ["--families", "molmo", "--sizes", "640x480", "--rounds", "1", "--workers", "0", "2"]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    [rows] = json.loads(out.read_text()).values()
    assert rows.keys() == {"decode", "resize", "processor", "2 processes", "0 workers", "2 workers"}
    assert all(row["images_per_second"] > 0 and row["processor_ms"] > 0 for row in rows.values())


@pytest.mark.full
@pytest.mark.parametrize(
    ("shape", "sides"),
    [
        ("tiny", {"scramble", "trl", "trl-answers"}),
        ("qwen-tiny", {"scramble", "trl", "trl-answers"}),
        ("qwen35-tiny", {"scramble", "trl", "trl-answers"}),
        ("molmo-tiny", {"scramble", "rows"}),
    ],
)
def test_the_step_benchmark_runs(shape: str, sides: set[str], tmp_path: Path) -> None:
    out = tmp_path / "step.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "preference_step.py"), "--shape", shape, "--json", str(out)]
    command += ["--steps", "1", "--distinct-images", "2", "--threads", "1", "--feature-cache", "--one-at-a-time"]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    result = json.loads(out.read_text())["result"]
    for side in sides | {"scramble-features"}:
        assert result[side]["pairs_per_second"] > 0 and result[side]["peak_bytes"] > 0
    assert result["scramble"]["floor_fraction"] > 0 and result["scramble-features"]["features_bytes"] > 0
    fastest = result["ratios"]["scramble to the fastest peer measured here"]
    peers = {name: side["cpu_seconds_per_step"] for name, side in result.items() if name.startswith(("trl", "rows"))}
    assert fastest["peer"] == min(peers, key=lambda name: peers[name])
    assert fastest == {"peer": fastest["peer"], **result["ratios"][f"scramble to {fastest['peer']}"]}
    # All implementations start from the same adapter and use the same pairs; the second loss is the one after an
    # update.
    assert result["loss_difference"].keys() >= sides - {"scramble"}
    assert result["skipped"].keys() == {"swift", "llamafactory"}
    assert max(result["loss_difference"].values()) < 1e-4
    assert abs(result["scramble"]["losses"][0] - result["scramble"]["losses"][1]) > 1e-3


def test_a_project_without_an_environment_is_skipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each reason names the option; a project with an environment is measured."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import preference_step

    options: dict[str, Any] = dict.fromkeys(("only_scramble", "sides", "swift_python", "llamafactory_python"))
    options |= {"device": "cpu", "dtype": "float32", "shape": "40m"}

    def projects(**changes: object) -> tuple[dict[str, str], dict[str, str]]:
        return preference_step.projects_of(argparse.Namespace(**(options | changes)))

    pythons, skipped = projects(llamafactory_python=sys.executable)
    assert pythons == {"llamafactory": sys.executable}
    assert list(skipped) == ["swift"] and "--swift-python" in skipped["swift"]
    assert "is not a file" in projects(swift_python=str(tmp_path / "python"))[1]["swift"]
    assert "float32" in projects(swift_python=sys.executable, device="cuda")[1]["swift"]
    assert "molmo" in projects(swift_python=sys.executable, shape="molmo-40m")[1]["swift"]
    assert projects(sides=["scramble", "trl"]) == projects(only_scramble=True) == ({}, {})


def test_a_project_reads_the_pairs_of_the_other_sides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import peer_runner
    import preference_step
    from shapes import make_pairs, noise_image, read_captions

    options = argparse.Namespace(distinct_images=2, pixels=64, data=None)
    # In a step of three pairs the second image has one pair less.
    pairs = peer_runner.read_pairs(preference_step.write_pairs(tmp_path / "pairs", options, 2, 3, 48))
    expected = list(make_pairs(read_captions(None, 2, 2)))[:3]
    assert [(pair["chosen"], pair["rejected"]) for pair in pairs] == [(r["chosen"], r["rejected"]) for r in expected]
    assert [Path(pair["image"]).name for pair in pairs] == ["0.jpg", "0.jpg", "1.jpg"]
    assert Image.open(pairs[2]["image"]).size == noise_image(1, 64, 48).size == (64, 48)


def test_the_adapter_of_the_benchmark_depends_on_the_names_of_layers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Projects wrap the model differently, so the path before the layers differs."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from step_clock import set_adapter

    parts = {"lora_A": torch.nn.Linear(4, 2, bias=False), "base_layer": torch.nn.Linear(4, 4)}
    layer = torch.nn.ModuleDict({"q_proj": torch.nn.ModuleDict(parts)})
    models = [
        torch.nn.ModuleDict({name: torch.nn.ModuleDict({"layers": torch.nn.ModuleList(layers)})})
        for name, layers in ((name, [copy.deepcopy(layer) for _ in range(2)]) for name in ("model", "base_model"))
    ]
    assert [set_adapter(model) for model in models] == [16, 16]
    weights = [[p for n, p in model.named_parameters() if "lora" in n] for model in models]
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    assert not torch.equal(weights[0][0], weights[0][1])  # weights of two layers differ
    kept = dict(models[0].named_parameters())["model.layers.0.q_proj.base_layer.weight"]
    assert torch.equal(kept, parts["base_layer"].weight)


def test_the_bound_of_sharing_is_the_time_of_a_step_that_shares_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand, a step that shares nothing takes 4 s in the tower (4 passes per pair) and 4 s in the decoder, instead of
    1 s each.
    """
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from step_parts import table

    seconds = {"images and batch": 0.1, "tower": 1.0, "tries reference": 0.5, "tries policy": 1.0}
    seconds |= {"rows reference": 1.0, "rows policy": 3.0}
    tokens = {"tries": 10, "rows": 20}
    lines = table({"pairs": 2, "images": 2, "tokens": tokens, "seconds": seconds}).splitlines()
    assert "8.00 s" in lines[0] and "tower 4.00" in lines[0]
    ratios = {line[:30].strip(): line.split()[-1] for line in lines[1:4]}
    assert ratios == {
        "reference in the step": "3.20",
        "cached reference": "4.00",
        "cached reference and features": "8.00",
    }


@pytest.mark.full
def test_the_parts_of_a_step_are_measured(tmp_path: Path) -> None:
    from benchmarks.shapes import SHAPES, save_model

    model = save_model(tmp_path / "model", SHAPES["tiny"], ["a red dog on grass", "grass on a red dog"])
    command = [sys.executable, str(ROOT / "benchmarks" / "step_parts.py"), "--model", str(model), "--rounds", "1"]
    command += ["--images", "2", "--captions", "3", "--pairs", "5"]
    out = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600).stdout
    result = json.loads(out[out.index("{\n") : out.rindex("}") + 1])
    assert (result["pairs"], result["images"]) == (5, 2)
    # Three and two pairs share the tokens of an image, which rows repeat for both answers of each pair.
    assert 3 * result["tokens"]["tries"] < result["tokens"]["rows"]
    seconds = result["seconds"]
    assert all(seconds[f"rows {part}"] > seconds[f"tries {part}"] > 0 for part in ("reference", "policy"))


def test_the_fastest_peer_is_that_with_the_least_time_on_the_given_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: ours takes 1 s (CPU 1 s); swift 6 s (CPU 4 s), TRL 5 s (CPU 5 s)."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from step_report import compare, loss_difference

    def side(wall: float, cpu: float, loss: float) -> dict[str, Any]:
        memory = {"peak_bytes": 1, "peak_bytes_above_loaded": 1}
        return {"seconds_per_step": wall, "cpu_seconds_per_step": cpu, "losses": [0.7, loss], **memory}

    result: dict[str, Any] = {
        "scramble": side(1, 1, 0.5),
        "trl": side(5, 5, 0.5),
        "swift": side(6, 4, 0.51),
        "captions": 1,
    }
    result["scramble"] |= {"reference_seconds_per_pair": 0.25, "features_seconds_per_pair": 0.25}
    assert loss_difference(result) == {"trl": 0.0, "swift": 0.01}
    name = "scramble to the fastest peer measured here"
    by_cpu = compare(result, 2, "cpu_seconds_per_step")[name]
    assert by_cpu["peer"] == "swift" and by_cpu["warm_steps"] == 6 and by_cpu["warm_steps_cpu_time"] == 4
    assert by_cpu["one_epoch_with_fill"] == 3 and by_cpu["three_epochs_with_fill"] == 4.5
    assert compare(result, 2, "seconds_per_step")[name]["peer"] == "trl"


def test_the_scale_benchmark_writes_distinct_images_and_captions(tmp_path: Path) -> None:
    """Two captions are used for 3 images with 15 captions in total: each is repeated seven or eight times, with
    different words."""
    from benchmarks.scale import line, write_coco
    from scramble.sources import read

    captions = tmp_path / "captions.jsonl"
    rows = [{"image": "1.jpg", "caption": text} for text in ("A dog.", "A cat on a bed.")]
    captions.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert write_coco(tmp_path / "coco", captions, 3) == 15
    images = list(read("coco", tmp_path / "coco"))
    texts = [text for image in images for text in image.captions]
    assert [len(image.captions) for image in images] == [5, 5, 5] and len(set(texts)) == 15
    assert {"A dog", "A cat on a bed", "A dog, photo 7"} <= set(texts)
    assert len({image.image.bytes for image in images}) == 3
    assert line([(1000, 3.0), (2000, 5.0), (3000, 7.0)]) == "1.0 + 2.000 per 1,000 captions (largest deviation 0 %)"


def test_the_biased_set_of_the_refinement_benchmark_has_the_cue_in_known_proportion() -> None:
    """The captions that the cue predicts were determined by hand. A share of 0.25 of the others is kept."""
    from benchmarks.refinement_effect import biased, predicted
    from scramble.pairs.captions.world_swaps import candidates
    from scramble.records import PreferencePair

    def pairs(caption: str) -> dict[str, PreferencePair]:
        wanted = [n for n in candidates(caption) if n.kind in ("swap-object", "replace-relation")]
        return {n.kind: PreferencePair(n.text, ("i",), "", caption, n.text, n.kind, n.rule) for n in wanted}

    first, second = pairs("a blue star to the left of a red ring"), pairs("a red ring to the right of a blue star")
    assert [predicted(pair[kind]) for pair in (first, second) for kind in first] == [True, True, False, False]
    assert predicted(pairs("a red ring below a red star")["swap-object"]) is None
    many = [replace(first["swap-object"], pair_id=f"a{i}") for i in range(100)]
    many += [replace(second["swap-object"], pair_id=f"b{i}") for i in range(400)]
    kept = biased(many, 0.25, seed=0)
    assert kept[:100] == many[:100] and 80 <= len(kept[100:]) <= 120
