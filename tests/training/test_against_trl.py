"""Compares training with TRL's DPOTrainer step by step: same pairs, order, adapter, optimizer and definitions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scramble.models import load_vlm
from scramble.models.tiny import save_tiny
from scramble.records import ImageRecord, PreferencePair
from scramble.storage.image_table import ImageTable
from scramble.storage.jsonl import read_jsonl
from scramble.storage.tables import read_table, write_table
from scramble.training.fields import TRL_LOSSES
from tests.training.settings import fit

SLOW = pytest.mark.full
LEARNING_RATE, BATCH, BETA, SEED = 1e-3, 4, 1.0, 7
SMOOTHING = {"exo_pair": 1e-3, "robust": 0.1, "aot": 0.1, "aot_unpaired": 0.05}


def trl_losses(
    base: Path, data: Path, out: Path, losses: list[str], weights: list[float], steps: int, **options: Any
) -> list[float]:
    """Return the loss that TRL logs at each step."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    vlm = load_vlm(base)
    images = ImageTable(data)
    rows = []
    for pair in read_table(data, PreferencePair):
        turn = {"role": "user", "content": pair.prompt}
        rows.append(
            {
                "images": [images[i].open() for i in pair.image_ids],
                "prompt": [turn],
                "chosen": [{"role": "assistant", "content": pair.chosen}],
                "rejected": [{"role": "assistant", "content": pair.rejected}],
            }
        )
    args = DPOConfig(
        output_dir=str(out),
        loss_type=losses,
        loss_weights=weights,
        beta=BETA,
        label_smoothing=max(SMOOTHING.get(name, 0.0) for name in losses),
        max_length=None,
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        learning_rate=LEARNING_RATE,
        warmup_steps=0.1,
        weight_decay=0.0,
        max_grad_norm=1.0,
        logging_steps=1,
        seed=SEED,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **{"lr_scheduler_type": "cosine", **options},
    )
    lora = LoraConfig(r=8, lora_alpha=16, target_modules=vlm.family.lora_targets)
    trainer = DPOTrainer(
        vlm.model,
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=vlm.processor,
        peft_config=lora,
    )
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def our_losses(
    base: Path, data: Path, out: Path, losses: list[str], weights: list[float], steps: int, **options: Any
) -> list[float]:
    """Return the loss that this trainer logs at each step, with TRL's order and definitions."""
    fit(
        load_vlm(base),
        data,
        out,
        loss_type=losses,
        loss_weights=weights,
        beta=BETA,
        reward_shift="none",
        sft_mean="batch",
        label_smoothing=max(SMOOTHING.get(name, 0.0) for name in losses),
        group_by_image=False,
        peft={"r": 8, "lora_alpha": 16},
        max_steps=steps,
        global_batch_size=BATCH,
        learning_rate=LEARNING_RATE,
        warmup_ratio=0.1,
        logging_steps=1,
        seed=SEED,
        **{"lr_scheduler_type": "cosine", **options},
    )
    return [row["loss"] for row in read_jsonl(out / "metrics.jsonl")]


def largest_difference(a: list[float], b: list[float]) -> float:
    assert len(a) == len(b)
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("reference", ["cache", pytest.param("step", marks=SLOW)])
def test_sigmoid_gives_trls_losses_over_50_steps(base: Path, data: Path, tmp_path: Path, reference: str) -> None:
    ours = our_losses(
        base, data, tmp_path / "ours", ["sigmoid"], [1.0], 50, precompute_ref_log_probs=reference == "cache"
    )
    theirs = trl_losses(base, data, tmp_path / "trl", ["sigmoid"], [1.0], 50)
    assert min(ours) < 0.68  # the first loss is log 2, so the model was trained
    assert largest_difference(ours, theirs) < 1e-4


@pytest.mark.parametrize(
    "family",
    [
        "qwen2_5_vl",
        "gemma3",
        *(pytest.param(f, marks=SLOW) for f in ("llava_onevision", "smolvlm", "qwen3_vl", "gemma4")),
    ],
)
def test_other_families_give_trls_losses_over_30_steps(family: str, data: Path, tmp_path: Path) -> None:
    """The families have tiles in rows (LLaVA-OneVision), masked tiles (SmolVLM), positions on three axes (Qwen-VL) and
    sliding windows (Gemma 3)."""
    texts = [text for pair in read_table(data, PreferencePair) for text in (pair.prompt, pair.chosen, pair.rejected)]
    base = save_tiny(family, tmp_path / "model", texts, 0)
    ours = our_losses(base, data, tmp_path / "ours", ["sigmoid"], [1.0], 30)
    theirs = trl_losses(base, data, tmp_path / "trl", ["sigmoid"], [1.0], 30)
    assert min(ours) < 0.68  # the first loss is log 2, so the model was trained
    assert largest_difference(ours, theirs) < 1e-4


