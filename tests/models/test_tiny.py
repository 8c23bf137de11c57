"""Tests tiny models: options are used, unknown options are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from scramble.models import ModelError, load_vlm
from scramble.models.tiny import save_tiny


def test_sizes(tmp_path: Path) -> None:
    folder = save_tiny("internvl", tmp_path, ["a circle"], 0, layers=2, width=64, image_size=96)
    config = load_vlm(folder).model.config
    assert (config.text_config.num_hidden_layers, config.text_config.hidden_size) == (2, 64)
    assert config.image_seq_length == 64


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no option depth: choose from image_size, patch_size"):
        save_tiny("internvl", tmp_path, ["a circle"], depth=2)
    with pytest.raises(ModelError, match=r"choose one of aya_vision, .*, internvl, llava"):
        save_tiny("qwen_vl", tmp_path, ["a circle"])


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ModelError, match="is not empty"):
        save_tiny("internvl", tmp_path, ["a circle"])
    assert [file.name for file in tmp_path.iterdir()] == ["note.txt"]
