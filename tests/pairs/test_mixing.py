"""Mixes have exact shares and no repeated pairs, and are the same for the same seed."""

from __future__ import annotations

from collections import Counter

import pytest

from scramble.pairs.method import PairMethodError
from scramble.pairs.mixing import mix
from scramble.records import PreferencePair


def pairs(count: int) -> list[PreferencePair]:
    return [PreferencePair(f"{n}", ("i",), "p", f"a{n}", f"b{n}", "k") for n in range(count)]


def shares(mixed: list[PreferencePair]) -> dict[str, int]:
    assert len({p.pair_id for p in mixed}) == len(mixed)
    return dict(Counter(p.pair_id.partition("/")[0] for p in mixed))


def test_shares() -> None:
    parts = {"a": pairs(100), "b": pairs(30), "c": pairs(500)}
    assert shares(mix(parts)) == {"a": 100, "b": 30, "c": 500}
    assert shares(mix(parts, {"a": 1, "b": 1, "c": 2})) == {"a": 30, "b": 30, "c": 60}
    assert shares(mix(parts, {"a": 0.2, "b": 0.05, "c": 0.75})) == {"a": 100, "b": 25, "c": 375}
    first = mix(parts, {"a": 1, "b": 1, "c": 2}, seed=3)
    assert first == mix(parts, {"a": 1, "b": 1, "c": 2}, seed=3) != mix(parts, {"a": 1, "b": 1, "c": 2}, seed=4)


def test_impossible_shares() -> None:
    with pytest.raises(PairMethodError, match="part b has weight 0"):
        mix({"a": pairs(2), "b": pairs(2)}, {"a": 1, "b": 0})
    with pytest.raises(PairMethodError, match="part b contains no pairs"):
        mix({"a": pairs(2), "b": []}, {"a": 1, "b": 1})
