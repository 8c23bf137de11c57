"""Times functions for the benchmarks. The functions take turns, so that all of them run under the same load."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


def in_turn(
    functions: Mapping[str, Callable[[], Any]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Run all functions in turn, ``repeats`` times. Return the seconds of all runs and the last result of each
    function.

    With ``time.process_time`` as the clock, CPU time is measured. On one thread, other work on the machine hardly
    changes CPU time.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    results: dict[str, Any] = {}
    for _ in range(repeats):
        for name, run in functions.items():
            start = clock()
            results[name] = run()
            seconds[name].append(clock() - start)
    return seconds, results


@contextmanager
def stopwatch(module: Any, *names: str) -> Iterator[list[float]]:
    """Collect the seconds of every call of the named functions of a module while the ``with`` block runs."""
    seconds: list[float] = []
    originals = {name: getattr(module, name) for name in names}

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                seconds.append(time.perf_counter() - start)

        return call

    for name, function in originals.items():
        setattr(module, name, timed(function))
    try:
        yield seconds
    finally:
        for name, function in originals.items():
            setattr(module, name, function)