@pytest.mark.parametrize(
    ("family", "coefficient"),
    [
        ("qwen3_vl", 1.0),
        ("qwen3_5", None),
        *(pytest.param("qwen3_vl", value, marks=SLOW) for value in (None, 0.0)),
        *(pytest.param("qwen3_5", value, marks=SLOW) for value in (0.0, 1.0)),
    ],
)
def test_experts_are_balanced_as_in_trl(family: str, coefficient: float | None, data: Path, tmp_path: Path) -> None:
    """The losses are equal with the model's own coefficient, without the load-balancing loss, and with a large
    coefficient.
    """
    texts = [text for pair in read_table(data, PreferencePair) for text in (pair.prompt, pair.chosen, pair.rejected)]
    base = save_tiny(family, tmp_path / "model", texts, 0, experts=4)
    option = {"router_aux_loss_coef": coefficient}
    ours = our_losses(base, data, tmp_path / "ours", ["sigmoid"], [1.0], 5, **option)
    theirs = trl_losses(base, data, tmp_path / "trl", ["sigmoid"], [1.0], 5, **option)
    assert largest_difference(ours, theirs) < 1e-4
    # At the start the DPO loss is log 2, and the load-balancing loss of balanced experts is their number per token,
    # two.
    first = {None: 0.6931 + 2 * 0.001, 0.0: 0.6931, 1.0: 2.6931}[coefficient]
    assert abs(ours[0] - first) < max(1e-4, 0.5 * (coefficient or 0.001))


@pytest.mark.parametrize(
    "options",
    [
        {"ld_alpha": 0.3},
        pytest.param({"use_weighting": True}, marks=SLOW),
        pytest.param({"f_divergence_type": "forward_kl"}, marks=SLOW),
        pytest.param({"f_divergence_type": "js_divergence"}, marks=SLOW),
        pytest.param({"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.3}, marks=SLOW),
        pytest.param(
            {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.5}}, marks=SLOW
        ),
        pytest.param({"optim": "adafactor"}, marks=SLOW),
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_options_mean_what_they_mean_in_trl(base: Path, data: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    """DPO has TRL's losses with WPO's weights, LD-DPO, each f-divergence, and another schedule and optimizer."""
    pairs = list(read_table(data, PreferencePair))
    write_table(tmp_path / "data", ImageRecord, read_table(data, ImageRecord))
    write_table(tmp_path / "data", PreferencePair, (replace(p, rejected=f"{p.rejected} indeed indeed") for p in pairs))
    data = tmp_path / "data"  # LD-DPO has an effect only on pairs with answers of different lengths
    in_step = {"precompute_ref_log_probs": False} if "ld_alpha" in options else {}
    ours = our_losses(base, data, tmp_path / "ours", ["sigmoid"], [1.0], 10, **options, **in_step)
    theirs = trl_losses(base, data, tmp_path / "trl", ["sigmoid"], [1.0], 10, **options)
    plain = our_losses(base, data, tmp_path / "plain", ["sigmoid"], [1.0], 10)
    assert largest_difference(ours, theirs) < 1e-4
    assert largest_difference(ours, plain) > 1e-3, "the option has an effect"


@pytest.mark.parametrize(
    ("losses", "weights", "steps"),
    [
        # One loss of single pairs, one of a batch, and one with a mean over all batches; test_losses.py tests all.
        *(([name], [1.0], 10) for name in ("ipo", "aot")),
        (["sigmoid", "bco_pair", "sft"], [0.8, 0.2, 1.0], 10),
        *(pytest.param([name], [1.0], 50, marks=SLOW) for name in TRL_LOSSES if name != "sigmoid"),
        pytest.param(["sigmoid", "bco_pair", "sft"], [0.8, 0.2, 1.0], 50, marks=SLOW),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) and isinstance(value[0], str) else "",
)
def test_every_loss_gives_trls_losses(
    base: Path, data: Path, tmp_path: Path, losses: list[str], weights: list[float], steps: int
) -> None:
    ours = our_losses(base, data, tmp_path / "ours", losses, weights, steps)
    theirs = trl_losses(base, data, tmp_path / "trl", losses, weights, steps)
    assert largest_difference(ours, theirs) < 1e-4
