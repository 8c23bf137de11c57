"""Tests the data engine on a data set folder: splits, limits, shards, the table of format pairs, contradictory
settings.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from scramble.pairs.method import PairMethodError, collect
from scramble.pairs.registry import make_method
from scramble.records import ImageFile, ImageRecord, PreferencePair, Question
from scramble.storage.tables import read_table, write_table
from tests.loopback import Loopback


@pytest.fixture
def train(tmp_path: Path, images: dict[str, ImageFile]) -> Path:
    folder = tmp_path / "data" / "train"
    write_table(folder, ImageRecord, [ImageRecord("red", images["red"], ("A red square.",))])
    kinds = ["count", "colour"]
    write_table(folder, Question, [Question(f"q{n}", ("red",), f"How many {n}?", "5", kinds[n % 2]) for n in range(8)])
    return folder


def answer(payload: dict[str, Any]) -> str:
    """Return a reply that depends on the seed: right in the requested form, wrong, or right in another form."""
    number = payload["seed"]
    return [f"Step {number}.\nNext.\nFinal answer: 5", "Well.\nYes.\nFinal answer: 7", f"{number}. Final answer: 5"][
        number % 3
    ]


def run(
    server: Loopback, folder: Path, method: str = "correctness", shard: tuple[int, int] = (0, 1), **options: Any
) -> tuple[list[PreferencePair], dict[str, Any], list[Any]]:
    server.answer_to = answer
    engine = {"kind": "openai", "model": "m", "base_url": server.url, "concurrency": 2}
    options = {"styles": ["steps"], "samples": 12, **options} if method == "correctness" else options
    with make_method({"method": method, "engine": engine, "options": options}, seed=0, shard=shard) as method_object:
        pairs, skips = collect(method_object.pairs(folder))
        return pairs, method_object.totals(), [skip.row() for skip in skips]


def test_format_pairs_have_a_table_of_their_own(server: Loopback, train: Path) -> None:
    pairs, counts, _ = run(server, train)
    apart = list(read_table(train / "format", PreferencePair))
    assert {p.kind for p in pairs} == {"correctness"} and {p.kind for p in apart} == {"format"}
    assert counts["format_pairs"] == len(apart) > 0 and counts["engine"]["generator"]["num_requests"] == 96
    together, _, _ = run(server, train, format_pairs="with")
    assert Counter(p.kind for p in together) == {"correctness": len(pairs), "format": len(apart)}
    assert {p.kind for p in run(server, train, format_pairs="drop")[0]} == {"correctness"}
    assert len(server.payloads) == 96  # asked once


def test_limits(server: Loopback, train: Path) -> None:
    pairs, _, skipped = run(server, train, limit=3, kinds=["count"])
    questions = {p.details["question"] for p in pairs} | {row["question"] for row in skipped}
    assert len(questions) == 3 and all(int(name[1:]) % 2 == 0 for name in questions) and len(server.payloads) == 36
    assert run(server, train, splits=["val"])[0] == [] and len(server.payloads) == 36


def test_shards_of_a_mix_ask_for_the_replies_of_the_whole_job(server: Loopback, train: Path) -> None:
    """The questions of each part are sharded. The world's captions need no model and are made only in the full job."""
    server.answer_to = answer
    engine = {"kind": "openai", "model": "m", "base_url": server.url, "concurrency": 2}
    options = {"styles": ["steps"], "samples": 12}
    parts = {
        "right": {"method": "correctness", "engine": engine, "options": options, "refine": {}},
        "few": {"method": "correctness", "engine": engine, "options": {**options, "limit": 2}},
        "given": {"method": "given"},
    }
    write_table(train, PreferencePair, [PreferencePair("p", ("red",), "?", "yes", "no", "k")])
    items = []
    for number in range(2):
        with make_method({"method": "mix", "parts": parts}, seed=0, shard=(number, 2)) as method:
            assert method.asks_model
            items.append(method.store_replies(train))
    assert sum(items) == 8 + 2 and len(server.payloads) == 96 and not (train / "format").exists()
    parts["right"].pop("refine")  # type: ignore[attr-defined]
    with make_method({"method": "mix", "parts": parts}, seed=0) as method:
        pairs, skips = collect(method.pairs(train))
        counts = method.totals()["parts"]
    assert len(server.payloads) == 96 and all(skip.reason.startswith(("right: ", "few: ")) for skip in skips)
    assert {pair.pair_id.partition("/")[0] for pair in pairs} == set(parts)
    assert counts["right"]["pairs"] > counts["few"]["pairs"] > counts["given"]["pairs"] == 1
    assert not make_method({"method": "given"}, seed=0).asks_model


def test_shards_share_their_replies(server: Loopback, train: Path, tmp_path: Path) -> None:
    parts = [run(server, train, shard=(n, 2), replies=tmp_path / "replies")[0] for n in range(2)]
    assert len(server.payloads) == 96 and all(parts)
    whole, _, _ = run(server, train, replies=tmp_path / "replies")
    assert len(server.payloads) == 96
    assert sorted(p.pair_id for p in whole) == sorted(p.pair_id for part in parts for p in part)


def test_settings_that_do_not_fit(server: Loopback, train: Path, tmp_path: Path) -> None:
    with pytest.raises(PairMethodError, match=r"set pairs\.engine"):
        make_method({"method": "correctness"}, seed=0)
    with pytest.raises(PairMethodError, match="format_pairs must be one of 'apart', 'with', 'drop', not 'maybe'"):
        run(server, train, format_pairs="maybe")
    with pytest.raises(PairMethodError, match=r"ask must list .* not \['captions'\]"):
        run(server, train, method="dropout_ntp", ask=["captions"])
    (train / "questions.parquet").unlink()
    with pytest.raises(PairMethodError, match="contains no questions"):
        run(server, train)
