"""Provides a small embedded world, and a tiny random model whose tokenizer has the world's words."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the test split of a generated world with 30 scenes with questions and, per kind and part, four 2x2
    items.
    """
    from scramble.world.build import build_world

    folder = tmp_path_factory.mktemp("world")
    build_world(folder, n_train=4, n_val=4, n_test=30, quads_val=1, quads_test=4, seed=3)
    return folder / "test"


@pytest.fixture(scope="session")
def model_folder(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny random InternVL whose tokenizer has the world's words."""
    from scramble.models.tiny import save_tiny_internvl
    from scramble.records import ImageRecord
    from scramble.storage.tables import read_table

    texts = [caption for record in read_table(world, ImageRecord) for caption in record.captions]
    folder = tmp_path_factory.mktemp("model")
    save_tiny_internvl(folder, [*texts, "Does the image show? Please answer yes or no. Yes No"], 0)
    return folder


@pytest.fixture(scope="session")
def vlm(model_folder: Path):
    from scramble.models import load_vlm

    return load_vlm(str(model_folder), dtype="float32")
