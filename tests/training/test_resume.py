"""Tests which settings a resumed run may change: the stage and the checkpoint of a run agree."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from scramble.models.tiny import save_tiny
from scramble.training import PreferenceConfig
from scramble.training.fields import REFUSED_FIELDS, TRL_OPTIONS, default_of
from scramble.training.resume import (
    CHOICE_OF_RESULT,
    changes_since_checkpoint,
    changes_since_stage,
    checkpoint_settings,
    stage_settings,
)

BEST = {"load_best_model_at_end": True, "metric_for_best_model": "eval_world_vqa/accuracy"}
PARTS = {"base": "0a", "adapter": None, "precision": "torch.float32, sdpa, cpu", "data": "0b"}
NO_MODEL: dict[str, Any] = {}


def stage_changes(old: dict[str, Any], new: dict[str, Any], model: dict[str, Any] = NO_MODEL) -> list[str]:
    """Return the changes that the stage reports between two sections ``trainer``."""
    recorded, config = ({"trainer": stage_settings(section)} for section in (old, new))
    return changes_since_stage(recorded, config, model)


def checkpoint_changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return the changes that the checkpoint reports between two configurations on the trie backend."""
    saved, settings = (PARTS | checkpoint_settings(PreferenceConfig(**fields), "trie") for fields in (old, new))
    return changes_since_checkpoint(saved, settings)


@pytest.mark.parametrize("best", [False, True])
def test_stage_and_checkpoint_compare_the_same_fields(best: bool) -> None:
    """Values that are computed or replaced before training are the only exceptions."""
    every = {f.name: default_of(PreferenceConfig, f.name) for f in dataclasses.fields(PreferenceConfig) if f.init}
    by_stage = set(stage_settings(every | {"load_best_model_at_end": best}))
    computed = {"gradient_accumulation_steps"} | (REFUSED_FIELDS.keys() - TRL_OPTIONS)
    args = PreferenceConfig(load_best_model_at_end=best, per_device_train_batch_size=8)
    changed = {name: object() for name in every}  # no field has its default
    for name, value in changed.items():
        setattr(args, name, value)
    args.load_best_model_at_end, args.metric_for_best_model = best, None
    expected = by_stage - computed - {"metric_for_best_model"} - (set() if best else {"load_best_model_at_end"})
    assert set(checkpoint_settings(args, "trl")) == expected
    assert (by_stage >= CHOICE_OF_RESULT) == best


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({}, {"dataloader_num_workers": 2, "logging_steps": 5, "save_steps": 7}),
        ({}, {"use_cpu": True}),  # the checkpoint compares the device instead
        ({}, {"save_total_limit": 9, "peft": None}),
        ({"gradient_accumulation_steps": 4}, {"gradient_accumulation_steps": 2}),  # other number of processes
    ],
)
def test_both_accept(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert stage_changes(old, new) == checkpoint_changes(old, new) == []


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        ({}, {"learning_rate": 1e-3}, "learning_rate (1e-05 -> 0.001)"),
        ({"load_best_model_at_end": True}, {"load_best_model_at_end": True, "eval_delay": 4}, "eval_delay (0 -> 4)"),
        ({}, {"per_device_train_batch_size": 8}, "per_device_train_batch_size (None -> 8)"),
    ],
)
def test_both_refuse(old: dict[str, Any], new: dict[str, Any], difference: str) -> None:
    assert stage_changes(old, new) == [f"trainer.{difference}"]
    assert checkpoint_changes(old, new) == [difference]


def test_benchmarks_that_choose_the_result_must_stay() -> None:
    def watch(limit: int, **fields: Any) -> dict[str, Any]:
        return BEST | {"watch": {"benchmarks": ["world_vqa"], "limit": limit}} | fields

    assert stage_changes(watch(10), watch(20)) == ["trainer.watch.limit (10 -> 20)"]
    assert stage_changes(watch(10), watch(10) | {"watch": None}) == [
        "trainer.watch ({'benchmarks': ['world_vqa'], 'limit': 10} -> None)"
    ]
    for free in ({"metric_for_best_model": "eval_loss"}, {"load_best_model_at_end": False}):
        assert stage_changes(watch(10, **free), watch(20, **free)) == []
    unrecorded = {"trainer": BEST}  # as earlier versions wrote it
    assert changes_since_stage(unrecorded, {"trainer": stage_settings(watch(20))}, NO_MODEL) == []


