"""Provides a tiny InternVL, and a few drawn images with several captions each, for the tests of the trainer."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from scramble.records import ImageFile, ImageRecord, PreferencePair
from scramble.storage.tables import write_table

COLOURS = ("red", "blue", "green", "yellow")
PROMPT = "Describe the image."


def drawing(number: int) -> ImageFile:
    """Return a 48 px image of two squares, as PNG bytes."""
    first, second = COLOURS[number % 4], COLOURS[(number // 4 + number + 1) % 4]
    image = Image.new("RGB", (48, 48), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((4 + number % 5, 8, 18, 30), fill=first)
    draw.rectangle((28, 12, 42 - number % 7, 40), fill=second)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return ImageFile(bytes=buffer.getvalue())


def make_pairs(num_images: int, per_image: int) -> list[PreferencePair]:
    """Return pairs in whose rejected caption the colours are swapped. Captions of an image differ in wording and
    length.
    """
    forms = ("a {} square left of a {} square", "there is a {} square and to its right a {} one", "{} then {}")
    pairs = []
    for number in range(num_images):
        first, second = COLOURS[number % 4], COLOURS[(number // 4 + number + 1) % 4]
        for index in range(per_image):
            form = forms[index % len(forms)] + " indeed" * (index // len(forms))
            if first == second:
                second = "black"
            pairs.append(
                PreferencePair(
                    f"p{number}-{index}",
                    (f"i{number}",),
                    PROMPT,
                    form.format(first, second),
                    form.format(second, first),
                    "swap-attribute",
                )
            )
    return pairs


def write_data(folder: Path, num_images: int, per_image: int) -> Path:
    """Write a data set folder of ``num_images`` drawings with ``per_image`` pairs each."""
    pairs = make_pairs(num_images, per_image)
    captions = {f"i{n}": tuple(p.chosen for p in pairs if p.image_ids == (f"i{n}",)) for n in range(num_images)}
    write_table(folder, ImageRecord, (ImageRecord(i, drawing(n), captions[i]) for n, i in enumerate(captions)))
    write_table(folder, PreferencePair, pairs)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny random InternVL whose tokenizer was trained on the captions."""
    from scramble.models.tiny import save_tiny_internvl

    texts = [PROMPT, *(text for pair in make_pairs(16, 4) for text in (pair.chosen, pair.rejected))]
    return save_tiny_internvl(tmp_path_factory.mktemp("tiny"), texts, seed=0)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a data set of 16 images with 2 pairs each."""
    return write_data(tmp_path_factory.mktemp("data"), 16, 2)


@pytest.fixture(scope="session")
def base(tiny: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the tiny model after a few seconds of training on captions."""
    from scramble.models import load_vlm
    from tests.training.settings import fit

    summary = fit(
        load_vlm(tiny),
        data,
        tmp_path_factory.mktemp("base"),
        objective="sft",
        train_vision=True,
        max_steps=60,
        global_batch_size=8,
        learning_rate=3e-3,
    )
    return Path(summary["model"])


@pytest.fixture(scope="session", autouse=True)
def datasets_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Write memory-mapped tables to a folder that pytest removes, in this process and its child processes."""
    import datasets

    folder = tmp_path_factory.mktemp("datasets")
    os.environ["HF_DATASETS_CACHE"] = str(folder)
    datasets.config.HF_DATASETS_CACHE = folder
