"""The trainer as a whole: resume, work done, objectives, bad input. TRL is compared in test_against_trl.py."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from scramble.models import Loaded, ModelError, load
from scramble.records import PreferencePair
from scramble.storage.files import StoreError
from scramble.storage.image_table import ImageTable
from scramble.storage.jsonl import read_jsonl
from scramble.storage.tables import read_table
from scramble.training import train
from scramble.training.data import DataError, Example
from scramble.training.monitoring import MEASURED
from scramble.training.policy import add_lora
from scramble.trie.engine import NonFiniteError

RUN = Path(__file__).with_name("run_training.py")
LORA: dict[str, Any] = {"r": 8, "alpha": 16}


def rows(out: Path) -> list[dict[str, Any]]:
    """The logged rows without their timings."""
    return [{k: v for k, v in row.items() if k not in MEASURED} for row in read_jsonl(out / "metrics.jsonl")]


def run(options: dict[str, Any], *, code: int = 0) -> str:
    result = subprocess.run([sys.executable, str(RUN), json.dumps(options)], capture_output=True, text=True)
    assert result.returncode == code, result.stderr[-2000:]
    return result.stderr


# -------------------------------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize("kind", ["adapter", "model"])
def test_a_killed_run_goes_on_to_the_same_numbers(base: Path, data: Path, tmp_path: Path, kind: str) -> None:
    """MPO with its delta and LoRA dropout, killed at step 13 with the last checkpoint at 8 (off the logging grid)."""
    options = {
        "model": str(base),
        "data": str(data),
        "objective": "mpo",
        "steps": 20,
        "batch_size": 4,
        "micro_batch_size": 2,
        "learning_rate": 1e-3,
        "log_every": 5,
        "save_every": 4,
        "seed": 3,
        "lora": {**LORA, "dropout": 0.1},
    }
    if kind == "model":
        options |= {"lora": None, "train_vision": True, "objective": "sft", "save_every": 8}
    run(options | {"out": str(tmp_path / "whole")})
    run(options | {"out": str(tmp_path / "killed"), "kill_at": 11}, code=-9)
    assert not (tmp_path / "killed" / "model").exists() and not (tmp_path / "killed" / "adapter").exists()
    run(options | {"out": str(tmp_path / "killed")})
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    name = "model/model.safetensors" if kind == "model" else "adapter/adapter_model.safetensors"
    assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_finished_run_is_not_trained_again(base: Path, data: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"lora": LORA, "steps": 4, "batch_size": 4, "device": "cpu"}
    first = train(load(base), data, tmp_path, **options)
    again = train(load(base), data, tmp_path, **options)
    assert again["resumed_from"] == "step-00000004" and again["last"] == first["last"]


def test_a_damaged_checkpoint_is_passed_over(
    base: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {"lora": LORA, "steps": 6, "batch_size": 4, "save_every": 2, "keep": 3, "device": "cpu"}
    train(load(base), data, tmp_path, **options)
    expected = rows(tmp_path)
    optimizer = tmp_path / "checkpoints" / "step-00000006" / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:1000])
    summary = train(load(base), data, tmp_path, **options)
    assert "step-00000006 is damaged (optimizer.pt has changed)" in caplog.text
    assert summary["resumed_from"] == "step-00000004" and rows(tmp_path) == expected


def test_other_settings_are_refused(base: Path, data: Path, tmp_path: Path) -> None:
    train(load(base), data, tmp_path, lora=LORA, steps=2, batch_size=4, device="cpu")
    with pytest.raises(StoreError, match=r"other settings \(learning_rate: 1e-05 there, 0.001 here\)"):
        train(load(base), data, tmp_path, lora=LORA, steps=2, batch_size=4, device="cpu", learning_rate=1e-3)


# ------------------------------------------------------------------------------------------------------------ the work


def test_tower_passes_and_hooks(base: Path, data: Path, tmp_path: Path) -> None:
    """Each image of a micro-batch goes through the tower once, nothing comes back through it, no hook is added in 50
    steps with gradient checkpointing."""
    loaded = load(base)
    tower = loaded.model.model.vision_tower
    forward, images, hooks = tower.forward, [], []

    def counted(pixel_values: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        output = forward(pixel_values, *args, **kwargs)
        images.append(len(pixel_values))
        assert not output[0].requires_grad and not tower.training
        return output

    def count_hooks(policy: Loaded) -> dict[str, float]:
        modules = list(policy.model.modules())
        kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        hooks.append(sum(len(getattr(module, kind)) for module in modules for kind in kinds))
        return {}

    tower.forward = counted
    train(
        loaded,
        data,
        tmp_path,
        objective="mpo",
        lora=LORA,
        steps=50,
        batch_size=4,
        reference="step",
        order="images",
        gradient_checkpointing=True,
        evaluate=count_hooks,
        evaluate_every=1,
        log_every=1,
        device="cpu",
    )
    assert [row["images"] for row in rows(tmp_path)] == [2] * 50
    assert sum(images) == 2 * 50  # each image of a micro-batch once, reference included
    assert len(set(hooks[1:])) == 1  # transformers hooks its output recorders once, at the first forward


def test_gradient_checkpointing_and_reference_in_the_step_change_nothing(
    base: Path, data: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "objective": "mpo",
        "lora": LORA,
        "steps": 8,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "log_every": 1,
        "device": "cpu",
    }
    train(load(base), data, tmp_path / "plain", **options)
    train(load(base), data, tmp_path / "other", **options, gradient_checkpointing=True, reference="step")
    for a, b in zip(rows(tmp_path / "plain"), rows(tmp_path / "other"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5) and a["delta"] == pytest.approx(b["delta"], abs=1e-5)


def test_micro_batches_add_up(base: Path, data: Path, tmp_path: Path) -> None:
    """The same batch in one, two and four micro-batches trains alike, delta included."""
    losses = []
    for micro in (4, 2, 1):
        train(
            load(base),
            data,
            tmp_path / str(micro),
            objective="mpo",
            lora=LORA,
            steps=6,
            batch_size=4,
            micro_batch_size=micro,
            order="pairs",
            learning_rate=1e-3,
            log_every=1,
            device="cpu",
        )
        losses.append([(row["loss"], row["delta"]) for row in rows(tmp_path / str(micro))])
    torch.testing.assert_close(torch.tensor(losses[1]), torch.tensor(losses[0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.tensor(losses[2]), torch.tensor(losses[0]), atol=1e-5, rtol=0)


def test_validation_leaves_training_as_it_is(base: Path, data: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "objective": "mpo",
        "lora": {**LORA, "dropout": 0.1},
        "steps": 6,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "log_every": 1,
        "device": "cpu",
    }
    train(load(base), data, tmp_path / "without", **options)
    train(
        load(base),
        data,
        tmp_path / "with",
        **options,
        val_data=data,
        evaluate_every=2,
        evaluate=lambda loaded: {"score": torch.rand(()).item()},
    )
    logged = rows(tmp_path / "with")
    assert [row for row in logged if "loss" in row] == rows(tmp_path / "without")
    watched = [row for row in logged if "val/loss" in row]
    assert [row["step"] for row in watched] == [0, 2, 4, 6] and all("score" in row for row in watched)
    assert watched[0]["val/rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert watched[0]["val/loss/sigmoid"] == pytest.approx(0.693147, abs=1e-5)


@pytest.mark.parametrize("family", ["molmo", "llava", "smolvlm"])
def test_other_families_train_alike(data: Path, tmp_path: Path, family: str) -> None:
    """Cached reference, plain; and reference in the step, cached features, gradient checkpointing: the same losses."""
    from scramble.models.tiny import save_tiny

    texts = [text for pair in read_table(data, PreferencePair) for text in (pair.prompt, pair.chosen, pair.rejected)]
    model = save_tiny(family, tmp_path / "model", texts, 0)
    options: dict[str, Any] = {
        "objective": "mpo",
        "lora": LORA,
        "steps": 3,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "log_every": 1,
        "device": "cpu",
    }
    train(load(model), data, tmp_path / "plain", **options)
    train(
        load(model),
        data,
        tmp_path / "other",
        **options,
        reference="step",
        image_features=tmp_path / "features",
        gradient_checkpointing=True,
    )
    losses = [torch.tensor([row["loss"] for row in rows(tmp_path / name)]) for name in ("plain", "other")]
    torch.testing.assert_close(losses[0], losses[1], atol=1e-5, rtol=0)


# ---------------------------------------------------------------------------------------------------------- objectives


@pytest.mark.parametrize("objective", ["dpo", "mpo", {"sppo_hard": 1.0}])
def test_preference_objectives_widen_the_margin(base: Path, data: Path, tmp_path: Path, objective: Any) -> None:
    train(
        load(base),
        data,
        tmp_path,
        objective=objective,
        lora=LORA,
        steps=40,
        batch_size=8,
        learning_rate=5e-3,
        log_every=1,
        device="cpu",
    )
    logged = rows(tmp_path)
    assert abs(logged[0]["rewards/margins"]) < 1e-5
    assert sum(row["rewards/margins"] for row in logged[-5:]) / 5 > 0.05


def test_all_weights_of_the_language_model_against_a_cached_reference(base: Path, data: Path, tmp_path: Path) -> None:
    before = load_file(base / "model.safetensors")
    train(
        load(base),
        data,
        tmp_path,
        objective="dpo",
        steps=30,
        batch_size=8,
        learning_rate=2e-3,
        log_every=1,
        device="cpu",
    )
    after = load_file(tmp_path / "model" / "model.safetensors")
    logged = rows(tmp_path)
    assert logged[0]["loss"] == pytest.approx(0.693147, abs=1e-5)
    assert logged[-1]["rewards/margins"] > 0.05
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed and not any("vision" in name or "projector" in name for name in changed)


def test_sft_on_captions_trains_the_tower_too(tiny: Path, data: Path, tmp_path: Path) -> None:
    before = load_file(tiny / "model.safetensors")
    summary = train(
        load(tiny),
        data,
        tmp_path,
        objective="sft",
        use=["captions"],
        train_vision=True,
        steps=10,
        batch_size=8,
        learning_rate=3e-3,
        log_every=1,
        device="cpu",
    )
    after = load_file(tmp_path / "model" / "model.safetensors")
    assert all(not torch.equal(before[n], after[n]) for n in after if n.endswith("vision_tower.layernorm.weight"))
    assert any("vision" in n and not torch.equal(before[n], after[n]) for n in after)
    assert rows(tmp_path)[-1]["loss"] < rows(tmp_path)[0]["loss"] - 1
    assert load(summary["model"]).model.dtype == torch.float32


def test_the_adapter_loads_and_goes_on(base: Path, data: Path, tmp_path: Path) -> None:
    """An SFT adapter is the start and the reference of a DPO run: its first loss is log 2."""
    options: dict[str, Any] = {"steps": 6, "batch_size": 8, "learning_rate": 1e-3, "log_every": 1, "device": "cpu"}
    first = train(load(base), data, tmp_path / "sft", objective="sft", lora=LORA, **options)
    train(load(base, adapter=first["adapter"]), data, tmp_path / "dpo", objective="dpo", **options)
    logged = rows(tmp_path / "dpo")
    assert logged[0]["loss"] == pytest.approx(0.693147, abs=1e-5)
    last_of_sft = rows(tmp_path / "sft")[-1]["logps_per_token/chosen"]
    assert logged[0]["logps_per_token/chosen"] == pytest.approx(last_of_sft, abs=0.3)


@pytest.mark.parametrize("use", [["pairs"], ["pairs", "captions"]])
def test_a_supervised_run_is_asked_about_rejected_answers(
    base: Path, data: Path, tmp_path: Path, use: list[str]
) -> None:
    train(
        load(base),
        data,
        tmp_path,
        objective="sft",
        use=use,
        lora=LORA,
        steps=2,
        batch_size=8,
        val_data=data,
        device="cpu",
    )
    watched = [row for row in rows(tmp_path) if "val/loss" in row]
    assert watched[0]["val/logps/rejected"] < 0 and 0 <= watched[0]["val/logps/accuracies"] <= 1
    assert "val/rewards/margins" not in watched[0] and "logps/rejected" not in rows(tmp_path)[1]


def test_text_only_pairs(base: Path, data: Path, tmp_path: Path) -> None:
    pairs = read_table(data, PreferencePair)
    examples = [Example(p.pair_id, (), p.prompt, p.chosen, p.rejected) for p in pairs]
    train(load(base), (examples, {}), tmp_path, lora=LORA, steps=4, batch_size=8, log_every=1, device="cpu")
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
    options: dict[str, Any] = {"lora": LORA, "steps": 1, "batch_size": 2, "device": "cpu", "max_length": 200}
    with pytest.raises(DataError, match=r"6 of 12 rows refused, listed in .*rejected_rows\.jsonl"):
        train(load(base), (good + bad, images), tmp_path, **options)
    train(load(base), (good + bad, images), tmp_path, **options, max_refused=0.5)
    assert "6 of 12 rows refused" in caplog.text
    validation = ([*good, bad[0]], images)
    train(load(base), (good, images), tmp_path / "val", **options, val_data=validation, max_refused=0.5)
    assert f"1 of 7 rows refused, listed in {tmp_path / 'val' / 'rejected_rows_val.jsonl'}" in caplog.text
    assert [row["id"] for row in read_jsonl(tmp_path / "val" / "rejected_rows_val.jsonl")] == ["long"]
    refused = {row["id"]: row["reason"] for row in read_jsonl(tmp_path / "rejected_rows.jsonl")}
    assert list(refused) == ["long", "lost", "same", "good0", "placeholder", "empty"]
    assert "exceed the limit of 200" in refused["long"] and "i99 is not in the table" in refused["lost"]
    assert "same tokens" in refused["same"] and "duplicate id" in refused["good0"]
    assert "placeholder" in refused["placeholder"] and "nothing to score" in refused["empty"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [("a blue <im_col>", "'<im_col>', which molmo reads as a control token"), ("a blue zebra", "output head")],
)
def test_one_answer_with_a_token_that_cannot_be_scored_is_refused(
    answer: str, reason: str, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Molmo's image tokens have no row in the head, nor has a word that the tokenizer got later; the run goes on."""
    from scramble.models.tiny import save_tiny

    model = save_tiny("molmo", tmp_path / "model", ["Describe the image.", "a red", "a blue"], 0)
    loaded = load(model)
    loaded.processor.tokenizer.add_tokens(["zebra"])
    examples = [Example(f"good{n}", ("i1",), "Describe the image.", f"a red {n}", f"a blue {n}") for n in range(4)]
    examples.append(Example("special", ("i1",), "Describe the image.", "a red", answer))
    train(loaded, (examples, ImageTable(data)), tmp_path / "out", lora=LORA, steps=1, batch_size=2, device="cpu")
    assert "1 of 5 rows refused" in caplog.text
    [row] = read_jsonl(tmp_path / "out" / "rejected_rows.jsonl")
    assert row["id"] == "special" and reason in row["reason"]


