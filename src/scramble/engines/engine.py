"""The one interface of all engines: requests in, replies out in the same order, each reply stored as it comes."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType

from scramble.engines.replies import ReplyStore
from scramble.engines.request import Reply, Request


@dataclass
class Totals:
    """What an engine has done so far. Cost in the currency of the prices given; wasted retries cost nothing here."""

    asked: int = 0
    reused: int = 0
    failed: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0


class Engine(ABC):
    """Generates text with one model.

    ``model`` names the model for the content key of replies: another name, another key. ``window`` is how many
    requests may be under way or waiting at once; it bounds the memory of :meth:`generate`.
    """

    model: str
    window: int

    def __init__(self, *, price_prompt: float = 0.0, price_completion: float = 0.0) -> None:
        """Prices are per million tokens."""
        self.totals = Totals()
        self._prices = (price_prompt / 1e6, price_completion / 1e6)
        self._totals_lock = threading.Lock()

    @abstractmethod
    def submit(self, request: Request) -> Future[Reply]:
        """Hand over one request; its future ends with a reply (which may carry an error) or an EngineError."""

    def flush(self) -> None:  # noqa: B027 (nothing to do unless an engine works in batches)
        """Start what has been submitted but waits for company (engines that work in batches)."""

    def close(self) -> None:  # noqa: B027 (nothing to free by default)
        """Give up what is under way and free what is held."""

    def generate(self, requests: Iterable[Request], store: ReplyStore | None = None) -> Iterator[Reply]:
        """The reply to each request, in order, read lazily with at most ``window`` requests ahead.

        With a store, a reply that it holds is not asked for again, equal requests are asked once, and each new reply
        is on disk before it is yielded.

        Raises:
            EngineError: asking on is pointless; what has been answered is in the store.
        """
        pending: deque[Future[Reply]] = deque()
        under_way: dict[str, Future[Reply]] = {}
        try:
            for request in requests:
                pending.append(self._look_up_or_submit(request, store, under_way))
                while len(pending) >= self.window or (pending and pending[0].done()):
                    if not pending[0].done():
                        self.flush()
                    yield pending.popleft().result()
            self.flush()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

    def _look_up_or_submit(
        self, request: Request, store: ReplyStore | None, under_way: dict[str, Future[Reply]]
    ) -> Future[Reply]:
        if store is None:
            return self._counted(self.submit(request))
        key = request.key(self.model)
        same = under_way.get(key)
        if same is not None:
            with self._totals_lock:
                self.totals.reused += 1
            return same
        if key in store:
            with self._totals_lock:
                self.totals.reused += 1
            known: Future[Reply] = Future()
            known.set_result(store.get(key))
            return known
        asked = self._counted(self.submit(request))
        stored: Future[Reply] = Future()
        under_way[key] = stored
        # The order matters: forget the request only after the reply is on disk, or an equal one would be asked again.
        stored.add_done_callback(lambda future: (under_way.pop(key, None), future.cancelled() and asked.cancel()))
        asked.add_done_callback(lambda future: _store(store, key, self.model, future, stored))
        return stored

    def _counted(self, future: Future[Reply]) -> Future[Reply]:
        future.add_done_callback(self._count)
        return future

    def _count(self, future: Future[Reply]) -> None:
        if future.cancelled() or future.exception() is not None:
            return
        reply = future.result()
        with self._totals_lock:
            self.totals.asked += 1
            self.totals.failed += bool(reply.error)
            self.totals.prompt_tokens += reply.prompt_tokens
            self.totals.completion_tokens += reply.completion_tokens
            self.totals.cost += reply.prompt_tokens * self._prices[0] + reply.completion_tokens * self._prices[1]

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _store(store: ReplyStore, key: str, model: str, asked: Future[Reply], stored: Future[Reply]) -> None:
    """Pass ``asked``'s outcome on to ``stored``, once it is on disk."""
    if not stored.set_running_or_notify_cancel():
        # The consumer has gone; a reply that arrives all the same is kept.
        if not asked.cancelled() and asked.exception() is None:
            store.add(key, model, asked.result())
        return
    if asked.cancelled():
        stored.set_exception(InterruptedError("the request was given up"))
        return
    error = asked.exception()
    if error is not None:
        stored.set_exception(error)
        return
    reply = asked.result()

    def written(done: Future[None]) -> None:
        failure = done.exception()
        if failure is not None:
            stored.set_exception(failure)
        else:
            stored.set_result(reply)

    store.add(key, model, reply).add_done_callback(written)
