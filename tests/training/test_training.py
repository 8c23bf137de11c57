"""Tests the whole trainer: resuming, amount of work, objectives, bad input. test_against_trl.py compares it
with TRL.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from scramble.models import VLM, ModelError, load_vlm
from scramble.pixels import png_bytes
from scramble.records import ImageFile, PreferencePair, RecordError
from scramble.storage.files import StoreError
from scramble.storage.image_table import ImageTable
from scramble.storage.jsonl import read_jsonl
from scramble.storage.tables import read_table
from scramble.training.callbacks import ScoreBenchmarks
from scramble.training.data import DataError, Example, image_size
from scramble.training.trainable import add_lora
from scramble.trie.engine import NonFiniteError
from tests.training.logs import rows
from tests.training.settings import fit

ROOT = Path(__file__).parents[2]
RUN = [sys.executable, "-m", "tests.training.run_training"]
LORA: dict[str, Any] = {"r": 8, "lora_alpha": 16}


def run(options: dict[str, Any], *, code: int = 0) -> str:
    result = subprocess.run([*RUN, json.dumps(options)], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == code, result.stderr[-2000:]
    return result.stderr


# -------------------------------------------------------------------------------------------------------------- resume


@pytest.mark.full  # killed scripts: tests/pipeline/test_world_run.py
@pytest.mark.parametrize("kind", ["adapter", "model"])
def test_a_killed_run_goes_on_to_the_same_numbers(base: Path, data: Path, tmp_path: Path, kind: str) -> None:
    """MPO with the reward shift and LoRA dropout is killed at step 13, with the last checkpoint at step 8, which is not
    a logging step.
    """
    options = {
        "model": str(base),
        "data": str(data),
        "objective": "mpo",
        "max_steps": 20,
        "global_batch_size": 4,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3,
        "logging_steps": 5,
        "save_steps": 4,
        "seed": 3,
        "peft": {**LORA, "lora_dropout": 0.1},
    }
    if kind == "model":
        options |= {"peft": None, "train_vision": True, "objective": "sft", "save_steps": 8}
    run(options | {"out": str(tmp_path / "whole")})
    run(options | {"out": str(tmp_path / "killed"), "kill_at": 11}, code=-9)
    assert not (tmp_path / "killed" / "model").exists() and not (tmp_path / "killed" / "adapter").exists()
    run(options | {"out": str(tmp_path / "killed")})
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    name = "model/model.safetensors" if kind == "model" else "adapter/adapter_model.safetensors"
    assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_finished_run_is_not_trained_again(base: Path, data: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"peft": LORA, "max_steps": 4, "global_batch_size": 4}
    first = fit(load_vlm(base), data, tmp_path, **options)
    again = fit(load_vlm(base), data, tmp_path, **options)
    assert again["resumed_from"] == "step-00000004" and again["last"] == first["last"]


def test_a_damaged_checkpoint_is_passed_over(
    base: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {
        "peft": LORA,
        "max_steps": 6,
        "global_batch_size": 4,
        "save_steps": 2,
        "save_total_limit": 3,
    }
    fit(load_vlm(base), data, tmp_path, **options)
    expected = rows(tmp_path)
    optimizer = tmp_path / "checkpoints" / "step-00000006" / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:1000])
    summary = fit(load_vlm(base), data, tmp_path, **options)
    assert "step-00000006 is damaged (optimizer.pt has changed)" in caplog.text
    assert summary["resumed_from"] == "step-00000004" and rows(tmp_path) == expected


def test_other_settings_are_refused(base: Path, data: Path, tmp_path: Path) -> None:
    fit(load_vlm(base), data, tmp_path, peft=LORA, max_steps=2, global_batch_size=4)
    with pytest.raises(StoreError, match=r"different settings: learning_rate \(1e-05 -> 0.001\)\. Choose"):
        fit(load_vlm(base), data, tmp_path, peft=LORA, max_steps=2, global_batch_size=4, learning_rate=1e-3)


# ------------------------------------------------------------------------------------------------------------ the work


def test_tower_passes_and_hooks(base: Path, data: Path, tmp_path: Path) -> None:
    """The tower encodes each image of a micro-batch once, without a backward pass, and no hooks are added in 50 steps
    with gradient checkpointing."""
    vlm = load_vlm(base)
    tower = vlm.model.model.vision_tower
    forward, images, hooks = tower.forward, [], []

    def counted(pixel_values: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        output = forward(pixel_values, *args, **kwargs)
        images.append(len(pixel_values))
        assert not output[0].requires_grad and not tower.training
        return output

    def count_hooks(policy: VLM) -> dict[str, float]:
        modules = list(policy.model.modules())
        kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        hooks.append(sum(len(getattr(module, kind)) for module in modules for kind in kinds))
        return {}

    tower.forward = counted
    fit(
        vlm,
        data,
        tmp_path,
        objective="mpo",
        peft=LORA,
        max_steps=50,
        global_batch_size=4,
        precompute_ref_log_probs=False,
        group_by_image=True,
        gradient_checkpointing=True,
        callbacks=[ScoreBenchmarks(count_hooks)],
        eval_steps=1,
        logging_steps=1,
    )
    assert [row["images"] for row in rows(tmp_path)] == [2] * 50
    assert sum(images) == 2 * 50  # each image of a micro-batch once, reference included
    assert len(set(hooks[1:])) == 1  # transformers adds its output recorders in the first forward pass


def test_gradient_checkpointing_and_reference_in_the_step_change_nothing(
    base: Path, data: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "objective": "mpo",
        "peft": LORA,
        "max_steps": 8,
        "global_batch_size": 4,
        "learning_rate": 1e-3,
        "logging_steps": 1,
    }
    fit(load_vlm(base), data, tmp_path / "plain", **options)
    fit(
        load_vlm(base), data, tmp_path / "other", **options, gradient_checkpointing=True, precompute_ref_log_probs=False
    )
    for a, b in zip(rows(tmp_path / "plain"), rows(tmp_path / "other"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5) and a["reward_shift"] == pytest.approx(
            b["reward_shift"], abs=1e-5
        )


def test_micro_batches_add_up(base: Path, data: Path, tmp_path: Path) -> None:
    """Training with the same batch in one, two or four micro-batches is equal, including the reward shift."""
    losses = []
    for micro in (4, 2, 1):
        fit(
            load_vlm(base),
            data,
            tmp_path / str(micro),
            objective="mpo",
            peft=LORA,
            max_steps=6,
            global_batch_size=4,
            per_device_train_batch_size=micro,
            group_by_image=False,
            learning_rate=1e-3,
            logging_steps=1,
        )
        losses.append([(row["loss"], row["reward_shift"]) for row in rows(tmp_path / str(micro))])
    torch.testing.assert_close(torch.tensor(losses[1]), torch.tensor(losses[0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.tensor(losses[2]), torch.tensor(losses[0]), atol=1e-5, rtol=0)


def test_validation_leaves_training_as_it_is(base: Path, data: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "objective": "mpo",
        "peft": {**LORA, "lora_dropout": 0.1},
        "max_steps": 6,
        "global_batch_size": 4,
        "learning_rate": 1e-3,
        "logging_steps": 1,
    }
    fit(load_vlm(base), data, tmp_path / "without", **options)
    fit(
        load_vlm(base),
        data,
        tmp_path / "with",
        **options,
        eval_data=data,
        eval_steps=2,
        callbacks=[ScoreBenchmarks(lambda vlm: {"score": torch.rand(()).item()})],
    )
    logged = rows(tmp_path / "with")
    assert [row for row in logged if "loss" in row] == rows(tmp_path / "without")
    watched = [row for row in logged if "eval_loss" in row]
    assert [row["step"] for row in watched] == [0, 2, 4, 6] and all("score" in row for row in watched)
    assert watched[0]["eval_rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert watched[0]["eval_loss/sigmoid"] == pytest.approx(0.693147, abs=1e-5)


@pytest.mark.parametrize(
    "family", ["molmo", *(pytest.param(f, marks=pytest.mark.full) for f in ("llava", "llava_onevision", "smolvlm"))]
)
def test_other_families_train_alike(data: Path, tmp_path: Path, family: str) -> None:
    """A cached reference, a reference computed in the step, cached features and checkpointing give the same losses."""
    from scramble.models.tiny import save_tiny

    texts = [text for pair in read_table(data, PreferencePair) for text in (pair.prompt, pair.chosen, pair.rejected)]
    model = save_tiny(family, tmp_path / "model", texts, 0)
    options: dict[str, Any] = {
        "objective": "mpo",
        "peft": LORA,
        "max_steps": 3,
        "global_batch_size": 4,
        "learning_rate": 1e-3,
        "logging_steps": 1,
    }
    fit(load_vlm(model), data, tmp_path / "plain", **options)
    fit(
        load_vlm(model),
        data,
        tmp_path / "other",
        **options,
        precompute_ref_log_probs=False,
        feature_cache_dir=str(tmp_path / "features"),
        gradient_checkpointing=True,
    )
    losses = [torch.tensor([row["loss"] for row in rows(tmp_path / name)]) for name in ("plain", "other")]
    torch.testing.assert_close(losses[0], losses[1], atol=1e-5, rtol=0)


# ---------------------------------------------------------------------------------------------------------- objectives


@pytest.mark.parametrize(
    "objective",
    [
        {"objective": "mpo"},
        *(pytest.param(o, marks=pytest.mark.full) for o in ({"objective": "dpo"}, {"loss_type": ["sppo_hard"]})),
    ],
)
def test_preference_objectives_widen_the_margin(
    base: Path, data: Path, tmp_path: Path, objective: dict[str, Any]
) -> None:
    fit(
        load_vlm(base),
        data,
        tmp_path,
        **objective,
        peft=LORA,
        max_steps=40,
        global_batch_size=8,
        learning_rate=5e-3,
        logging_steps=1,
    )
    logged = rows(tmp_path)
    assert abs(logged[0]["rewards/margins"]) < 1e-5
    assert sum(row["rewards/margins"] for row in logged[-5:]) / 5 > 0.05


def test_all_weights_of_the_language_model_against_a_cached_reference(base: Path, data: Path, tmp_path: Path) -> None:
    before = load_file(base / "model.safetensors")
    fit(
        load_vlm(base),
        data,
        tmp_path,
        objective="dpo",
        max_steps=30,
        global_batch_size=8,
        learning_rate=2e-3,
        logging_steps=1,
    )
    after = load_file(tmp_path / "model" / "model.safetensors")
    logged = rows(tmp_path)
    assert logged[0]["loss"] == pytest.approx(0.693147, abs=1e-5)
    assert logged[-1]["rewards/margins"] > 0.05
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed and not any("vision" in name or "projector" in name for name in changed)


def test_sft_on_captions_trains_the_tower_too(tiny: Path, data: Path, tmp_path: Path) -> None:
    before = load_file(tiny / "model.safetensors")
    summary = fit(
        load_vlm(tiny),
        data,
        tmp_path,
        objective="sft",
        tables=["captions"],
        train_vision=True,
        max_steps=10,
        global_batch_size=8,
        learning_rate=3e-3,
        logging_steps=1,
    )
    after = load_file(tmp_path / "model" / "model.safetensors")
    assert all(not torch.equal(before[n], after[n]) for n in after if n.endswith("vision_tower.layernorm.weight"))
    assert any("vision" in n and not torch.equal(before[n], after[n]) for n in after)
    assert rows(tmp_path)[-1]["loss"] < rows(tmp_path)[0]["loss"] - 1
    assert load_vlm(summary["model"]).model.dtype == torch.float32


@pytest.mark.parametrize("reference", ["step", pytest.param("cache", marks=pytest.mark.full)])
def test_lora_on_the_tower(base: Path, data: Path, tmp_path: Path, reference: str) -> None:
    """The adapter also changes the tower. The reference is the base: the first loss is log 2, with and without a
    cache."""
    options: dict[str, Any] = {"max_steps": 6, "global_batch_size": 8, "learning_rate": 3e-3, "logging_steps": 1}
    summary = fit(
        load_vlm(base),
        data,
        tmp_path / "tower",
        peft=LORA,
        train_vision="lora",
        precompute_ref_log_probs=reference == "cache",
        **options,
    )
    weights = load_file(Path(summary["adapter"]) / "adapter_model.safetensors")
    changed = {name for name, weight in weights.items() if "lora_B" in name and weight.abs().max() > 0}
    assert any("vision_tower" in name for name in changed) and any("projector" in name for name in changed)
    assert any("language_model" in name for name in changed)
    logged = rows(tmp_path / "tower")
    assert logged[0]["loss"] == pytest.approx(0.693147, abs=1e-5)
    # The same adapter without the reference cache: the reference must not see the tower's adapter.
    other = fit(
        load_vlm(base),
        data,
        tmp_path / "other",
        peft=LORA,
        train_vision="lora",
        precompute_ref_log_probs=reference != "cache",
        **options,
    )
    difference = [abs(a["loss"] - b["loss"]) for a, b in zip(logged, rows(tmp_path / "other"), strict=True)]
    assert max(difference) < 1e-5 and min(row["loss"] for row in logged) < 0.69
    # The features of this adapter's tower are not those of the base, so a run that continues it refuses a cache of
    # features.
    with pytest.raises(ValueError, match="the adapter has weights in the tower"):
        continued = load_vlm(base, adapter=other["adapter"])
        fit(continued, data, tmp_path / "more", feature_cache_dir=str(tmp_path), **options)


def test_the_adapter_loads_and_training_continues(base: Path, data: Path, tmp_path: Path) -> None:
    """A DPO run that starts from an SFT adapter has this adapter as reference, so its first loss is log 2."""
    options: dict[str, Any] = {"max_steps": 6, "global_batch_size": 8, "learning_rate": 1e-3, "logging_steps": 1}
    first = fit(load_vlm(base), data, tmp_path / "sft", objective="sft", peft=LORA, **options)
    fit(load_vlm(base, adapter=first["adapter"]), data, tmp_path / "dpo", objective="dpo", **options)
    logged = rows(tmp_path / "dpo")
    assert logged[0]["loss"] == pytest.approx(0.693147, abs=1e-5)
    last_of_sft = rows(tmp_path / "sft")[-1]["logps_per_token/chosen"]
    assert logged[0]["logps_per_token/chosen"] == pytest.approx(last_of_sft, abs=0.3)


@pytest.mark.parametrize("use", [["pairs"], ["pairs", "captions"]])
def test_a_supervised_run_evaluates_rejected_answers(base: Path, data: Path, tmp_path: Path, use: list[str]) -> None:
    fit(
        load_vlm(base),
        data,
        tmp_path,
        objective="sft",
        tables=use,
        peft=LORA,
        max_steps=2,
        global_batch_size=8,
        eval_data=data,
    )
    watched = [row for row in rows(tmp_path) if "eval_loss" in row]
    assert watched[0]["eval_logps/rejected"] < 0 and 0 <= watched[0]["eval_logps/accuracies"] <= 1
    assert "eval_rewards/margins" not in watched[0] and "logps/rejected" not in rows(tmp_path)[1]


def test_text_only_pairs(base: Path, data: Path, tmp_path: Path) -> None:
    pairs = read_table(data, PreferencePair)
    examples = [Example(p.pair_id, (), p.prompt, p.chosen, p.rejected) for p in pairs]
    fit(load_vlm(base), (examples, {}), tmp_path, peft=LORA, max_steps=4, global_batch_size=8, logging_steps=1)
    assert [row["images"] for row in rows(tmp_path)] == [0] * 4


# ------------------------------------------------------------------------------------------------------------ bad input


def test_rows_that_cannot_be_used_are_listed(
    base: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = ImageTable(data)
    good = [Example(f"good{n}", ("i1",), "Describe the image.", f"a red {n}", f"a blue {n}") for n in range(6)]
    bad = [
        Example("long", ("i1",), "Describe the image.", "red " * 500, "blue"),
        Example("lost", ("i99",), "Describe the image.", "red", "blue"),
        Example("same", ("i1",), "Describe the image.", "a red", "a red"),
        Example("good0", ("i1",), "Describe the image.", "red", "blue"),
        Example("placeholder", ("i1",), "Describe <IMG_CONTEXT>.", "red", "blue"),
        Example("empty", ("i1",), "Describe the image.", "a red", " "),
    ]
    options: dict[str, Any] = {"peft": LORA, "max_steps": 1, "global_batch_size": 2, "max_length": 200}
    with pytest.raises(
        DataError, match=r"rejected 6 of 12 rows .*rejected_rows\.jsonl\)\. The first is long: \d+ tokens"
    ):
        fit(load_vlm(base), (good + bad, images), tmp_path, **options)
    fit(load_vlm(base), (good + bad, images), tmp_path, **options, max_rejected_fraction=0.5)
    assert "rejected 6 of 12 rows" in caplog.text
    validation = ([*good, bad[0]], images)
    fit(load_vlm(base), (good, images), tmp_path / "val", **options, eval_data=validation, max_rejected_fraction=0.5)
    assert f"rejected 1 of 7 rows (listed in {tmp_path / 'val' / 'rejected_rows_val.jsonl'}" in caplog.text
    assert [row["id"] for row in read_jsonl(tmp_path / "val" / "rejected_rows_val.jsonl")] == ["long"]
    refused = {row["id"]: row["reason"] for row in read_jsonl(tmp_path / "rejected_rows.jsonl")}
    assert list(refused) == ["long", "lost", "same", "good0", "placeholder", "empty"]
    assert "exceed the limit of 200" in refused["long"] and "i99 is not in the images table" in refused["lost"]
    assert "same tokens" in refused["same"] and "duplicate id" in refused["good0"]
    assert "placeholder" in refused["placeholder"] and "an answer is empty" in refused["empty"]


def test_an_image_that_pillow_refuses_is_a_record_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not all of Pillow's errors are OSErrors: images with too many pixels raise DecompressionBombError."""
    image = ImageFile(bytes=png_bytes(Image.new("RGB", (4, 3))))
    assert image_size(image) == (3, 4)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    with pytest.raises(RecordError, match="image <bytes> cannot be decoded"):
        image_size(image)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [("a blue <im_col>", "'<im_col>', which molmo interprets as a control token"), ("a blue zebra", "output head")],
)
def test_one_answer_with_a_token_that_cannot_be_scored_is_refused(
    answer: str, reason: str, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Molmo's image tokens and words that were added later have no row in the head: examples with them are refused, and
    the run continues."""
    from scramble.models.tiny import save_tiny

    model = save_tiny("molmo", tmp_path / "model", ["Describe the image.", "a red", "a blue"], 0)
    vlm = load_vlm(model)
    vlm.processor.tokenizer.add_tokens(["zebra"])
    examples = [Example(f"good{n}", ("i1",), "Describe the image.", f"a red {n}", f"a blue {n}") for n in range(4)]
    examples.append(Example("special", ("i1",), "Describe the image.", "a red", answer))
    fit(vlm, (examples, ImageTable(data)), tmp_path / "out", peft=LORA, max_steps=1, global_batch_size=2)
    assert "rejected 1 of 5 rows" in caplog.text
    [row] = read_jsonl(tmp_path / "out" / "rejected_rows.jsonl")
    assert row["id"] == "special" and reason in row["reason"]


@pytest.mark.full
@pytest.mark.parametrize("limit", [100_000, 400_000])
def test_a_full_disk_is_named_and_earlier_work_stays(base: Path, data: Path, tmp_path: Path, limit: int) -> None:
    """With at most 100 kB per file the adapter cannot be written; with 400 kB the optimizer's state cannot."""
    options = {
        "model": str(base),
        "data": str(data),
        "out": str(tmp_path),
        "peft": LORA,
        "objective": "sft",
        "max_steps": 4,
        "global_batch_size": 4,
        "save_steps": 2,
        "logging_steps": 1,
    }
    run(options | {"kill_at": 3}, code=-9)
    message = run(options | {"file_limit": limit}, code=1)
    assert "StoreError: cannot write the checkpoint of step 4 to" in message
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]
    run(options)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()


