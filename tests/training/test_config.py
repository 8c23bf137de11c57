"""Every field of TRL's DPOConfig is a key ``trainer.<name>``: it reaches the trainer's arguments, or is refused."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from transformers.training_args import OptimizerNames
from trl import DPOConfig

from scramble.config.validation import check_root
from scramble.field_checks import hints
from scramble.project import CONFIGS
from scramble.training import PreferenceConfig, losses
from scramble.training.fields import LOSS_FIELDS, REFUSED_FIELDS, RENAMED, TRL_OPTIONS, default_of
from scramble.training.resume import CHOICE_OF_RESULT, DEVICE, OPERATION
from scramble.training.settings import TrainerSettings

FIELDS = [field.name for field in dataclasses.fields(DPOConfig) if field.init]

# Values that differ from the default, for fields for which the type alone is not enough to choose one.
VALUES: dict[str, Any] = {
    "lr_scheduler_type": "linear",
    "lr_scheduler_kwargs": {"num_cycles": 2},
    "optim": "adafactor",
    "optim_args": "eps=1",
    "optim_target_modules": ["q_proj"],
    "logging_strategy": "no",
    "eval_strategy": "no",
    "save_strategy": "no",
    "report_to": ["tensorboard"],
    "torch_compile_backend": "eager",
    "torch_compile_mode": "default",
    "log_level": "error",
    "log_level_replica": "error",
    "disable_tqdm": True,
    "metric_for_best_model": "logps/chosen",
    "hub_model_id": "me/mine",
    "hub_token": "secret",
    "hub_revision": "main",
    "hub_strategy": "every_save",
    "trackio_space_id": "me/space",
    "trackio_bucket_id": "me/bucket",
    "trackio_static_space_id": "me/space",
    "dataloader_multiprocessing_context": "spawn",
    "debug": "underflow_overflow",
    "loss_type": ["sigmoid", "sft"],
    "loss_weights": [0.5],
    "f_divergence_type": "js_divergence",
    "run_name": "mine",
    "project": "mine",
    "seed": 5,
    "max_steps": 7,
    "label_smoothing": 0.1,
    "global_batch_size": 16,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 32,
    "dataloader_prefetch_factor": 3,
    "ddp_timeout": 60,
    "warmup_steps": 11.0,
    "greater_is_better": False,
    "torch_compile": True,
}
ALSO: dict[str, dict[str, Any]] = {
    "ld_alpha": {"precompute_ref_log_probs": False},
    "label_smoothing": {"loss_type": ["robust"]},
    "push_to_hub": {"hub_model_id": "me/mine"},
    "dataloader_prefetch_factor": {"dataloader_num_workers": 1},
    "metric_for_best_model": {"load_best_model_at_end": True},
    "train_vision": {},
}
# Fields that cannot be tested on every machine, and what they need.
ELSEWHERE = {
    "tf32": "a GPU",
    "activation_offloading": "a GPU",
    "fsdp": "several processes",
    "ddp_backend": "several processes",
    "fsdp_config": "several processes",
    "deepspeed": "DeepSpeed",
}


@pytest.fixture(scope="module", autouse=True)
def hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield


def value_of(name: str) -> Any:
    if name in VALUES:
        return VALUES[name]
    default = default_of(PreferenceConfig, name)
    if isinstance(default, bool):
        return not default
    if isinstance(default, int | float):
        return default + 1 if isinstance(default, int) else default + 0.25
    kinds = str({field.name: field.type for field in dataclasses.fields(PreferenceConfig)}[name])
    for kind, value in (("bool", True), ("int", 3), ("float", 0.5), ("dict", {"a": 1}), ("list", ["a"]), ("str", "a")):
        if kind in kinds:
            return value
    return "a"


def composed(**fields: Any) -> tuple[list[str], dict[str, Any]]:
    """Compose a configuration with these fields of the trainer; return its faults and the section."""
    cfg = compose("train", ["objective=dpo"])
    for name, value in fields.items():
        OmegaConf.update(cfg, f"trainer.{name}", value, force_add=True)
    section: Any = OmegaConf.to_container(cfg.trainer, resolve=True)
    return check_root(cfg, "train", ()), section


@pytest.mark.parametrize("name", [name for name in FIELDS if name not in REFUSED_FIELDS and name not in ELSEWHERE])
def test_every_field_reaches_the_arguments(name: str) -> None:
    fields = {name: value_of(name), **ALSO.get(name, {})}
    if name == "report_to":
        fields = {"report_to": "all"}
    faults, section = composed(**fields)
    assert faults == []
    section.pop("watch")
    args = PreferenceConfig(**{"use_cpu": True, **section, "peft": {"r": 4}})
    actual = getattr(args, name)
    actual = getattr(actual, "value", actual)
    if name == "report_to":
        assert set(actual) >= {"wandb"}
    elif name == "debug":
        assert [option.value for option in actual] == [fields[name]]
    elif name == "metric_for_best_model":
        assert actual == fields[name] and args.load_best_model_at_end
    else:
        assert actual == fields[name], name


@pytest.mark.parametrize("field", ["run_name", "reference_cache_dir"])
def test_fields_that_a_stage_fills_in_may_be_given(field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the stage that trains an arm up to the loading of the model, which does not exist."""
    from scramble.models import ModelError
    from scramble.pipeline import train as stage

    seen: list[PreferenceConfig] = []
    monkeypatch.setattr(stage, "log_needs", lambda *_: None)
    original = PreferenceConfig.__post_init__

    def noted(self: PreferenceConfig) -> None:
        seen.append(self)
        original(self)

    monkeypatch.setattr(PreferenceConfig, "__post_init__", noted)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "stage.json").write_text("{}")
    _, section = composed(**{field: "mine", "use_cpu": True})
    model = {"name": "none", "path": str(tmp_path / "nowhere")}
    with pytest.raises(ModelError):
        stage.train_arm(
            tmp_path, "arm", tmp_path / "data", model=model, objective={"name": "dpo"}, trainer=section, peft=None
        )
    assert getattr(seen[-1], field) == "mine"


