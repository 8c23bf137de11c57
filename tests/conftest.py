"""Defines the fixtures that all tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scramble.console import log_to_terminal
from tests.loopback import Loopback

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session", autouse=True)
def messages() -> None:
    """Print the messages that the library logs, as in a script."""
    log_to_terminal()


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder with larger reference data (golden vectors, captions, a spaCy pipeline). Without the folder,
    the test is skipped.
    """
    folder = Path(os.environ.get("SCRAMBLE_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"needs the reference data folder, absent at {folder} (set SCRAMBLE_SHARED)")
    return folder


@pytest.fixture(scope="session")
def images() -> list[Image.Image]:
    """Return five pictures of noise with different sizes."""
    generator = np.random.default_rng(0)
    sizes = [(48, 48), (60, 40), (48, 96), (100, 70), (30, 30)]
    return [Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


@pytest.fixture
def server() -> Iterator[Loopback]:
    """Start a scripted chat-completion server on the loopback address. A test may set the server's ``answer``."""
    loopback = Loopback()
    yield loopback
    loopback.close()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip slow tests unless they are requested (``-m full``), and CUDA tests without a GPU."""
    wants_full = "full" in (config.option.markexpr or "")
    for item in items:
        if "full" in item.keywords and not wants_full:
            item.add_marker(pytest.mark.skip(reason="slow: run by make test-full"))
        if "cuda" in item.keywords:
            import torch

            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))
