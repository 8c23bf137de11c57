"""Items with several requests each: every item with its replies, in order, asked ahead as far as the engine allows."""

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
    """Each item with the replies to its requests (one at least), in order; items to skip pass through unasked.

    Lazy, and may be chained: the items may come from another ``ask_each``.

    Raises:
        EngineError: asking on is pointless; what has been answered is in the store.
    """
    waiting: deque[tuple[Item, Any]] = deque()  # item, and why it is skipped or how many replies it waits for

    def stream() -> Iterator[Request]:
        for item, skip in items:
            wanted = [] if skip is not None else requests(item)
            waiting.append((item, (skip, len(wanted))))
            yield from wanted

    replies: list[Reply] = []
    for reply in engine.generate(stream(), store):
        while waiting[0][1][0] is not None:
            item, (skip, _) = waiting.popleft()
            yield item, skip
        replies.append(reply)
        if len(replies) == waiting[0][1][1]:
            yield waiting.popleft()[0], replies
            replies = []
    for item, (skip, _) in waiting:
        yield item, skip