def test_a_folder_that_cannot_be_written(base: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write .*file/out"):
        fit(load_vlm(base), data, tmp_path / "file" / "out", peft=LORA)


def test_nothing_to_train_on(base: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows"):
        fit(load_vlm(base), ([], {}), tmp_path, peft=LORA)


@pytest.mark.parametrize(
    ("reference", "where"), [("step", "step 1"), ("cache", "the reference model failed before .*")]
)
def test_nan_names_step_and_pairs(base: Path, data: Path, tmp_path: Path, reference: str, where: str) -> None:
    vlm = load_vlm(base)
    with torch.no_grad():
        vlm.model.model.language_model.layers[0].mlp.up_proj.weight[0] = float("nan")
    with pytest.raises(NonFiniteError, match=where + r": log-probabilities are not finite .*p\d+-\d"):
        fit(
            vlm,
            data,
            tmp_path,
            peft=LORA,
            max_steps=2,
            global_batch_size=2,
            precompute_ref_log_probs=reference == "cache",
        )


def test_nan_in_a_gradient_names_step_and_pairs(base: Path, data: Path, tmp_path: Path) -> None:
    """The third gradient is not finite: two steps are finished, and the checkpoint of the second one is kept."""
    wrapped, calls = load_vlm(base), count()
    wrapped.model = add_lora(wrapped, LORA)
    weight = next(p for n, p in wrapped.model.named_parameters() if "lora_B" in n)
    weight.register_hook(lambda gradient: gradient * (float("nan") if next(calls) == 2 else 1))
    message = r"step 3: the gradient norm is nan \(first examples of this step: p\d+-\d, p\d+-\d"
    with pytest.raises(NonFiniteError, match=message):
        fit(wrapped, data, tmp_path, max_steps=4, global_batch_size=2, save_steps=1)
    assert (tmp_path / "checkpoints" / "step-00000002").exists()


def test_a_truncated_reference_cache_is_refused_and_a_removed_one_rebuilt(
    base: Path, data: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"peft": LORA, "max_steps": 1, "global_batch_size": 2}
    options["reference_cache_dir"] = str(tmp_path / "cache")
    fit(load_vlm(base), data, tmp_path / "first", **options)
    part = next((tmp_path / "cache").rglob("part-0.jsonl"))
    part.write_text(part.read_text()[:200])
    with pytest.raises(StoreError, match=r"a file was truncated or edited: remove the folder"):
        fit(load_vlm(base), data, tmp_path / "second", **options)
    shutil.rmtree(tmp_path / "cache")
    fit(load_vlm(base), data, tmp_path / "second", **options)
    assert rows(tmp_path / "second") == rows(tmp_path / "first")


def test_autocast_scores_the_reference_as_it_trains(base: Path, data: Path, tmp_path: Path) -> None:
    """With bfloat16 autocast the first loss of a new adapter is log 2, because the reference also uses autocast."""
    fit(
        load_vlm(base),
        data,
        tmp_path / "out",
        peft=LORA,
        max_steps=1,
        global_batch_size=4,
        bf16=True,
        beta=10.0,
        feature_cache_dir=str(tmp_path / "features"),
    )
    assert rows(tmp_path / "out")[0]["loss"] == pytest.approx(0.693147, abs=0.02)


def test_an_exploding_run_keeps_its_last_checkpoint(base: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"step \d+: .*Check trainer.learning_rate"):
        fit(
            load_vlm(base),
            data,
            tmp_path,
            peft=LORA,
            max_steps=20,
            global_batch_size=2,
            learning_rate=1e30,
            warmup_ratio=0.0,
            save_steps=1,
        )
    assert list((tmp_path / "checkpoints").glob("step-*"))
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (r".*\.query_key_value", "matches no linear layer"),
        (r".*\.(q_proj|v_proj)", "matches a layer of the vision tower or projector"),
        (r"(.*language_model.*q_proj|lm_head)", r"matches a layer of the output head \(lm_head\)"),
        (r"(", "not a valid regular expression"),
        (["query_key_value"], "no linear layer query_key_value: choose from its linear layers q_proj, k_proj"),
        (["q_proj", "v_projj"], "no linear layer v_projj"),
        (["self_attn.q_proj", "proj"], "no linear layer proj:"),
    ],
)
def test_invalid_lora_targets(base: Path, data: Path, tmp_path: Path, targets: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        fit(load_vlm(base), data, tmp_path, peft={**LORA, "target_modules": targets})


@pytest.mark.parametrize(
    "targets",
    [r".*\.mlp\.experts\.gate_up_proj", [r"q_proj", "experts.gate_up_proj"], r".*(q_proj|experts\.0\.up_proj)"],
)
def test_experts_are_not_linear_layers(tmp_path: Path, targets: str | list[str]) -> None:
    from scramble.models.tiny import save_tiny

    vlm = load_vlm(save_tiny("qwen3_vl", tmp_path / "model", ["a circle"], 0, experts=4))
    wanted = (
        r"names experts, which are fused parameters of Qwen3VLMoeForConditionalGeneration and not linear layers: "
        r"remove the experts from .* and set peft.target_parameters=\[mlp.experts.gate_up_proj,mlp.experts.down_proj\]$"
    )
    with pytest.raises(ModelError, match=wanted):
        add_lora(vlm, {**LORA, "target_modules": targets})


def test_lora_on_experts(tmp_path: Path) -> None:
    """The setting that the error in the previous test suggests works, alone and with the linear layers; a misspelt name
    is refused."""
    from scramble.models.tiny import save_tiny

    base = save_tiny("qwen3_vl", tmp_path / "model", ["a circle"], 0, experts=4)
    parameters = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    with pytest.raises(
        ModelError, match=r"no parameter mlp\.experts\.up_proj in .*; its experts are mlp\.experts\.gate_up"
    ):
        add_lora(load_vlm(base), {**LORA, "target_parameters": ["mlp.experts.up_proj"]})
    with pytest.raises(ModelError, match=r"matches no linear layer"):
        add_lora(load_vlm(base), {**LORA, "target_modules": []})
    cases: list[tuple[dict[str, Any], bool]] = [({"target_modules": []}, False), ({}, True)]
    for targets, linear in cases:
        options = {**LORA, **targets, "target_parameters": parameters}
        model = add_lora(load_vlm(base), options)
        trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        assert any("experts" in name for name in trained)
        assert any("q_proj" in name for name in trained) == linear


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"peft": LORA}, "the model already has an adapter: set peft=null"),
        ({"precompute_ref_log_probs": False}, "only with a new adapter"),
        ({"train_vision": True}, "LoRA freezes the vision tower"),
    ],
)
def test_options_that_contradict_an_adapter(
    base: Path, data: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    wrapped = load_vlm(base)
    wrapped.model = add_lora(wrapped, LORA)
    with pytest.raises(ValueError, match=message):
        fit(wrapped, data, tmp_path, **options)


def test_a_continued_adapter_trains_its_copies_of_modules_too(base: Path, data: Path, tmp_path: Path) -> None:
    """``modules_to_save`` adds a trained copy of the output head to the adapter. The base's digest stays the same."""
    options: dict[str, Any] = {"max_steps": 2, "global_batch_size": 2, "learning_rate": 1e-3, "warmup_ratio": 0.0}
    peft = {**LORA, "modules_to_save": ["lm_head"]}
    first = fit(load_vlm(base), data, tmp_path / "a", peft=peft, **options)
    second = fit(load_vlm(base, adapter=first["adapter"]), data, tmp_path / "b", **options)
    assert second["trained_parameters"] == first["trained_parameters"]
    before, after = (load_file(Path(made["adapter"]) / "adapter_model.safetensors") for made in (first, second))
    assert before.keys() == after.keys() and "base_model.model.lm_head.weight" in after
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == set(after)
    records = [json.loads((Path(made["adapter"]) / "base.json").read_text()) for made in (first, second)]
    assert records[0]["weights"] == records[1]["weights"]


def test_an_adapter_of_another_base_is_refused(base: Path, tiny: Path, data: Path, tmp_path: Path) -> None:
    made = fit(load_vlm(base), data, tmp_path / "a", objective="sft", peft=LORA, max_steps=1, global_batch_size=2)
    with pytest.raises(ModelError, match=r"was trained on .* not on this model"):
        fit(load_vlm(tiny, adapter=made["adapter"]), data, tmp_path / "b", objective="sft")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precompute_ref_log_probs": False}, "only with a new adapter"),
        ({"tables": ["captions"]}, r"must be \[pairs\], because trainer.loss_type=\[sigmoid\] needs rejected answers"),
        ({"tables": ["images"]}, "trainer.tables=images must be one of pairs, captions, "),
        ({"peft": LORA, "train_vision": True}, "LoRA freezes the vision tower"),
        ({"peft": {"rank": 8}}, "peft: LoraConfig has no field rank; use peft.r$"),
        ({"peft": {"lora_alhpa": 8}}, r"peft: LoraConfig has no field lora_alhpa; did you mean lora_alpha\?"),
        ({"reward_shift": "ema"}, "trainer.reward_shift=ema must be one of earlier, inclusive, none"),
        ({"loss_type": "sft", "sft_mean": "token"}, "trainer.sft_mean=token must be one of answer, batch"),
        ({"loss_type": "exo_pair"}, "trainer.label_smoothing=0 must be above 0 for the loss 'exo_pair'"),
        ({"loss_type": "robust", "label_smoothing": 0.5}, "label_smoothing=0.5 must be below 0.5 for the loss"),
        ({"global_batch_size": 0}, "trainer.global_batch_size=0 must be at least 1"),
        (
            {"global_batch_size": 6, "per_device_train_batch_size": 4},
            "must be a multiple of trainer.per_device_train_batch_size=4, or null",
        ),
        ({"loss_type": ["dop"]}, "trainer.loss_type=dop must be one of "),
        ({"label_smoothing": 0.1}, "none of the losses sigmoid uses label smoothing"),
    ],
)
def test_contradictory_options(base: Path, data: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(load_vlm(base), data, tmp_path, **options)


def test_flash_attention_cannot_train_on_tries(base: Path, data: Path, tmp_path: Path) -> None:
    vlm = load_vlm(base)
    decoder: Any = vlm.backbone.decoder
    decoder.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="does not support the attention masks of token tries"):
        fit(vlm, data, tmp_path, peft=LORA)


