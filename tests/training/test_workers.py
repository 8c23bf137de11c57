"""Tests batches built in worker processes: equal batches, one-line errors, signals, killed workers."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from scramble.models import VLM, load_vlm
from scramble.records import ImageFile, ImageRecord, PreferencePair, RecordError
from scramble.storage.image_table import ImageTable
from scramble.storage.tables import read_table, write_table
from scramble.training.callbacks import ScoreBenchmarks
from scramble.training.collator import PairBatch, TrieCollator
from scramble.training.data import Example, pair_examples
from scramble.training.dataloader import IN_PROCESS, WorkerError, Workers, data_loader, explain_worker_failures, results
from scramble.training.encoder import Encoder
from scramble.trie import transfer
from tests.training.logs import rows
from tests.training.settings import fit

LORA = {"r": 4, "lora_alpha": 8}
CHUNKS = [[0, 5, 1], [2, 3], [9, 8, 7, 6], [4], [10, 11], [12, 13, 14, 15]]


@pytest.fixture(scope="module")
def vlm(tiny: Path) -> VLM:
    return load_vlm(tiny)


@pytest.fixture
def collator(vlm: VLM, data: Path) -> TrieCollator:
    return TrieCollator(Encoder(vlm, ImageTable(data)), with_rejected=True)


def examples_of(data: Path) -> list[Example]:
    return list(pair_examples(read_table(data, PreferencePair)))


def tensors(batch: PairBatch) -> dict[str, Any]:
    """Return the contents of a batch by name, with images by item."""
    tries = {field.name: getattr(batch.tries, field.name) for field in fields(batch.tries)}
    images = {f"{n} {name}": t for n, image in enumerate(tries.pop("images")) for name, t in (image or {}).items()}
    return {**tries, **images, "chosen": batch.chosen_P, "rejected": batch.rejected_P, "ids": batch.example_ids}


def assert_same(ours: PairBatch, theirs: PairBatch) -> None:
    one, other = tensors(ours), tensors(theirs)
    assert one.keys() == other.keys()
    for name, value in one.items():
        same = torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
        assert same, name


def test_batches_are_those_of_one_process_in_the_same_order(collator: TrieCollator, data: Path) -> None:
    examples = examples_of(data)
    expected = [collator([examples[n] for n in chunk]) for chunk in CHUNKS]
    loader = data_loader(examples, collator, collator.encoder, Workers(2, prefetch_factor=1), CHUNKS)
    for ours, theirs in zip(results(loader), expected, strict=True):
        assert_same(ours, theirs)


@pytest.mark.parametrize("held", [1, 100])
def test_tensors_in_segments_keep_their_values(
    held: int, collator: TrieCollator, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers reuse the memory of batches that were freed, and no other memory."""
    monkeypatch.setattr(transfer, "BY_VALUE_BYTES", 0)  # the worker is a fork of this process
    examples, chunks = examples_of(data), 3 * CHUNKS
    expected = [collator([examples[n] for n in chunk]) for chunk in chunks]
    loader = data_loader(examples, collator, collator.encoder, Workers(2, 1, multiprocessing_context="fork"), chunks)
    recent: deque[tuple[PairBatch, PairBatch]] = deque(maxlen=held)
    for pair in zip(results(loader), expected, strict=True):
        recent.append(pair)
        for ours, theirs in recent:
            assert_same(ours, theirs)


def test_two_answers_about_an_image_share_its_pixels_after_the_journey(collator: TrieCollator, data: Path) -> None:
    """The engine encodes an image once if it is the same object in several tries."""
    first, second, *_ = examples_of(data)
    other_prompt = Example("other", first.image_ids, f"Look. {first.prompt}", second.chosen, second.rejected)
    [batch] = results(data_loader([first, other_prompt], collator, collator.encoder, Workers(1), [[0, 1]]))
    assert len({id(image) for image in batch.tries.images}) == 1


def test_the_collator_can_be_pickled(collator: TrieCollator, data: Path) -> None:
    """Workers that are not forked (macOS, Python 3.14) receive a pickled collator."""
    some = examples_of(data)[:3]
    expected = collator(some)
    dumped = pickle.dumps(collator)
    assert len(dumped) < 200_000  # it contains a tokenizer, but no weights or pixels
    assert_same(pickle.loads(dumped)(some), expected)


def test_a_run_logs_the_same_numbers_and_resumes_to_them(tiny: Path, data: Path, tmp_path: Path) -> None:
    """Runs without and with workers are equal, also after resuming from the previous checkpoint with workers."""
    options: dict[str, Any] = {
        "objective": "mpo",
        "peft": LORA,
        "max_steps": 6,
        "global_batch_size": 4,
        "per_device_train_batch_size": 2,
        "logging_steps": 2,
        "save_steps": 4,
        "eval_data": data,
        "eval_steps": 3,
    }

    def run(name: str, workers: int) -> tuple[list[Any], bytes, str | None]:
        summary = fit(load_vlm(tiny), data, tmp_path / name, dataloader_num_workers=workers, **options)
        weights = (tmp_path / name / "adapter/adapter_model.safetensors").read_bytes()
        return rows(tmp_path / name), weights, summary["resumed_from"]

    without = run("without", 0)
    assert run("with", 2) == without
    shutil.rmtree(tmp_path / "with/checkpoints/step-00000006")
    assert run("with", 2) == (*without[:2], "step-00000004")


