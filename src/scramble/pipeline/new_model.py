"""Makes a new model for a run, with random weights, a tokenizer that is built from the data's texts and, optionally, a
pretrained vision tower and projector.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scramble.pipeline import is_main_process
from scramble.records import ImageRecord, PreferencePair, Question
from scramble.storage.files import atomic_folder
from scramble.storage.locks import locked, wait_for
from scramble.storage.tables import read_table

log = logging.getLogger(__name__)


def make_model(path: str | Path, data: Path, family: str, new: Mapping[str, Any], seed: int) -> None:
    """Write a new model of a family to ``path``, with a tokenizer built from the data's texts.

    ``new`` contains the sizes for :func:`scramble.models.tiny.save_tiny` and, under ``vision``, the options for
    training the tower and the projector on the embedded world (:func:`scramble.world.tower.teach_vision`). All other
    weights are random.
    """
    if not is_main_process():
        wait_for(path, Path(path).exists)  # the main process renames the finished folder into place
        return
    with locked(Path(path).parent):  # the arms of a sweep share the model
        if not Path(path).exists():
            _make_model(Path(path), data, family, dict(new), seed)


def _make_model(path: Path, data: Path, family: str, sizes: dict[str, Any], seed: int) -> None:
    from scramble.models.tiny import save_tiny

    texts = [text for split in ("train", "val") if (data / split).is_dir() for text in _texts(data / split)]
    lessons = sizes.pop("vision", None)
    if lessons is None:
        save_tiny(family, path, texts, seed, **sizes)
        return
    with atomic_folder(path) as folder:
        _teach(save_tiny(family, folder, texts, seed, **sizes), lessons, seed)


def _teach(path: Path, lessons: Mapping[str, Any], seed: int) -> None:
    from scramble.models import load_vlm
    from scramble.world.tower import teach_vision

    vlm = load_vlm(path, dtype="float32", device="cpu")
    figures = teach_vision(vlm, seed=seed, **lessons)
    vlm.model.save_pretrained(path)
    listed = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
    log.info(f"vision tower pretraining: loss and accuracies of predicting the content of each cell: {listed}")


def _texts(folder: Path) -> Iterator[str]:
    for image in read_table(folder, ImageRecord, missing_ok=True):
        yield from image.captions
    for pair in read_table(folder, PreferencePair, missing_ok=True):
        yield from (*(turn.text for turn in pair.conversation), pair.chosen, pair.rejected, *pair.other_rejected)
    for question in read_table(folder, Question, missing_ok=True):
        yield from (question.question, question.answer, *question.rationale)
