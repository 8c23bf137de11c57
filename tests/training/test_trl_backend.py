"""Tests TRL's trainers as the other backend: the same numbers as with tries, the same run folder, and refused
settings.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from scramble.models import load_vlm
from scramble.models.rows import PromptRow, iter_row_scores
from scramble.models.tiny import save_tiny
from scramble.pixels import png_bytes
from scramble.records import ImageFile, ImageRecord, PreferencePair
from scramble.storage.files import StoreError
from scramble.storage.image_table import ImageTable
from scramble.storage.jsonl import read_jsonl
from scramble.storage.tables import read_table, write_table
from scramble.training.callbacks import ScoreBenchmarks
from scramble.training.data import Example
from scramble.training.encoder import Encoder
from scramble.training.run import select_backend
from scramble.training.trl_backend import IGNORED, RowCollator, described, example_table
from tests.models.without_trie import MAKERS
from tests.training.conftest import PROMPT, drawing, make_pairs
from tests.training.settings import config, fit

ROOT = Path(__file__).parents[2]
LORA: dict[str, Any] = {"r": 4, "lora_alpha": 8}
STEPS = 8
OPTIONS: dict[str, Any] = {
    "max_steps": STEPS,
    "global_batch_size": 4,
    "learning_rate": 1e-3,
    "beta": 1.0,
    "sft_mean": "batch",
    "logging_steps": 1,
    "peft": LORA,
}


def tiny_model(family: str, folder: Path) -> Path:
    texts = [PROMPT, *(text for pair in make_pairs(16, 4) for text in (pair.chosen, pair.rejected))]
    return save_tiny(family, folder, texts)


@pytest.fixture(scope="session")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny random LLaVA, whose prompt differs from its processor's chat template."""
    return tiny_model("llava", tmp_path_factory.mktemp("llava") / "model")


