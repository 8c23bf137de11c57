"""Tests warnings, the operation count for the MFU, the best weights, and signals."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainingArguments
from transformers.trainer_callback import TrainerControl, TrainerState

from scramble import interrupt
from scramble.models import load_vlm
from scramble.storage.jsonl import read_jsonl
from scramble.training.callbacks import DataFacts, ProgressLines, Warnings
from scramble.training.collator import TrieCollator
from scramble.training.data import load_examples
from scramble.training.encoder import Encoder
from scramble.training.flops import OperationMeter, decoder_products, operations, tower_products, visible_pairs
from scramble.training.monitoring import memory_use, peak_flops
from scramble.training.policy import Policy
from scramble.training.trainable import add_lora, set_trained
from scramble.trie import TokenRules, TrieItem, pack
from tests.training.settings import fit

LORA: dict[str, Any] = {"r": 8, "lora_alpha": 16}


def feed(callback: Any, rows: list[dict[str, float]], start: int = 0) -> None:
    """Pass rows of the log to the callback, at steps start + 1, start + 2, ..."""
    state, args = TrainerState(is_world_process_zero=True), TrainingArguments(output_dir="unused", use_cpu=True)
    state.global_step = start
    callback.on_train_begin(args, state, TrainerControl())
    for row in rows:
        state.global_step += 1
        callback.on_log(args, state, TrainerControl(), logs=row)


def row(chosen: float, margin: float, right: float = 1.0) -> dict[str, float]:
    return {"loss": 0.1, "rewards/chosen": chosen, "rewards/margins": margin, "rewards/accuracies": right}


def test_falling_chosen_answers_and_saturated_margins_are_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "warnings.jsonl"
    feed(Warnings(path, beta=0.1), [row(0.05, 0.2)] * 6)
    assert not path.exists()
    # rewards of -0.3 at beta 0.1 are 3 nats; a single low row is noise, five low rows are a decrease
    feed(Warnings(path, beta=0.1), [row(-0.3, 0.5), *[row(0.0, 0.5)] * 4, *[row(-0.3, 0.5)] * 9])
    (fall,) = read_jsonl(path)
    assert fall["warning"] == "likelihood displacement" and fall["step"] == 7  # 2 of 5 rows: 1.2 nats
    assert fall["chosen_log_ratio"] == pytest.approx(-1.2)
    feed(Warnings(path, beta=0.1), [row(0.1, 6.0, 1.0)] * 7, start=7)  # resumed after the first warning
    assert [(r["warning"], r["step"]) for r in read_jsonl(path)] == [
        ("likelihood displacement", 7),
        ("saturated margins", 12),
    ]
    feed(Warnings(path, beta=0.1), [], start=8)  # resumed from before the second
    assert len(list(read_jsonl(path))) == 1
    assert capsys.readouterr().out.count("warning, step") == 2


def test_the_best_checkpoint_is_kept_and_becomes_the_result(base: Path, data: Path, tmp_path: Path) -> None:
    """With a very high learning rate the first evaluation after step 0 is the best; its weights are the result."""
    options: dict[str, Any] = {"peft": LORA, "global_batch_size": 4, "learning_rate": 0.03}
    options |= {"save_steps": 2, "eval_steps": 2, "save_total_limit": 1, "warmup_ratio": 0.0, "eval_data": data}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "logps/chosen"}
    made = fit(load_vlm(base), data, tmp_path / "best", max_steps=8, **{**options, **best})
    actual = {
        row["step"]: row["eval_logps/chosen"]
        for row in read_jsonl(tmp_path / "best" / "metrics.jsonl")
        if "eval_loss" in row
    }
    step = max((step for step in actual if step), key=lambda step: actual[step])
    assert step < 8
    folder = tmp_path / "best" / "checkpoints"
    assert {path.name for path in folder.glob("step-*")} == {f"step-{step:08d}", "step-00000008"}
    result = (Path(made["adapter"]) / "adapter_model.safetensors").read_bytes()
    assert result == (folder / f"step-{step:08d}" / "weights" / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize("kind", ["adapter", "decoder", "all"])
def test_the_operations_are_those_that_torch_counts(base: Path, data: Path, kind: str) -> None:
    """The number of operations in linear layers and convolutions equals that of torch's counter on real forward and
    backward passes. Attention is excluded, because torch counts all pairs of a row, including masked ones."""
    vlm = load_vlm(base)
    if kind == "adapter":
        vlm = replace(vlm, model=add_lora(vlm, LORA))
    else:
        set_trained(vlm, vision=kind == "all")
    examples, images = load_examples(data, ("pairs",), "")
    batch = TrieCollator(Encoder(vlm, images), with_rejected=True)(list(examples)[:4])
    tries, backbone = batch.tries, vlm.backbone
    policy = Policy(vlm, backbone)
    policy.train()
    sizes = {"tokens": tries.num_tokens, "predicting": len(tries.rows_R), "visible": visible_pairs(tries)}
    parts = {**tower_products(backbone, tries.images), **decoder_products(backbone, **sizes)}
    assert tries.input_ids_BL.numel() == tries.num_tokens  # without padding, which torch would count
    with FlopCounterMode(display=False) as counter:
        policy(tries).sums_Q.sum().backward()
    counts = counter.get_flop_counts()["Global"]
    measured = sum(n for op, n in counts.items() if "attention" not in str(op) and "bmm" not in str(op))
    assert operations((linear, Counter()) for linear, _ in parts.values()) == measured
    meter = OperationMeter(backbone, in_step_reference=False)(tries)
    assert meter == pytest.approx(operations(parts.values()), rel=1e-3)
    with_reference = OperationMeter(backbone, in_step_reference=True)(tries)
    again = operations([parts["decoder forward"], parts["head forward"]])
    assert with_reference - meter == pytest.approx(again, rel=1e-3)


def test_visible_pairs_by_hand() -> None:
    """A prompt of 2 tokens and two answers of 2 tokens, whose last tokens are not inputs: 1 + 2 + 3 + 3 pairs; with a
    bidirectional prompt one more; and the same in a row with padding."""
    sequences, scored = [[1, 2, 3, 6], [1, 2, 4, 5]], [[False, False, True, True]] * 2
    item, longer = TrieItem(sequences, scored), TrieItem([[1] * 9], [[False] * 8 + [True]])
    assert visible_pairs(pack([item])) == 9
    assert visible_pairs(pack([item], TokenRules(block=frozenset({1, 2})))) == 10
    assert visible_pairs(pack([item, longer], row_tokens=8)) == 9 + 36


def test_peaks_and_memory() -> None:
    cpu = torch.device("cpu")
    assert peak_flops(cpu) is None and peak_flops(cpu, 0.5) == 5e11
    assert 0.01 < memory_use(cpu)["memory/resident_gib"] < 100


def test_a_signal_outside_training_ends_the_job_and_inside_it_waits(capfd: pytest.CaptureFixture[str]) -> None:
    handlers = {number: signal.getsignal(number) for number in interrupt.SIGNALS}
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        interrupt.listen()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # as in a background job of a shell
        signal.signal(signal.SIGINT, signal.default_int_handler)
        interrupt.listen()
        with interrupt.deferred():
            os.kill(os.getpid(), signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGTERM)  # a second one changes nothing
            assert interrupt.stop_signal() == "SIGUSR1"
        with interrupt.deferred():
            assert interrupt.stop_signal() is None
        with interrupt.resumable(lambda: "half is kept"), pytest.raises(interrupt.Stopped) as stopped:
            os.kill(os.getpid(), signal.SIGTERM)
        assert str(stopped.value) == "stopped by SIGTERM; half is kept"
        with interrupt.deferred(lambda: "7 steps are lost"):
            os.kill(os.getpid(), signal.SIGINT)
            assert interrupt.stop_signal() == "Ctrl-C"
            assert "A second Ctrl-C stops it immediately: 7 steps are lost" in capfd.readouterr().err
            with pytest.raises(interrupt.Stopped, match="immediately by a second Ctrl-C: 7 steps are lost") as stopped:
                os.kill(os.getpid(), signal.SIGINT)
        assert stopped.value.status == interrupt.EXIT_AT_ONCE
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_off_a_terminal_progress_is_at_most_some_twenty_lines(
    base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(
        load_vlm(base),
        data,
        tmp_path / "dpo",
        objective="dpo",
        peft=LORA,
        max_steps=60,
        global_batch_size=2,
        logging_steps=1,
    )
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("dpo: step ")]
    assert lines[0].startswith("dpo: step 1 of 60, loss 0.693, margin") and " left" not in lines[0]
    assert " left" in lines[len(lines) // 2] and " left" not in lines[-1]
    assert lines[-1].startswith("dpo: step 60 of 60, loss ") and len(lines) == ProgressLines.LINES + 1


def test_the_time_left_is_that_of_recent_steps_without_the_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A first step of 100 s, then steps of 2 s: after 6 of 406 steps 5 are measured, and 400 x 2 s remain."""
    clock = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    monkeypatch.setattr(ProgressLines, "LINES", 406)
    lines_of = ProgressLines("dpo")
    state, args = TrainerState(is_world_process_zero=True, max_steps=406), TrainingArguments("unused", use_cpu=True)
    lines_of.on_train_begin(args, state, TrainerControl())
    for seconds in (100, 2, 2, 2, 2, 2):
        clock += seconds
        state.global_step += 1
        lines_of.on_step_end(args, state, TrainerControl())
        lines_of.on_log(args, state, TrainerControl(), logs={"loss": 0.5})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "dpo: step 1 of 406, loss 0.500, 100 s" and not any("left" in line for line in lines[:5])
    assert lines[5] == "dpo: step 6 of 406, loss 0.500, 110 s, about 800 s left"


