"""Provides the base class of engines that run a model in the calling process, one batch of requests at a time."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future

from scramble.engines.engine import Engine, Keep
from scramble.engines.request import Reply, Request


class BatchEngine(Engine):
    """Collects requests into batches. A subclass answers one batch at a time.

    ``submit`` runs the batch in the caller's thread if the request completes the batch. ``flush`` runs an incomplete
    batch.
    """

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.window = batch_size
        self._batch_size = batch_size
        self._waiting: list[tuple[Request, Future[Reply], Keep | None]] = []

    @abstractmethod
    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """Return one reply per request, in order."""

    def submit(self, request: Request, keep: Keep | None = None) -> Future[Reply]:
        future: Future[Reply] = Future()
        self._waiting.append((request, future, keep))
        if len(self._waiting) >= self._batch_size:
            self.flush()
        return future

    def flush(self) -> None:
        batch, self._waiting = self._waiting, []
        active = [entry for entry in batch if entry[1].set_running_or_notify_cancel()]
        if not active:
            return
        replies = self.answer([request for request, _, _ in active])
        for (_, future, keep), reply in zip(active, replies, strict=True):
            if keep is not None:
                keep(reply)
            future.set_result(reply)
