"""Tests the feature cache of a frozen tower: training is the same, and the tower runs once per image in total."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from scramble.models import VLM, load_vlm
from scramble.storage.cache_folder import CacheError
from scramble.storage.jsonl import read_jsonl
from tests.training.settings import fit

OPTIONS: dict[str, Any] = {
    "objective": "mpo",
    "peft": {"r": 8, "lora_alpha": 16},
    "max_steps": 12,
    "global_batch_size": 8,
    "learning_rate": 1e-3,
    "logging_steps": 1,
}


def counted(base: Path) -> tuple[VLM, list[int]]:
    """Return a model that records the number of images in each pass through its tower."""
    vlm = load_vlm(base)
    tower, images = vlm.model.model.vision_tower, []
    forward = tower.forward

    def count(pixel_values: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        images.append(len(pixel_values))
        return forward(pixel_values, *args, **kwargs)

    tower.forward = count
    return vlm, images


def losses(out: Path) -> torch.Tensor:
    return torch.tensor([row["loss"] for row in read_jsonl(out / "metrics.jsonl")])


def test_same_training_with_one_tower_pass_an_image(
    base: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In three epochs with 16 images, the first run encodes 16 images, and a second run of the sweep encodes none."""
    fit(load_vlm(base), data, tmp_path / "plain", **OPTIONS)
    vlm, images = counted(base)
    with caplog.at_level(logging.INFO, "scramble"):
        fit(vlm, data, tmp_path / "kept", feature_cache_dir=str(tmp_path / "features"), eval_data=data, **OPTIONS)
    assert sum(images) == 16
    # 16 images of at most 18 tokens (start, 16 features, end), 128 wide, 4 bytes each
    assert "the image features of 16 sets of images need at most 0.1 MB" in caplog.text
    size = sum(path.stat().st_size for path in (tmp_path / "features").rglob("features-*.bin"))
    assert size == 16 * 16 * 128 * 4
    vlm, images = counted(base)
    fit(vlm, data, tmp_path / "again", feature_cache_dir=str(tmp_path / "features"), **OPTIONS)
    assert not images
    remaining = [row["loss"] for row in read_jsonl(tmp_path / "kept" / "metrics.jsonl") if "loss" in row]
    torch.testing.assert_close(torch.tensor(remaining), losses(tmp_path / "plain"), atol=1e-5, rtol=0)
    torch.testing.assert_close(losses(tmp_path / "again"), torch.tensor(remaining), atol=0, rtol=0)


def test_a_cache_that_stopped_half_way_goes_on_and_a_changed_one_is_refused(
    base: Path, data: Path, tmp_path: Path
) -> None:
    options = OPTIONS | {"objective": "sft", "max_steps": 2, "feature_cache_dir": str(tmp_path / "features")}
    fit(load_vlm(base), data, tmp_path / "whole", **options)
    [folder] = (tmp_path / "features").iterdir()
    index, numbers = folder / "index-0.jsonl", folder / "features-0.bin"
    lines = index.read_text().splitlines(keepends=True)
    index.write_text("".join(lines[:10]) + lines[10][:30])  # killed while writing the eleventh row
    (folder / "complete.json").unlink()
    vlm, images = counted(base)
    fit(vlm, data, tmp_path / "resumed", **options)
    assert sum(images) == 6
    torch.testing.assert_close(losses(tmp_path / "resumed"), losses(tmp_path / "whole"), atol=1e-6, rtol=0)
    numbers.write_bytes(numbers.read_bytes()[:-4])
    with pytest.raises(CacheError, match=r"features-0.bin has changed or is missing\): remove the folder"):
        fit(load_vlm(base), data, tmp_path / "again", **options)


def test_a_trained_tower_has_none(base: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs a frozen vision tower"):
        fit(load_vlm(base), data, tmp_path, objective="sft", train_vision=True, feature_cache_dir=str(tmp_path))
