"""Timing for the benchmarks: several ways of doing the same thing, in turn, so that all meet the same machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


def in_turn(
    ways: Mapping[str, Callable[[], Any]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Run each way once, then each again, ``repeats`` times: the seconds of every run, and what the last one gave.

    ``time.process_time`` as the clock counts processor time: on one thread, other work on the machine hardly moves it.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    given: dict[str, Any] = {}
    for _ in range(repeats):
        for name, run in ways.items():
            start = clock()
            given[name] = run()
            seconds[name].append(clock() - start)
    return seconds, given


@contextmanager
def stopwatch(module: Any, *names: str) -> Iterator[list[float]]:
    """Seconds of every call of these functions of a module, while the block runs."""
    spent: list[float] = []
    before = {name: getattr(module, name) for name in names}

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent.append(time.perf_counter() - start)

        return call

    for name, function in before.items():
        setattr(module, name, timed(function))
    try:
        yield spent
    finally:
        for name, function in before.items():
            setattr(module, name, function)
