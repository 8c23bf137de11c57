"""Batches built in ``DataLoader`` workers: same order and same contents as in this process, ahead of time."""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, get_worker_info
from transformers import TrainingArguments

from scramble import interrupt
from scramble.training.collator import Encoder

log = logging.getLogger(__name__)

GPU_WORKERS = 2
MANY_CORES = 16  # on a CPU the model takes all cores: workers only pay where some are to spare
SHARED_MEMORY = Path("/dev/shm")  # through which workers hand batches over; 64 MB in a container by default
SMALLEST_SHARED_MEMORY = 1 << 30  # bytes
SIGNAL_SECONDS = 2.0


class WorkerError(RuntimeError):
    """A data loading worker is gone. The message says what it cost and how to go on."""


@dataclass(frozen=True)
class Workers:
    """Who builds batches.

    Attributes:
        number: worker processes; 0: this process, when a batch is needed.
        prefetch_factor: batches that each worker builds ahead; None: torch's 2.
        pin_memory: hand batches over in page-locked memory, for a GPU.
        multiprocessing_context: how workers start (fork, spawn, forkserver); None: the platform's way.
    """

    number: int = 0
    prefetch_factor: int | None = None
    pin_memory: bool = False
    multiprocessing_context: str | None = None

    @classmethod
    def of(cls, args: TrainingArguments) -> Workers:
        """As transformers' arguments have it."""
        pin_memory = args.dataloader_pin_memory and args.device.type == "cuda"
        context = args.dataloader_multiprocessing_context
        return cls(args.dataloader_num_workers, args.dataloader_prefetch_factor, pin_memory, context)


IN_PROCESS = Workers()


def default_num_workers(device: torch.device) -> int:
    """Workers per process where the options name no number."""
    if device.type == "cuda":
        if SHARED_MEMORY.exists() and (free := shutil.disk_usage(SHARED_MEMORY).free) < SMALLEST_SHARED_MEMORY:
            log.warning(
                "no data loading workers: %s has only %.0f MB free (docker: --shm-size=8g, or --ipc=host)",
                SHARED_MEMORY,
                free / 1e6,
            )
            return 0
        return GPU_WORKERS
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return GPU_WORKERS if cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) >= MANY_CORES else 0


def data_loader(
    dataset: Sequence[Any],
    work: Callable[[Any], Any],
    encoder: Encoder,
    workers: Workers,
    batch_sampler: Iterable[list[int]] | None = None,
) -> DataLoader[Any]:
    """``work`` on each element of ``dataset``, or on each batch of them, by worker processes.

    ``encoder`` is the one that ``work`` uses: in several workers its memory limit is shared.

    Elements come as mappings that :func:`unwrap` reads, so that the error of an element is raised here, as itself and
    at the element's turn, and not in the words of a worker. With a generator of its own, so that reading data takes
    nothing from the random state that a checkpoint restores.
    """
    batches: dict[str, Any] = {"batch_size": None} if batch_sampler is None else {"batch_sampler": batch_sampler}
    return DataLoader(
        dataset,  # type: ignore[arg-type]
        collate_fn=_Guarded(work),
        num_workers=workers.number,
        prefetch_factor=workers.prefetch_factor if workers.number else None,
        worker_init_fn=_Start(encoder) if workers.number else None,
        pin_memory=workers.pin_memory,
        multiprocessing_context=workers.multiprocessing_context if workers.number else None,
        generator=torch.Generator(),
        **batches,
    )


def results(loader: DataLoader[Any]) -> Iterator[Any]:
    """What ``work`` returned, element by element. Raises what it raised."""
    return map(unwrap, loader)


def unwrap(element: Mapping[str, Any]) -> Any:
    """The result in an element of a loader. Raises the error in its place."""
    if "error" in element:
        raise element["error"]
    return element["batch"]


@contextmanager
def worker_failures_explained(cost: Callable[[], str]) -> Iterator[None]:
    """Within the block a worker that the system killed raises WorkerError; ``cost`` says what is lost with the run.

    torch raises its error from a signal handler, wherever the main process is at that time.
    """
    try:
        try:
            yield
        except (ConnectionError, EOFError, FileNotFoundError):
            # What reading a batch from a worker that is just being killed can raise before the signal arrives here.
            time.sleep(SIGNAL_SECONDS)
            raise
    except RuntimeError as error:
        found = re.search(r"DataLoader worker \(pid[^)]*\)[^.]*", str(error))
        if found is None:
            raise
        raise WorkerError(
            f"a data loading worker is gone ({found[0].strip()}): most often memory, or shared memory "
            f"({SHARED_MEMORY}), ran out; {cost()}. Lower trainer.dataloader_num_workers (0 builds batches in the main "
            "process), trainer.dataloader_prefetch_factor or trainer.image_cache_mb"
        ) from error


@dataclass(frozen=True)
class _Guarded:
    """``work``, whose errors of this package are returned from a worker instead of raised there."""

    work: Callable[[Any], Any]

    def __call__(self, element: Any) -> dict[str, Any]:
        try:
            return {"batch": self.work(element)}
        except Exception as error:
            # A defect, anything but a message to the user, keeps its trace, which torch sends along.
            if get_worker_info() is None or type(error).__module__.partition(".")[0] != "scramble":
                raise
            return {"error": error}


@dataclass(frozen=True)
class _Start:
    """Sets up a worker."""

    encoder: Encoder

    def __call__(self, worker_id: int) -> None:
        interrupt.outlast_signals()
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else tokenizers warns that it was forked
        info: Any = get_worker_info()
        self.encoder.share_memory_limit(info.num_workers)