@pytest.mark.parametrize("workers", [IN_PROCESS, Workers(2)])
def test_an_image_that_cannot_be_decoded_is_named(vlm: VLM, data: Path, workers: Workers) -> None:
    """The error is raised when its element is due, and not earlier when a worker prefetches it."""
    table, examples = ImageTable(data), examples_of(data)
    images = dict(table) | {"i2": ImageFile(table["i2"].read()[:-60], "photo.png")}
    collator = TrieCollator(Encoder(vlm, images), with_rejected=True)
    batches = results(data_loader(examples, collator, collator.encoder, workers, [[0], [1], [4], [6]]))
    assert [next(batches).example_ids for _ in range(2)] == [("p0-0",), ("p0-1",)]
    with pytest.raises(RecordError, match=r"^example p2-0: .*photo\.png") as caught:
        next(batches)
    assert "\n" not in str(caught.value) and "worker" not in str(caught.value)


def test_a_damaged_image_is_named_with_what_to_do(vlm: VLM, data: Path, tmp_path: Path) -> None:
    table, examples = ImageTable(data), examples_of(data)
    damaged = ImageFile(table["i2"].read()[:-60], "photo.png")
    (tmp_path / "photo.png").write_bytes(damaged.read())

    def message(images: Mapping[str, ImageFile]) -> str:
        with pytest.raises(RecordError) as caught:
            Encoder(vlm, images).prompt(examples[4])
        return str(caught.value)

    assert message({"i2": ImageFile(path=str(tmp_path / "photo.png"))}).endswith(
        "); replace the file and repeat the command"
    )
    assert message({"i2": damaged}).endswith(
        "; replace the data that contain the bytes of this image, and repeat the command"
    )
    write_table(tmp_path, ImageRecord, [ImageRecord("i2", damaged)])
    stored = (
        f"; its bytes are stored in {tmp_path / 'images.parquet'}: generate the data in another run folder (name=...)"
    )
    assert stored in message(ImageTable(tmp_path)) and "data.verify=true" in message(ImageTable(tmp_path))


def test_an_error_in_a_worker_of_another_loader_is_one_line(vlm: VLM, data: Path) -> None:
    """TRL computes the reference and evaluates with its own loaders."""
    images = dict(ImageTable(data)) | {"i2": ImageFile(b"none", "photo.png")}
    collator = TrieCollator(Encoder(vlm, images), with_rejected=True)
    loader: DataLoader[Any] = DataLoader(examples_of(data), batch_size=8, collate_fn=collator, num_workers=1)  # type: ignore[arg-type]
    with pytest.raises(RecordError, match=r"^example p2-0: .*photo\.png[^\n]*$"), explain_worker_failures(str):
        list(loader)


def test_a_worker_that_is_killed_ends_the_run_and_checkpoints_stay(tiny: Path, data: Path, tmp_path: Path) -> None:
    steps = iter(range(100))

    def kill(_: VLM) -> dict[str, float]:
        if next(steps) == 3:
            for worker in multiprocessing.active_children():
                os.kill(worker.pid or 0, signal.SIGKILL)
        return {}

    # The signal of the kill in step 4 may arrive before or after the checkpoint of this step is saved.
    with pytest.raises(
        WorkerError,
        match=r"killed by signal: Killed\), .*memory.*; the work since the checkpoint of step [24] \(\d steps?\)",
    ) as caught:
        fit(
            load_vlm(tiny),
            data,
            tmp_path,
            objective="sft",
            peft=LORA,
            max_steps=60,
            global_batch_size=2,
            save_steps=2,
            callbacks=[ScoreBenchmarks(kill)],
            eval_steps=1,
            dataloader_num_workers=1,
        )
    assert "\n" not in str(caught.value) and "trainer.dataloader_num_workers" in str(caught.value)
    assert (tmp_path / "checkpoints" / "step-00000002").exists()


def test_workers_outlast_the_signals_of_a_job(collator: TrieCollator, data: Path) -> None:
    """Terminals and batch systems signal all processes; the main process needs its workers until it has saved."""
    batches = results(
        data_loader(examples_of(data), collator, collator.encoder, Workers(1, 1), [[n] for n in range(8)])
    )
    next(batches)
    [worker] = multiprocessing.active_children()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(worker.pid or 0, number)
    assert len(list(batches)) == 7
    worker.join(20)
    assert worker.exitcode == 0


LEFT_OPEN = """
from types import SimpleNamespace
import sys
from scramble.training.dataloader import Workers, data_loader
encoder = SimpleNamespace(share_memory_limit=lambda processes: None)
loader = data_loader(range(8), abs, encoder, Workers(number=1))
open_iterator = iter(loader)
next(open_iterator)
sys.exit("error: a broken image")
"""


def test_a_process_that_ends_with_an_error_does_not_wait_for_its_workers() -> None:
    """An error of a run refers to its loader, whose workers ignore the SIGTERM that multiprocessing sends at exit."""
    done = subprocess.run([sys.executable, "-c", LEFT_OPEN], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (1, "error: a broken image\n")
