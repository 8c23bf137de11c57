"""Tests the notes about the machine of a run."""

from __future__ import annotations

from scramble.pipeline.provenance import slow_threads


def test_a_busy_machine_is_reported_unless_the_threads_were_chosen() -> None:
    hint = slow_threads(3.9, 2, {})
    assert hint is not None and "load 3.9 on 2 cores" in hint and "OMP_NUM_THREADS=1" in hint
    assert slow_threads(1.9, 2, {}) is None, "a core is free"
    assert slow_threads(3.9, 2, {"OMP_NUM_THREADS": "2"}) is None
    assert slow_threads(3.9, 1, {}) is None, "one core, one thread"