def test_a_run_of_few_steps_says_how_to_lengthen_it(
    base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few: dict[str, Any] = {"objective": "sft", "peft": LORA, "global_batch_size": 16}
    summary = fit(load_vlm(base), data, tmp_path / "short", **few)
    steps = -(-summary["examples"] // 16)
    assert summary["steps"] == steps < 20
    expected = f"only {steps} steps for {summary['examples']} examples (the first step has learning rate 0"
    assert expected in capsys.readouterr().err
    fit(load_vlm(base), data, tmp_path / "chosen", max_steps=2, **few)
    assert "only 2 steps" not in capsys.readouterr().err


def test_a_run_logs_speed_memory_and_what_is_known_of_its_data(base: Path, data: Path, tmp_path: Path) -> None:
    fit(
        load_vlm(base),
        data,
        tmp_path,
        objective="dpo",
        peft=LORA,
        max_steps=3,
        global_batch_size=4,
        logging_steps=1,
        peak_tflops=1.0,
        callbacks=[DataFacts({"data/text_only_accuracy/length": 51.0})],
    )
    rows = list(read_jsonl(tmp_path / "metrics.jsonl"))
    assert rows[0] == {"step": 0, "data/text_only_accuracy/length": 51.0, "epoch": 0.0}
    assert len(rows) == 4
    for actual in rows[1:]:
        assert 0 < actual["mfu"] < 1 and actual["memory/resident_gib"] > 0
        assert actual["pairs_per_second_per_device"] == actual["pairs_per_second"] > 0