@pytest.mark.parametrize("limit", [100_000, 400_000])
def test_a_full_disk_is_named_and_earlier_work_stays(base: Path, data: Path, tmp_path: Path, limit: int) -> None:
    """No file beyond 100 kB: the adapter does not fit; beyond 400 kB: the optimizer's state does not."""
    options = {
        "model": str(base),
        "data": str(data),
        "out": str(tmp_path),
        "lora": LORA,
        "objective": "sft",
        "steps": 4,
        "batch_size": 4,
        "save_every": 2,
        "log_every": 1,
    }
    run(options | {"kill_at": 3}, code=-9)
    message = run(options | {"file_limit": limit}, code=1)
    assert "StoreError: cannot write checkpoint" in message and "at step 4" in message
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]
    run(options)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()


def test_a_folder_that_cannot_be_written(base: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write .*file/out"):
        train(load(base), data, tmp_path / "file" / "out", lora=LORA, device="cpu")


def test_nothing_to_train_on(base: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows"):
        train(load(base), ([], {}), tmp_path, lora=LORA, device="cpu")


@pytest.mark.parametrize(("reference", "where"), [("step", "step 1"), ("cache", "the reference model, before .*")])
def test_nan_names_step_and_pairs(base: Path, data: Path, tmp_path: Path, reference: str, where: str) -> None:
    loaded = load(base)
    with torch.no_grad():
        loaded.model.model.language_model.layers[0].mlp.up_proj.weight[0] = float("nan")
    with pytest.raises(NonFiniteError, match=where + r": log-probabilities are not finite .*p\d+-\d"):
        train(loaded, data, tmp_path, lora=LORA, steps=2, batch_size=2, reference=reference, device="cpu")


def test_nan_in_a_gradient_names_step_and_pairs(base: Path, data: Path, tmp_path: Path) -> None:
    """The third gradient breaks: two steps are done, and the second one's checkpoint stays."""
    wrapped, calls = load(base), count()
    wrapped.model = add_lora(wrapped, **LORA)
    weight = next(p for n, p in wrapped.model.named_parameters() if "lora_B" in n)
    weight.register_hook(lambda gradient: gradient * (float("nan") if next(calls) == 2 else 1))
    with pytest.raises(NonFiniteError, match=r"step 3: the gradient's norm is nan; its examples: p\d+-\d, p\d+-\d"):
        train(wrapped, data, tmp_path, steps=4, batch_size=2, save_every=1, device="cpu")
    assert (tmp_path / "checkpoints" / "step-00000002").exists()


def test_a_cut_reference_cache_is_refused_and_a_removed_one_filled_again(
    base: Path, data: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"lora": LORA, "steps": 1, "batch_size": 2, "device": "cpu"}
    options["reference_cache"] = tmp_path / "cache"
    train(load(base), data, tmp_path / "first", **options)
    part = next((tmp_path / "cache").rglob("part-0.jsonl"))
    part.write_text(part.read_text()[:200])
    with pytest.raises(StoreError, match="a file was cut or edited; remove the folder"):
        train(load(base), data, tmp_path / "second", **options)
    shutil.rmtree(tmp_path / "cache")
    train(load(base), data, tmp_path / "second", **options)
    assert rows(tmp_path / "second") == rows(tmp_path / "first")


def test_autocast_scores_the_reference_as_it_trains(base: Path, data: Path, tmp_path: Path) -> None:
    """With bfloat16 autocast the fresh adapter's first loss is log 2: the reference is computed the same way."""
    train(
        load(base),
        data,
        tmp_path / "out",
        lora=LORA,
        steps=1,
        batch_size=4,
        autocast=True,
        beta=10.0,
        image_features=tmp_path / "features",
        device="cpu",
    )
    assert rows(tmp_path / "out")[0]["loss"] == pytest.approx(0.693147, abs=0.02)


def test_an_exploding_run_keeps_its_last_checkpoint(base: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"step \d+: .*check the learning rate"):
        train(
            load(base),
            data,
            tmp_path,
            lora=LORA,
            steps=20,
            batch_size=2,
            learning_rate=1e30,
            warmup=0,
            save_every=1,
            device="cpu",
        )
    assert list((tmp_path / "checkpoints").glob("step-*"))
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (r".*\.query_key_value", "match no linear layer"),
        (r".*\.(q_proj|v_proj)", "touch the vision tower or projector"),
        (r"(.*language_model.*q_proj|lm_head)", r"touch the output head \(lm_head\)"),
        (r"(", "no regular expression"),
    ],
)
def test_lora_targets_that_do_not_fit(base: Path, data: Path, tmp_path: Path, targets: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        train(load(base), data, tmp_path, lora={**LORA, "targets": targets}, device="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora": LORA}, "the model already has an adapter; go on from it with lora=null"),
        ({"reference": "step"}, "only for a fresh adapter"),
        ({"train_vision": True}, "the tower is frozen"),
    ],
)
def test_options_that_do_not_go_with_an_adapter(
    base: Path, data: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    wrapped = load(base)
    wrapped.model = add_lora(wrapped, **LORA)
    with pytest.raises(ValueError, match=message):
        train(wrapped, data, tmp_path, device="cpu", **options)


def test_an_adapter_of_another_base_is_refused(base: Path, tiny: Path, data: Path, tmp_path: Path) -> None:
    made = train(load(base), data, tmp_path / "a", objective="sft", lora=LORA, steps=1, batch_size=2, device="cpu")
    with pytest.raises(ModelError, match=r"was trained on .* not on this model"):
        train(load(tiny, adapter=made["adapter"]), data, tmp_path / "b", objective="sft", device="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reference": "step"}, "only for a fresh adapter"),
        ({"reference": "none"}, "reference='none' is unknown"),
        ({"use": ["captions"]}, "only objective 'sft' can"),
        ({"use": ["images"]}, "name at least one of"),
        ({"lora": LORA, "train_vision": True}, "the tower is frozen"),
        ({"lora": {"rank": 8}}, "lora has no option 'rank'"),
        ({"batch_size": 6, "micro_batch_size": 4}, "not a multiple of micro_batch_size"),
        ({"delta": "ema"}, "delta='ema' is unknown"),
        ({"objective": "dop"}, "objective 'dop' is unknown"),
        ({"label_smoothing": 0.1}, "none of sigmoid reads it"),
    ],
)
def test_options_that_do_not_go_together(
    base: Path, data: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train(load(base), data, tmp_path, device="cpu", **options)


def test_lora_dropout_is_allowed_with_one_warning(
    base: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(load(base), data, tmp_path, lora={**LORA, "dropout": 0.1}, steps=1, batch_size=2, device="cpu")
    assert caplog.text.count("share tokens here, and with them dropout masks") == 1


def test_wandb_offline_writes_a_run(base: Path, data: Path, tmp_path: Path) -> None:
    train(load(base), data, tmp_path, lora=LORA, steps=2, batch_size=2, device="cpu", wandb={"mode": "offline"})
    assert list((tmp_path / "wandb").glob("offline-run-*")) and (tmp_path / "wandb_id.txt").exists()
    shutil.rmtree(tmp_path / "wandb")
