"""Tests the messages about the pairs that scripts/generate.py and scripts/train.py log."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from scramble.pipeline.generate import _is_refined, _report_small_kinds


def messages(caplog: pytest.LogCaptureFixture, counts: dict[str, Any]) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.INFO, "scramble"):
        _report_small_kinds(counts)
    return [record.getMessage() for record in caplog.records]


def test_small_kinds_are_listed_and_unrefined_pairs_are_stated(caplog: pytest.LogCaptureFixture) -> None:
    small = {"refined_together": {"replace-object": 6}, "not_refined": {"swap-object": 4, "swap-number": 0}}
    mixed = {"pairs_before_refinement": 38, **small}
    assert _is_refined(mixed)
    (line,) = messages(caplog, mixed)
    assert line.endswith("separately; refined together: replace-object (6); not refined: swap-object (4)")
    nothing = {"pairs_before_refinement": 29, "not_refined": {"swap-object": 29, "replace-object": 0}}
    assert not _is_refined(nothing)
    (line,) = messages(caplog, nothing)
    assert line.startswith("data, train: the pairs were not refined, because refinement needs at least 20 pairs from 5")
    assert not _is_refined({"pairs": 29}) and messages(caplog, {"pairs": 29}) == []
    assert _is_refined({"parts": {"a": nothing, "b": mixed}})
    first, second = messages(caplog, {"parts": {"a": nothing, "b": mixed}})
    assert "the pairs of a were not refined" in first and "kinds of b with fewer than" in second