@pytest.fixture(scope="session")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set of 8 images with 1 pair each. The ids are also ids of training images, but the images
    differ.
    """
    folder = tmp_path_factory.mktemp("held_out")
    pairs = make_pairs(8, 1)
    write_table(folder, ImageRecord, (ImageRecord(f"i{n}", drawing(n + 5), (p.chosen,)) for n, p in enumerate(pairs)))
    write_table(folder, PreferencePair, pairs)
    return folder


def column(out: Path, name: str) -> list[float]:
    """Return the values of a metric in the order of the rows."""
    return [row[name] for row in read_jsonl(out / "metrics.jsonl") if name in row]


def assert_same_run(trl: Path, trie: Path, names: list[str], tolerance: float = 1e-4) -> None:
    """Assert that both runs logged the same values in the same steps and trained the same adapter."""
    for name in names:
        pair = column(trl, name), column(trie, name)
        assert pair[0] == pytest.approx(pair[1], abs=tolerance), name
        assert pair[0], name
    ours, theirs = (load_file(out / "adapter" / "adapter_model.safetensors") for out in (trie, trl))
    assert ours.keys() == theirs.keys()
    # Adam divides by the size of the gradient, which enlarges rounding differences in tiny gradients.
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 1e-3


# ---------------------------------------------------------------------------------------------------- the same numbers


@pytest.mark.parametrize("family", ["llava", "internvl", "smolvlm", "molmo", "llava_next", "qwen3_vl", "gemma3"])
def test_dpo_gives_the_losses_of_the_trie(family: str, data: Path, held_out: Path, tmp_path: Path) -> None:
    """There are two micro-batches per step, pairs grouped by image, and held-out pairs with other images of the same
    ids.
    """
    model = tiny_model(family, tmp_path / "model")
    options = OPTIONS | {"per_device_train_batch_size": 2, "eval_steps": 4}
    for backend in ("trie", "trl"):
        summary = fit(
            load_vlm(model), data, tmp_path / backend, eval_data=held_out, backend=backend, objective="dpo", **options
        )
        assert summary["backend"] == backend and summary["steps"] == STEPS
    names = ["loss", "eval_loss", "rewards/margins", "eval_rewards/margins", "logps/chosen", "learning_rate", "epoch"]
    assert_same_run(tmp_path / "trl", tmp_path / "trie", names, 3e-4 if family == "molmo" else 1e-4)
    losses = column(tmp_path / "trl", "loss")
    assert max(losses) - min(losses) > 1e-3, "the model is trained"


@pytest.mark.parametrize("tables", [["pairs"], ["captions"]])
def test_sft_gives_the_losses_of_the_trie(
    llava: Path, data: Path, held_out: Path, tmp_path: Path, tables: list[str]
) -> None:
    """TRL averages over the tokens of a step, the trie over those of a micro-batch: here a step is one micro-batch."""
    for backend in ("trie", "trl"):
        fit(
            load_vlm(llava),
            data,
            tmp_path / backend,
            eval_data=held_out,
            objective="sft",
            backend=backend,
            tables=tables,
            **OPTIONS,
        )
    assert_same_run(tmp_path / "trl", tmp_path / "trie", ["loss", "eval_loss", "learning_rate", "epoch"])


def test_an_existing_adapter_is_its_own_reference(llava: Path, data: Path, tmp_path: Path) -> None:
    fit(load_vlm(llava), data, tmp_path / "first", objective="dpo", **OPTIONS | {"learning_rate": 1e-2})
    for backend in ("trie", "trl"):
        vlm = load_vlm(llava, adapter=tmp_path / "first" / "adapter")
        fit(vlm, data, tmp_path / backend, objective="dpo", backend=backend, **OPTIONS | {"peft": None})
    assert_same_run(tmp_path / "trl", tmp_path / "trie", ["loss", "rewards/margins"])
    assert column(tmp_path / "trl", "loss")[0] == pytest.approx(0.6931, abs=1e-4)
    assert not (tmp_path / "trl" / "adapter" / "ref").exists()


@pytest.mark.parametrize("precomputed", [True, False])
def test_all_weights_against_the_starting_model(llava: Path, data: Path, tmp_path: Path, precomputed: bool) -> None:
    """TRL computes the reference before the first step, or loads the model a second time."""
    options = OPTIONS | {"peft": None, "learning_rate": 1e-4, "max_steps": 4}
    fit(load_vlm(llava), data, tmp_path / "trie", objective="dpo", backend="trie", **options)
    fit(
        load_vlm(llava),
        data,
        tmp_path / "trl",
        objective="dpo",
        backend="trl",
        precompute_ref_log_probs=precomputed,
        **options,
    )
    assert column(tmp_path / "trl", "loss") == pytest.approx(column(tmp_path / "trie", "loss"), abs=1e-4)
    saved = [load_file(tmp_path / backend / "model" / "model.safetensors") for backend in ("trie", "trl")]
    assert all(torch.allclose(saved[0][name], saved[1][name], atol=1e-3) for name in saved[0])


def test_a_batch_has_the_tokens_and_pixels_of_the_trie(llava: Path) -> None:
    """A transparent and a 16-bit image reach the tower as the project decodes them; each answer has a copy."""
    vlm = load_vlm(llava)
    clear = Image.new("RGBA", (40, 30), (255, 0, 0, 100))
    deep = Image.fromarray(torch.arange(1200).reshape(30, 40).mul(50).to(torch.uint16).numpy())
    images = {"a": ImageFile(bytes=png_bytes(clear)), "b": ImageFile(bytes=png_bytes(deep))}
    encoder = Encoder(vlm, images)
    pairs = [
        Example("1", ("a",), PROMPT, "a red square left of a blue square", "red then blue"),
        Example("2", ("b",), PROMPT, "red then blue", "blue then red"),
    ]
    rows = [dict(row) for row in example_table(pairs, "train")]
    batch = RowCollator({"train": encoder}, described(vlm), with_rejected=True)(rows)
    answers = [pairs[0].chosen, pairs[1].chosen, pairs[0].rejected, pairs[1].rejected]
    for number, answer in enumerate(answers):
        prompt = encoder.prompt(pairs[number % 2])
        completion = encoder.completion(answer or "")
        length = len(prompt.input_ids) + len(completion)
        assert batch["input_ids"][number, :length].tolist() == prompt.input_ids + completion
        assert batch["attention_mask"][number].sum() == length
        assert batch["completion_mask"][number].nonzero()[:, 0].tolist() == list(range(len(prompt.input_ids), length))
        assert prompt.images is not None
        assert torch.equal(batch["pixel_values"][number], prompt.images["pixel_values"][0])
    labels = RowCollator({"train": encoder}, described(vlm), with_rejected=False)(rows)["labels"]
    assert (labels[0] != IGNORED).sum() == len(encoder.completion(pairs[0].chosen))


@pytest.mark.parametrize("family", list(MAKERS))
def test_models_without_a_trie(family: str, data: Path, tmp_path: Path) -> None:
    """``auto`` trains them with TRL. The log-probabilities before the first step are those of evaluation's rows."""
    texts = [PROMPT, *(text for pair in make_pairs(16, 4) for text in (pair.chosen, pair.rejected))]
    model = MAKERS[family](tmp_path / "model", texts)
    options = OPTIONS | {"max_steps": 40, "learning_rate": 1e-2, "eval_steps": 40}
    summary = fit(load_vlm(model), data, tmp_path / "out", eval_data=data, objective="dpo", **options)
    assert summary["backend"] == "trl" and summary["steps"] == 40
    losses = column(tmp_path / "out", "eval_loss")
    assert losses[0] == pytest.approx(0.6931, abs=1e-4) and losses[-1] < losses[0] - 1e-4
    vlm, images = load_vlm(model), ImageTable(data)
    encoder, pairs = Encoder(vlm, images), list(read_table(data, PreferencePair))
    rows = []
    for pair in pairs:
        prompt = encoder.prompt(Example(pair.pair_id, pair.image_ids, pair.prompt, pair.chosen))
        completion = encoder.completion(pair.chosen)
        rows.append([PromptRow(prompt, completion, [True] * len(completion))])
    sums = [score.sum for scores in iter_row_scores(vlm, rows) for score in scores]
    assert column(tmp_path / "out", "eval_logps/chosen")[0] == pytest.approx(sum(sums) / len(sums), abs=1e-3)


