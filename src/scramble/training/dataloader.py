"""Builds batches in ``DataLoader`` workers.

The order and the contents of the batches are the same as if the main process built them.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import re
import shutil
import signal
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
from scramble.training.encoder import Encoder

log = logging.getLogger(__name__)

GPU_WORKERS = 2
MANY_CORES = 16  # a model on the CPU uses all cores, so workers are useful only with at least this many cores
SHARED_MEMORY = Path("/dev/shm")  # workers send batches through this memory (64 MB by default in a container)
SMALLEST_SHARED_MEMORY = 1 << 30  # bytes
SIGNAL_SECONDS = 2.0  # time for torch's SIGCHLD handler to report a killed worker


class WorkerError(RuntimeError):
    """Raised if the operating system kills a data loading worker.

    The message says what is lost and which settings to lower.
    """


@dataclass(frozen=True)
class Workers:
    """Options of the ``DataLoader`` workers.

    Attributes:
        number: number of worker processes. With 0, the main process builds each batch when it is needed.
        prefetch_factor: number of batches that each worker builds in advance; None means torch's default, 2.
        pin_memory: whether to copy batches to page-locked memory, for a GPU.
        multiprocessing_context: how workers start (fork, spawn, forkserver); None means the platform's default.
    """

    number: int = 0
    prefetch_factor: int | None = None
    pin_memory: bool = False
    multiprocessing_context: str | None = None

    @classmethod
    def of(cls, args: TrainingArguments) -> Workers:
        """Create the options from transformers' training arguments."""
        pin_memory = args.dataloader_pin_memory and args.device.type == "cuda"
        context = args.dataloader_multiprocessing_context
        return cls(args.dataloader_num_workers, args.dataloader_prefetch_factor, pin_memory, context)


IN_PROCESS = Workers()


def default_num_workers(device: torch.device) -> int:
    """Return the number of workers per process if ``dataloader_num_workers`` is not set."""
    if device.type == "cuda":
        if SHARED_MEMORY.exists() and (free := shutil.disk_usage(SHARED_MEMORY).free) < SMALLEST_SHARED_MEMORY:
            log.warning(
                "batches are built without workers, because %s has only %.0f MB free: use docker's --shm-size=8g or "
                "--ipc=host",
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
    """Return a loader that applies ``work`` to each element of ``dataset`` or, with ``batch_sampler``, to each batch.

    With ``workers.number`` above 0, ``work`` runs in worker processes. ``encoder`` is the encoder that ``work`` uses;
    the workers share its memory limit.

    The loader yields mappings, which :func:`unwrap` reads. If ``work`` raises an error of this package in a worker,
    ``unwrap`` raises the same error in the main process. torch itself would add the worker's traceback to the message.
    The loader has its own ``torch.Generator``. Without it, the loader would draw its seed from the global random state,
    which a checkpoint restores.
    """
    if workers.number:
        atexit.register(_end_workers)
    batches: dict[str, Any] = {"batch_size": None} if batch_sampler is None else {"batch_sampler": batch_sampler}
    return DataLoader(
        dataset,  # type: ignore[arg-type]
        collate_fn=_ReturnErrors(work),
        num_workers=workers.number,
        prefetch_factor=workers.prefetch_factor if workers.number else None,
        worker_init_fn=_InitWorker(encoder) if workers.number else None,
        pin_memory=workers.pin_memory,
        multiprocessing_context=workers.multiprocessing_context if workers.number else None,
        generator=torch.Generator(),
        **batches,
    )


def results(loader: DataLoader[Any]) -> Iterator[Any]:
    """Yield the results of ``work``, element by element. Raises the errors of ``work``."""
    return map(unwrap, loader)


def unwrap(element: Mapping[str, Any]) -> Any:
    """Return the result in an element of a loader, or raise the error that it contains."""
    if "error" in element:
        raise element["error"]
    return element["batch"]


def is_package_error(error: Exception) -> bool:
    """Return whether the class of an error is defined in this package."""
    return type(error).__module__.partition(".")[0] == "scramble"


def _end_workers() -> None:
    """Kill the workers that still run when the process exits. They run because an error still refers to their loader.

    Otherwise, multiprocessing would send SIGTERM, which the workers ignore
    (:func:`scramble.interrupt.ignore_stop_signals`), and would wait forever. SIGCHLD is reset to its default, because
    torch's handler of SIGCHLD would report the workers as killed.
    """
    if left := [child for child in multiprocessing.active_children() if child.daemon]:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for child in left:
            child.kill()


@contextmanager
def explain_worker_failures(cost: Callable[[], str]) -> Iterator[None]:
    """Within the block, raise WorkerError if the operating system kills a worker; ``cost`` describes what is lost.

    torch itself raises a RuntimeError from a signal handler, at any point in the main process. If a worker of TRL's
    loaders, which do not use :func:`data_loader`, raises an error of this package, torch adds the worker's traceback to
    the message. The block raises this error with its original message.
    """
    try:
        try:
            yield
        except (ConnectionError, EOFError, FileNotFoundError):
            # Reading from a killed worker can fail before the signal arrives, so wait for the signal.
            time.sleep(SIGNAL_SECONDS)
            raise
    except (RuntimeError, ValueError) as error:
        if is_package_error(error) and "in DataLoader worker process" in str(error):
            # The last line of the traceback is "module.RecordError: message".
            raise type(error)(str(error).splitlines()[-1].partition(": ")[2]) from error
        match = re.search(r"DataLoader worker \(pid[^)]*\)[^.]*", str(error))
        if match is None:
            raise
        raise WorkerError(
            f"a data loading worker was killed ({match[0].strip()}), probably because memory or shared memory "
            f"({SHARED_MEMORY}) ran out; {cost()}. Lower trainer.dataloader_num_workers (0 builds batches in the main "
            "process), trainer.dataloader_prefetch_factor or trainer.image_cache_mb"
        ) from error


@dataclass(frozen=True)
class _ReturnErrors:
    """Calls ``work``. In a worker, it returns errors of this package instead of raising them."""

    work: Callable[[Any], Any]

    def __call__(self, element: Any) -> dict[str, Any]:
        try:
            return {"batch": self.work(element)}
        except Exception as error:
            # Any other error is a bug: raise it, because torch then includes the worker's traceback.
            if get_worker_info() is None or not is_package_error(error):
                raise
            return {"error": error}


@dataclass(frozen=True)
class _InitWorker:
    """Sets the signal handlers, the tokenizers' parallelism and the memory limit of a worker."""

    encoder: Encoder

    def __call__(self, worker_id: int) -> None:
        interrupt.ignore_stop_signals()
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # prevents a warning about forking
        info: Any = get_worker_info()
        self.encoder.share_memory_limit(info.num_workers)
