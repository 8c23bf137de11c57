"""Yields items with the replies to their requests, in order. The requests of later items are sent in advance."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from scramble.engines.engine import Engine
from scramble.engines.replies import ReplyStore
from scramble.engines.request import Reply, Request

Item = TypeVar("Item")
Skipped = TypeVar("Skipped")


def ask_each(
    engine: Engine,
    store: ReplyStore,
    items: Iterable[tuple[Item, Skipped | None]],
    requests: Callable[[Item], list[Request]],
) -> Iterator[tuple[Item, list[Reply] | Skipped]]:
    """Yield each item with the replies to its requests, in order.

    The function is lazy. Calls can be chained: the items may come from another ``ask_each``.

    Args:
        engine: engine that answers the requests.
        store: store of the replies.
        items: pairs of an item and None, or of an item and the reason why it is skipped. A skipped item is yielded with
            this reason in place of replies.
        requests: function that returns the requests of an item (at least one).

    Raises:
        EngineError: the server, model or key cannot work. Earlier replies are in the store.
    """
    pending: deque[tuple[Item, Any]] = deque()  # item, (reason why it is skipped or None, number of its requests)

    def stream() -> Iterator[Request]:
        for item, skip in items:
            item_requests = [] if skip is not None else requests(item)
            pending.append((item, (skip, len(item_requests))))
            yield from item_requests

    replies: list[Reply] = []
    for reply in engine.generate(stream(), store):
        while pending[0][1][0] is not None:
            item, (skip, _) = pending.popleft()
            yield item, skip
        replies.append(reply)
        if len(replies) == pending[0][1][1]:
            yield pending.popleft()[0], replies
            replies = []
    for item, (skip, _) in pending:
        yield item, skip