@pytest.mark.parametrize("backend", ["trie", "trl"])
def test_training_and_loading_show_no_warning_about_renamed_methods(
    backend: str, base: Path, data: Path, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*gradient_checkpointing", category=FutureWarning)
        made = fit(load_vlm(base), data, tmp_path, peft=LORA, max_steps=1, global_batch_size=2, backend=backend)
        load_vlm(base, adapter=made["adapter"])


def test_lora_dropout_is_allowed_with_one_warning(
    base: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit(load_vlm(base), data, tmp_path, peft={**LORA, "lora_dropout": 0.1}, max_steps=1, global_batch_size=2)
    assert caplog.text.count("they also share the dropout masks of these tokens") == 1


def test_wandb_offline_writes_a_run(base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    fit(load_vlm(base), data, tmp_path, peft=LORA, max_steps=2, global_batch_size=2, report_to=["wandb"])
    assert list((tmp_path / "wandb").glob("offline-run-*")) and (tmp_path / "wandb_id.txt").exists()
    shutil.rmtree(tmp_path / "wandb")


def test_an_earlier_result_is_kept_until_the_new_result_is_complete(tmp_path: Path) -> None:
    from scramble.training.weights import replace_result

    vlm: Any = None
    folder, saved = tmp_path / "adapter", tmp_path / "saved"
    saved.mkdir()
    for content in ("first", "second"):
        (saved / "weights").write_text(content)
        replace_result(vlm, folder, "", saved=saved)
        assert (folder / "weights").read_text() == content
    with pytest.raises(FileNotFoundError):
        replace_result(vlm, folder, "", saved=tmp_path / "gone")
    assert (folder / "weights").read_text() == "second"
    assert {path.name for path in tmp_path.iterdir()} == {"adapter", "saved"}