@pytest.mark.parametrize(("field", "value"), [("loss_type", "ipo"), ("loss_weights", 0.5), ("tables", "pairs")])
def test_a_single_value_is_a_list_of_one(field: str, value: Any) -> None:
    args: Any = PreferenceConfig(**{field: value})
    assert getattr(args, field) == [value] and list(args.losses.values()) == [0.5 if field == "loss_weights" else 1.0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss_type": ["sigmod"]}, r"loss_type=sigmod must be one of .* \(did you mean sigmoid\?\)"),
        ({"loss_weights": [math.nan]}, "loss_weights=nan must be a finite number"),
        ({"loss_type": []}, r"loss_type=\[\] must not be empty"),
        ({"loss_weights": [0]}, r"loss_weights=\[0\] must contain a weight other than 0"),
        ({"loss_weights": [1, 2]}, "must contain one weight per loss"),
        ({"loss_type": ["sft", "sft"]}, "must not name a loss twice"),
        ({"optim": "adamw"}, "there is no such optimizer; did you mean adamw_torch or "),
        ({"load_best_model_at_end": True, "save_strategy": "no"}, "trainer.save_strategy=no must be 'steps'"),
        ({"hub_strategy": "every"}, r"\(did you mean every_save\?\)"),
        ({"hub_strategy": "checkpoint"}, "must be 'end', because only the result is uploaded"),
        ({"push_to_hub": True}, "needs trainer.hub_model_id=owner/name"),
        ({"ld_alpha": 2, "precompute_ref_log_probs": False}, "trainer.ld_alpha=2 must be from 0 to 1"),
        ({"ld_alpha": 0.5}, "trainer.ld_alpha needs trainer.precompute_ref_log_probs=false"),
        ({"f_divergence_type": "kl"}, "trainer.f_divergence_type=kl must be one of reverse_kl, "),
        ({"row_tokens": 0, "beta": 0.0}, "2 settings are wrong: .*beta=0.0 must be above 0; .*row_tokens=0 must be at"),
        ({"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}, "=32 must equal .*=4 x .*=4, or null"),
    ],
)
def test_python_and_the_command_line_have_the_same_rules(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        PreferenceConfig(**fields, use_cpu=True)
    faults, _ = composed(**fields)
    assert "; ".join(faults) == str(error.value).removeprefix(f"{len(faults)} settings are wrong: ")


def test_values_of_other_types_are_accepted(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"feature_cache_dir": tmp_path, "seed": np.int64(3), "tables": ("pairs",)}
    args = PreferenceConfig(**fields, optim=OptimizerNames.SGD, beta=np.float64(0.5), report_to=None, max_grad_norm=0)
    assert args.seed == 3 and args.max_grad_norm == 0
    plateau = {"lr_scheduler_type": "reduce_lr_on_plateau", "metric_for_best_model": "eval_loss"}
    assert PreferenceConfig(**plateau).metric_for_best_model == "eval_loss"  # type: ignore[arg-type]


def test_lora_is_a_section_of_its_own() -> None:
    [fault] = composed(peft={"r": 4})[0]
    assert fault == "trainer.peft: there is no such key; use the section peft (peft.r, peft.lora_alpha; peft=null " + (
        "trains all weights)"
    )


@pytest.mark.parametrize("name", sorted(REFUSED_FIELDS))
def test_every_other_field_is_refused_with_its_reason(name: str) -> None:
    faults, section = composed(**{name: value_of(name)})
    [fault] = faults
    reason = REFUSED_FIELDS[name] + ("; trainer.backend=trl supports this field" if name in TRL_OPTIONS else "")
    assert fault.startswith(f"trainer.{name}=") and fault.endswith(reason)
    section.pop("watch")
    with pytest.raises(ValueError, match=rf"trainer\.{name}=") as refused:
        PreferenceConfig(**section, use_cpu=True)
    assert str(refused.value).endswith(reason) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("field", "advice"),
    [("betta", "; did you mean beta?"), ("lora_r", "; use peft.r"), ("zzz", "")],
)
def test_a_field_that_does_not_exist_is_answered_with_the_nearest(field: str, advice: str) -> None:
    with pytest.raises(TypeError) as error:
        PreferenceConfig(**{field: 0.1})  # type: ignore[arg-type]
    assert str(error.value) == f"PreferenceConfig has no field {field}{advice}"
    assert "beta" in inspect.signature(PreferenceConfig).parameters  # editors and notebooks show the fields


def test_the_tables_of_fields_name_what_there_is() -> None:
    ours = {field.name for field in dataclasses.fields(PreferenceConfig)}
    assert set(REFUSED_FIELDS) <= set(FIELDS) and not set(RENAMED) & ours
    assert ours | {"watch"} >= OPERATION | DEVICE and CHOICE_OF_RESULT <= OPERATION
    assert set(ELSEWHERE) <= set(FIELDS) - set(REFUSED_FIELDS)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (32, 32, 1)),
        ({"global_batch_size": 6, "per_device_train_batch_size": 2}, (6, 2, 3)),
        ({"global_batch_size": 8, "gradient_accumulation_steps": 4}, (8, 2, 4)),
        ({"global_batch_size": None, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 5}, (10, 2, 5)),
        ({"global_batch_size": None}, (8, 8, 1)),
    ],
)
def test_batches_follow_from_the_configured_fields(given: dict[str, Any], expected: tuple[int, int, int]) -> None:
    args = PreferenceConfig(use_cpu=True, **given)
    assert (args.global_batch_size, args.per_device_train_batch_size, args.gradient_accumulation_steps) == expected


