"""Tests the reply store: one row per key after any failure; shards partition the items."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from scramble.engines import Message, Reply, ReplyStore, Request, in_shard
from scramble.storage.files import StoreError
from scramble.storage.jsonl import read_jsonl


def fill(folder: Path, keys: str, shard: tuple[int, int] = (0, 1)) -> None:
    with ReplyStore(folder, shard) as store:
        for key in keys:
            store.add(key, "m", Reply(f"täxt {key}", "stop", 3, 4))


def test_replies_come_back_from_disk(tmp_path: Path) -> None:
    fill(tmp_path, "abca")
    with ReplyStore(tmp_path) as store:
        assert len(store) == 3 and "b" in store and "d" not in store
        assert store.get("b") == Reply("täxt b", "stop", 3, 4)
        store.add("d", "m", Reply("new"))
        store.add("e", "m", Reply("", error="no answer"))
        assert store.get("d").text == "new" and "e" not in store
    assert [row["key"] for row in read_jsonl(tmp_path / "replies.jsonl")] == ["a", "b", "c", "d"]


def test_a_torn_last_line_is_dropped_and_a_broken_one_is_named(tmp_path: Path) -> None:
    fill(tmp_path, "ab")
    path = tmp_path / "replies.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    with ReplyStore(tmp_path) as store:
        assert "a" in store and "b" not in store
        store.add("b", "m", Reply("again"))
    assert [row["text"] for row in read_jsonl(path)] == ["täxt a", "again"]
    path.write_text("{}\n" + path.read_text())
    with pytest.raises(StoreError, match=r"replies\.jsonl, line 1: the line is not a stored reply"):
        ReplyStore(tmp_path)


def test_a_full_disk_is_reported_and_leaves_complete_lines(tmp_path: Path) -> None:
    """A limit on file size simulates a full disk: the write that crosses the limit is incomplete."""
    import resource
    import signal

    with ReplyStore(tmp_path) as store:
        store.add("a", "m", Reply("fits"))
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            with pytest.raises(StoreError, match=r"cannot write .*replies\.jsonl"):
                store.add("b", "m", Reply("x" * 5000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, before)
        store.add("c", "m", Reply("fits again"))
    assert [row["key"] for row in read_jsonl(tmp_path / "replies.jsonl")] == ["a", "c"]
    with ReplyStore(tmp_path) as store:
        assert "b" not in store and store.get("c").text == "fits again"


def test_a_shard_sees_what_the_others_have_stored(tmp_path: Path) -> None:
    fill(tmp_path, "ab", (0, 2))
    with ReplyStore(tmp_path, (1, 2)) as store:
        assert store.get("a").text == "täxt a"
        store.add("a", "m", Reply("twice"))
        store.add("c", "m", Reply("c"))
    assert [row["key"] for row in read_jsonl(tmp_path / "replies-0001-of-0002.jsonl")] == ["c"]


def test_each_item_is_in_one_shard() -> None:
    ids = [f"image-{i}" for i in range(1000)]
    shards = [[i for i in ids if in_shard(i, (k, 7))] for k in range(7)]
    assert sorted(itertools.chain(*shards)) == sorted(ids)
    assert all(100 < len(shard) < 190 for shard in shards)
    with pytest.raises(ValueError, match="shard 7/7"):
        in_shard("x", (7, 7))


def test_the_key_holds_everything_that_the_reply_depends_on() -> None:
    """Any change gives another key; equal content in another object gives the same key."""

    def request(**changes: object) -> Request:
        settings: dict[str, object] = {"temperature": 0.2, "top_p": 0.9, "max_tokens": 8, "seed": 1, "sample": 0}
        messages = (Message("system", "s"), Message("user", "text", (b"image",)))
        return Request(**({"messages": messages, "stop": ("a",), "schema": {"x": 1}} | settings | changes))  # type: ignore[arg-type]

    base = request().key("m")
    assert request(schema={"x": 1}).key("m") == base
    changed = [
        request(temperature=0.3),
        request(top_p=1.0),
        request(max_tokens=9),
        request(seed=2),
        request(sample=1),
        request(stop=()),
        request(schema=None),
        request(messages=(Message("user", "text", (b"image",)),)),
        request(messages=(Message("system", "s"), Message("user", "text", (b"other",)))),
        request(messages=(Message("system", "s"), Message("user", "text."))),
    ]
    keys = [r.key("m") for r in changed] + [request().key("n"), base]
    assert len(set(keys)) == len(keys)