# ---------------------------------------------------------------------------------------------------------- run folder


@pytest.mark.parametrize("objective", ["dpo", pytest.param("sft", marks=pytest.mark.full)])
def test_a_killed_run_resumes_to_the_same_adapter(llava: Path, data: Path, tmp_path: Path, objective: str) -> None:
    """A run with LoRA dropout, whose masks depend on the random state, is killed at step 6; its last checkpoint is at
    step 4."""
    options = OPTIONS | {
        "model": str(llava),
        "data": str(data),
        "objective": objective,
        "backend": "trl",
        "save_steps": 4,
        "logging_steps": 4,
        "peft": {**LORA, "lora_dropout": 0.1},
    }

    def run(out: Path, *, code: int = 0, **more: Any) -> None:
        command = [sys.executable, "-m", "tests.training.run_training", json.dumps(options | {"out": str(out)} | more)]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == code, result.stderr[-2000:]

    run(tmp_path / "whole")
    run(tmp_path / "killed", kill_at=6, code=-9)
    assert not (tmp_path / "killed" / "adapter").exists()
    run(tmp_path / "killed")
    files = [tmp_path / name / "adapter" / "adapter_model.safetensors" for name in ("whole", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()
    whole, killed = (list(read_jsonl(tmp_path / name / "metrics.jsonl")) for name in ("whole", "killed"))
    assert [row for row in killed if "loss" in row] == [row for row in whole if "loss" in row]


def test_a_checkpoint_belongs_to_one_backend(llava: Path, data: Path, tmp_path: Path) -> None:
    options = OPTIONS | {"max_steps": 2}
    fit(load_vlm(llava), data, tmp_path, objective="dpo", **options)
    fit(load_vlm(llava), data, tmp_path, objective="dpo", backend="trie", **options)  # auto selected this backend
    with pytest.raises(StoreError, match=r"backend \(trie -> trl\)"):
        fit(load_vlm(llava), data, tmp_path, objective="dpo", backend="trl", **options)


def test_benchmarks_are_scored_while_training(llava: Path, data: Path, tmp_path: Path) -> None:
    """The callback receives the model with its adapter, and its scores are in the rows of the evaluations."""
    seen = []

    def score(vlm: Any) -> dict[str, float]:
        seen.append(vlm.has_adapter)
        return {"eval_here": float(len(seen))}

    fit(
        load_vlm(llava),
        data,
        tmp_path,
        objective="dpo",
        backend="trl",
        callbacks=[ScoreBenchmarks(score)],
        **OPTIONS | {"max_steps": 4, "eval_steps": 2},
    )
    assert seen == [True] * 3 and column(tmp_path, "eval_here") == [1.0, 2.0, 3.0]


def test_options_that_only_trl_has(llava: Path, data: Path, tmp_path: Path) -> None:
    """The reference follows the policy: with a mixture of 1 at every step, it is the policy of the previous step."""
    options = OPTIONS | {
        "peft": None,
        "precompute_ref_log_probs": False,
        "sync_ref_model": True,
        "ref_model_mixup_alpha": 1.0,
        "ref_model_sync_steps": 1,
        "pad_to_multiple_of": 16,
        "max_steps": 4,
    }
    fit(load_vlm(llava), data, tmp_path, objective="dpo", backend="trl", **options)
    # The policy equals the reference in every step, so that every loss is log 2.
    assert column(tmp_path, "loss") == pytest.approx([0.6931] * 4, abs=1e-4)


# ------------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"backend": "trl", "feature_cache_dir": "x"}, r"set trainer\.feature_cache_dir=null$"),
        (
            {"backend": "trl", "objective": "mpo", "feature_cache_dir": "x", "row_tokens": 64},
            r"set trainer\.feature_cache_dir=null trainer\.row_tokens=null trainer\.reward_shift=none "
            r"trainer\.sft_mean=batch$",
        ),
        ({"backend": "other"}, "trainer.backend=other must be one of auto, trie, trl"),
        ({"pad_to_multiple_of": 8}, r"pad_to_multiple_of=8: a trie .*; trainer\.backend=trl supports this field$"),
        ({"backend": "trl", "padding_free": True}, r"padding_free=true"),
    ],
)
def test_settings_that_a_backend_lacks(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**fields)


def test_a_family_without_trie(llava: Path, caplog: pytest.LogCaptureFixture) -> None:
    """``auto`` selects TRL and logs this, ``trie`` is refused, and settings that TRL does not have are refused with
    TRL."""
    family = load_vlm(llava).family
    family.has_trie = False
    caplog.set_level("INFO")
    assert select_backend(config(), family) == "trl"
    assert "trainer.backend=auto: training uses TRL's DPOTrainer" in caplog.text
    with pytest.raises(ValueError, match=r"llava does not support token tries; use trainer\.backend"):
        select_backend(config(backend="trie"), family)
    with pytest.raises(
        ValueError, match=r"does not support the values of some settings: set trainer\.reward_shift=none"
    ):
        select_backend(config("mpo"), family)