def test_several_processes_share_the_global_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    args = PreferenceConfig(use_cpu=True)
    args.global_batch_size, args.per_device_train_batch_size, args.gradient_accumulation_steps = 32, 4, None
    args._share_batch(world=4)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (4, 2)
    args.gradient_accumulation_steps = 3
    with pytest.raises(
        ValueError,
        match=r"=32 must equal launcher.num_processes=4 x .*=4 x trainer.gradient_accumulation_steps=3, or null",
    ):
        args._share_batch(world=4)


def test_warmup_steps_override_the_ratio() -> None:
    assert PreferenceConfig(use_cpu=True).warmup_steps == 0.03
    assert PreferenceConfig(use_cpu=True, warmup_steps=20).warmup_steps == 20
    assert PreferenceConfig(use_cpu=True, warmup_ratio=0.0).warmup_steps == 0


def test_a_loss_that_trl_lacks_is_refused_for_trls_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(losses.LOSSES, "squared", losses.LOSSES["ipo"])
    monkeypatch.setitem(hints(TrainerSettings), "loss_type", list[Literal["ipo", "squared"]])
    assert PreferenceConfig(loss_type=["squared"]).losses == {"squared": 1.0}
    with pytest.raises(
        ValueError, match=r"backend=trl does not support trainer\.loss_type=squared, which is not a loss of TRL"
    ):
        PreferenceConfig(loss_type=["squared"], backend="trl")


def test_options_of_losses_are_recorded_with_the_objective() -> None:
    """An option that is missing from LOSS_FIELDS would be lost in the second arm of a run."""
    options = {option for loss in losses.LOSSES.values() for option in loss.options}
    assert options - {"shift"} <= set(LOSS_FIELDS)  # the trainer computes the shift
