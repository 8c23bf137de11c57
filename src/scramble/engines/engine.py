"""Defines the interface of all engines.

Replies are returned in the order of their requests. If there is a store, each reply is stored as soon as it arrives.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType

from scramble.engines.replies import ReplyStore
from scramble.engines.request import Reply, Request

Keep = Callable[[Reply], None]


@dataclass
class Totals:
    """Holds totals of an engine. The cost is in the currency of the prices and does not include failed attempts."""

    num_requests: int = 0
    reused: int = 0
    failed: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0


class Engine(ABC):
    """Generates text with one model.

    ``model`` is the name of the model in the content key of replies. ``window`` is the maximum number of requests in
    flight or pending. This maximum limits the memory of :meth:`generate`.
    """

    model: str
    window: int

    def __init__(self, *, price_prompt: float = 0.0, price_completion: float = 0.0) -> None:
        """Set the prices per million tokens."""
        self.totals = Totals()
        self._prices = (price_prompt / 1e6, price_completion / 1e6)
        self._totals_lock = threading.Lock()

    @abstractmethod
    def submit(self, request: Request, keep: Keep | None = None) -> Future[Reply]:
        """Submit one request. The future returns a reply (which may have an error) or raises EngineError.

        The reply is passed to ``keep`` as soon as it arrives, so that an interruption loses at most the replies to
        requests in flight.
        """

    def flush(self) -> None:  # noqa: B027 (nothing to do unless an engine works in batches)
        """Start the requests of an incomplete batch. Engines without batches do nothing."""

    def close(self) -> None:  # noqa: B027 (nothing to free by default)
        """Cancel requests in flight and free resources."""

    def generate(self, requests: Iterable[Request], store: ReplyStore | None = None) -> Iterator[Reply]:
        """Yield the reply to each request, in order. At most ``window`` requests are read ahead.

        With a store, requests with a stored reply are not sent again, equal requests are sent once, and each new reply
        is written to the store before it is yielded.

        Raises:
            EngineError: the server, model or key cannot work. Earlier replies are in the store.
        """
        pending: deque[Future[Reply]] = deque()
        in_flight: dict[str, Future[Reply]] = {}
        try:
            for request in requests:
                pending.append(self._look_up_or_submit(request, store, in_flight))
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
        self, request: Request, store: ReplyStore | None, in_flight: dict[str, Future[Reply]]
    ) -> Future[Reply]:
        if store is None:
            return self._counted(self.submit(request))
        key = request.key(self.model)
        same = in_flight.get(key)
        if same is not None:
            with self._totals_lock:
                self.totals.reused += 1
            return same
        if key in store:
            with self._totals_lock:
                self.totals.reused += 1
            stored: Future[Reply] = Future()
            stored.set_result(store.get(key))
            return stored
        future = self._counted(self.submit(request, lambda reply: store.add(key, self.model, reply)))
        in_flight[key] = future
        future.add_done_callback(lambda _: in_flight.pop(key, None))
        return future

    def _counted(self, future: Future[Reply]) -> Future[Reply]:
        future.add_done_callback(self._count)
        return future

    def _count(self, future: Future[Reply]) -> None:
        if future.cancelled() or future.exception() is not None:
            return
        reply = future.result()
        with self._totals_lock:
            self.totals.num_requests += 1
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