def test_backends_are_equal_if_the_model_uses_the_same(tmp_path: Path) -> None:
    model = {"path": str(save_tiny("llava", tmp_path, ["a red circle"], seed=0)), "revision": None, "new": None}
    auto, trie, trl = ({"backend": name} for name in ("auto", "trie", "trl"))
    assert stage_changes(auto, trie, model) == stage_changes(trie, auto, model) == stage_changes({}, trie, model) == []
    assert stage_changes(auto, trl, model) == ["trainer.backend (auto -> trl)"]
    assert stage_changes(trie, trl, model) == ["trainer.backend (trie -> trl)"]
    new = {"path": str(tmp_path / "missing"), "family": "llava", "new": {}}
    assert stage_changes(auto, trie, new) == []
    config = tmp_path / "config.json"
    config.write_text('{"model_type": "blip-2"}')  # a family without tries
    assert stage_changes(auto, trl, model) == []


def test_accumulation_steps_that_determine_the_batch_must_stay() -> None:
    for fields in ({"global_batch_size": None}, {"loss_type": ["aot"]}, {"loss_type": ["sft"], "sft_mean": "batch"}):
        old, new = (fields | {"gradient_accumulation_steps": steps} for steps in (4, 2))
        assert stage_changes(old, new) == ["trainer.gradient_accumulation_steps (4 -> 2)"]
        assert checkpoint_changes(old, new) != []


EARLIER = [
    (
        {"peft": {"r": 4, "lora_alpha": 8}},
        {"warmup_steps": 0.03, "pad_to_multiple_of": None, "peft": {"r": 4, "lora_alpha": 8}},
    ),
    (
        {
            "loss_type": ["aot"],
            "gradient_accumulation_steps": 2,
            "load_best_model_at_end": True,
            "eval_steps": 100,
            "save_steps": 100,
        },
        {
            "per_device_train_batch_size": 2,
            "warmup_steps": 0.03,
            "eval_steps": 100,
            "save_steps": 100,
            "load_best_model_at_end": True,
            "metric_for_best_model": "loss",
            "greater_is_better": False,
            "pad_to_multiple_of": None,
            "loss_type": ["aot"],
        },
    ),
]


@pytest.mark.parametrize(("fields", "saved"), EARLIER)
def test_checkpoints_of_earlier_versions_are_compatible(fields: dict[str, Any], saved: dict[str, Any]) -> None:
    """``saved`` was written by ``PreferenceConfig.settings``, before ``scramble.training.resume`` existed."""
    common: dict[str, Any] = {"max_steps": 2, "global_batch_size": 4}
    settings = checkpoint_settings(PreferenceConfig(use_cpu=True, **common, **fields), "trie")
    assert settings == common | saved
    assert changes_since_checkpoint(PARTS | common | saved, PARTS | settings) == []


def test_other_models_and_devices_are_named_by_their_keys() -> None:
    settings = PARTS | {"base": "0c", "precision": "torch.float32, sdpa, cuda", "backend": "trl"}
    assert changes_since_checkpoint(PARTS, settings) == [
        "backend (trie -> trl)",
        "weights of model.path (0a -> 0c)",
        "model.dtype, model.attn_implementation and the device, which trainer.use_cpu can change "
        "(torch.float32, sdpa, cpu -> torch.float32, sdpa, cuda)",
    ]


def test_settings_that_follow_from_the_number_of_processes_do_not_bind_a_run() -> None:
    def settings(args: PreferenceConfig) -> dict[str, Any]:
        return checkpoint_settings(args, "trie")

    one, two = (PreferenceConfig(max_steps=2, global_batch_size=16) for _ in range(2))
    two.per_device_train_batch_size = two.gradient_accumulation_steps = None
    two._share_batch(2)  # as in a run of two processes
    assert (one.per_device_train_batch_size, two.per_device_train_batch_size) == (16, 8)
    assert settings(one) == settings(two)
    given = PreferenceConfig(max_steps=2, global_batch_size=16, per_device_train_batch_size=4)
    assert settings(given) == settings(one) | {"per_device_train_batch_size": 4}
    sorted_pairs = PreferenceConfig(max_steps=2, global_batch_size=16, loss_type=["aot"])
    assert settings(sorted_pairs)["per_device_train_batch_size"] == 16  # the loss sorts the pairs of a micro-batch
    # Refused fields have no other value, but transformers and TRL replace some defaults when a config is created.
    assert one.accelerator_config is not None and not set(settings(one)) & (set(REFUSED_FIELDS) - TRL_OPTIONS)
