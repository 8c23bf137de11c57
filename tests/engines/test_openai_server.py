"""Tests the client with a faulty server: no request is lost, and no request with a stored reply is sent again."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from scramble.engines import EngineError, Message, Reply, ReplyStore, Request
from scramble.engines.openai_server import OpenAIServer, parse_reply
from scramble.engines.rate_limits import duration, retry_after, seconds_until_reset
from scramble.storage.jsonl import read_jsonl
from tests.loopback import Loopback


def ask(text: str, **settings: Any) -> Request:
    return Request((Message("user", text),), **settings)


def client(server: Loopback, **options: Any) -> OpenAIServer:
    defaults: dict[str, Any] = {"timeout": 20.0, "backoff": 0.01, "max_backoff": 0.05, "concurrency": 16}
    return OpenAIServer("m", server.url, **(defaults | options))


def test_replies_come_in_order_with_totals(server: Loopback) -> None:
    requests = [ask(f"item {i} | delay={0.05 if i % 7 == 0 else 0}") for i in range(100)]
    with client(server, price_prompt=2.0, price_completion=10.0) as engine:
        replies = list(engine.generate(requests))
        totals = engine.totals
    assert [reply.text for reply in replies] == [f"reply to item {i}" for i in range(100)]
    assert (totals.num_requests, totals.failed, totals.retries) == (100, 0, 0)
    assert (totals.prompt_tokens, totals.completion_tokens) == (1100, 700)
    assert totals.cost == pytest.approx(1100 * 2e-6 + 700 * 10e-6)
    assert 2 <= server.most <= 16


@pytest.mark.parametrize(
    "fault", ["429", "429:0.2", "500", "503", "hang", "close", "cut", "malformed", "nochoice", "errorbody", "trickle"]
)
def test_a_passing_fault_costs_a_retry_and_no_reply(server: Loopback, fault: str) -> None:
    with client(server, timeout=2.0 if fault in ("hang", "trickle") else 20.0) as engine:
        (reply,) = engine.generate([ask(f"a | faults={fault},{fault}")])
        assert engine.totals.retries == 2
    assert reply == Reply("reply to a", "stop", 11, 7)
    assert server.asked == {"a": 3}


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b'{"choices": [{"message": "text"}]}',
        b'{"choices": [{"message": {"content": ["text"]}}]}',
        b'{"choices": [{"message": {"content": "text"}}], "usage": [1]}',
        b'{"choices": [{"message": {"content": "text"}}], "usage": {"prompt_tokens": "many"}}',
    ],
)
def test_a_reply_of_another_form_is_malformed(body: bytes) -> None:
    with pytest.raises(Exception, match="malformed reply"):
        parse_reply(body)


def test_an_endless_body_is_left_before_it_fills_memory(server: Loopback) -> None:
    with client(server, timeout=60.0) as engine:
        start = time.monotonic()
        (reply,) = engine.generate([ask("a | faults=endless")])
    assert reply.text == "reply to a" and time.monotonic() - start < 30


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("empty", Reply("", "stop", 11, 7)),
        ("long", Reply("word " * 50, "length", 11, 7)),
        ("refusal", Reply("I cannot do that.", "refusal", 11, 7)),
    ],
)
def test_odd_answers_are_answers(server: Loopback, fault: str, expected: Reply) -> None:
    with client(server) as engine:
        assert list(engine.generate([ask(f"a | faults={fault}"), ask("b | reply=NA")])) == [
            expected,
            Reply("NA", "stop", 11, 7),
        ]
    assert server.asked == {"a": 1, "b": 1}


def test_retry_after_holds_back_every_request(server: Loopback) -> None:
    with client(server, concurrency=4) as engine:
        list(engine.generate([ask("first | faults=429:0.5"), *(ask(f"later {i} | delay=0.02") for i in range(20))]))
    times = dict(server.times)
    refused = next(t for name, t in server.times if name == "first")
    pause = [t - refused for name, t in server.times if t - refused > 0.1]
    assert min(pause) >= 0.49, "a request was sent during the pause"
    assert len(times) == 21 and server.asked["first"] == 2


def test_used_up_rate_limit_is_waited_for(server: Loopback) -> None:
    with client(server, concurrency=1) as engine:
        list(engine.generate([ask("a | faults=limit:400ms"), ask("b")]))
    (_, first), (_, second) = server.times
    assert second - first >= 0.4


def test_long_pauses_do_not_use_up_the_attempts(server: Loopback) -> None:
    with client(server, attempts=2) as engine:
        (reply,) = engine.generate([ask("a | faults=" + ",".join(["429"] * 8))])
    assert reply.text == "reply to a" and server.asked["a"] == 9


def test_forms_of_retry_after() -> None:
    from email.utils import formatdate

    assert retry_after({"retry-after": "7"}) == 7 and retry_after({"retry-after-ms": "250"}) == 0.25
    wait = retry_after({"retry-after": formatdate(time.time() + 30, usegmt=True)})
    assert wait is not None and 28 < wait <= 30
    assert retry_after({}) is None and retry_after({"retry-after": "soon"}) is None
    assert [duration(t) for t in ("6m0s", "20ms", "1.5s", "3", "1h2m", "", "soon")] == [360, 0.02, 1.5, 3, 3720, 0, 0]
    assert [duration(t) for t in ("1.2.3s", "." * 200_000, "1" * 200_000 + "x")] == [0, 0, 0]
    headers = {"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "9s"}
    assert seconds_until_reset(headers) == 0
    assert seconds_until_reset(headers | {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "2s"}) == 2


# ------------------------------------------------------------------------------------------------- refusals and stops


def test_a_rejected_request_is_reported_and_the_others_continue(server: Loopback, tmp_path: Path) -> None:
    overflow = "400:maximum+context+length+is+8192+tokens"
    requests = [ask("a"), ask(f"b | faults={overflow}"), ask("c | faults=400:bad+thing"), ask("d")]
    with client(server) as engine, ReplyStore(tmp_path) as store:
        replies = list(engine.generate(requests, store))
        assert [bool(reply.error) for reply in replies] == [False, True, True, False]
        assert replies[1].error.startswith("context overflow") and replies[2].error.startswith("refused")
        assert engine.totals.failed == 2 and len(store) == 2
        # Rejected requests are not stored, so that the next run sends them again, and only them.
        assert all(not reply.error for reply in engine.generate(requests, store))
    assert server.asked == {"a": 1, "b": 2, "c": 2, "d": 1}


def test_permanent_failure_of_one_request_is_an_error_reply(server: Loopback) -> None:
    with client(server, attempts=3) as engine:
        a, b = engine.generate([ask("a | faults=500,500,500,500"), ask("b")])
    assert a.error.startswith("status 500") and b.text == "reply to b" and server.asked["a"] == 3


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("401", "rejects"),
        ("404", "has no model m .*choose one of m"),
        ("quota", "no quota"),
        ("429:86400", "asks to retry after 86400 s"),
    ],
)
def test_hopeless_errors_stop_at_once_and_keep_what_is_done(
    server: Loopback, tmp_path: Path, fault: str, message: str
) -> None:
    requests = [*(ask(f"item {i}") for i in range(10)), ask(f"bad | faults={','.join([fault] * 50)} | delay=0.3")]
    requests += [ask(f"item {i}") for i in range(10, 2000)]
    with ReplyStore(tmp_path) as store:
        with client(server, concurrency=2) as engine, pytest.raises(EngineError, match=message):
            list(engine.generate(requests, store))
        assert 10 <= len(store) < 1990
        assert server.asked["bad"] == 1


def test_many_failures_in_a_row_stop(server: Loopback) -> None:
    requests = [ask(f"item {i} | faults=400:no+such+field") for i in range(100)]
    with (
        client(server, give_up_after=5) as engine,
        pytest.raises(EngineError, match=r"5 consecutive requests failed .*no such"),
    ):
        list(engine.generate(requests))
    assert sum(server.asked.values()) < 30


def test_an_unreachable_server_is_reported() -> None:
    engine = OpenAIServer("m", "http://127.0.0.1:9/v1", attempts=2, backoff=0.01)
    with engine, pytest.raises(EngineError, match=r"no server at http://127\.0\.0\.1:9/v1.*start the server"):
        list(engine.generate([ask("a")]))


def test_the_key_comes_from_the_environment_and_reaches_no_text(
    server: Loopback, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    secret = "sk-very-secret-0123456789"
    caplog.set_level(logging.DEBUG)
    with pytest.raises(EngineError, match="environment variable SCRAMBLE_TEST_KEY is unset or empty"):
        client(server, api_key_env="SCRAMBLE_TEST_KEY")
    monkeypatch.setenv("SCRAMBLE_TEST_KEY", secret)
    with client(server, api_key_env="SCRAMBLE_TEST_KEY") as engine, ReplyStore(tmp_path) as store:
        list(engine.generate([ask("a")], store))
        with pytest.raises(EngineError, match=r"the key in SCRAMBLE_TEST_KEY .*\*\*\*") as error:
            list(engine.generate([ask("b | faults=401")], store))
        assert secret not in repr(engine) + str(error.value)
    assert server.keys == {f"Bearer {secret}"}
    assert secret not in caplog.text
    assert all(secret not in file.read_text() for file in tmp_path.iterdir())
    with pytest.raises(EngineError, match="user name or a password") as refused:
        OpenAIServer("m", f"http://me:{secret}@localhost/v1")
    assert secret not in str(refused.value)


# -------------------------------------------------------------------------------------------------- what is asked for

SCHEMA = {"type": "object", "properties": {"caption": {"type": "string", "maxLength": 300}}, "required": ["caption"]}


def test_schema_is_sent_and_weakened_when_the_server_refuses_it(server: Loopback) -> None:
    with client(server) as engine:
        list(engine.generate([ask("a", schema=SCHEMA), ask("plain")]))
        unknown = "400:response_format+json_schema+is+not+supported"
        (reply,) = engine.generate([ask(f"b | faults={unknown},{unknown}", schema=SCHEMA)])
        list(engine.generate([ask("c", schema=SCHEMA)]))
    formats = [payload.get("response_format") for payload in server.payloads]
    full_format = {"type": "json_schema", "json_schema": {"name": "reply", "schema": SCHEMA, "strict": True}}
    sent = Counter(str(f) for f in formats)
    assert sent == {str(full_format): 2, "None": 3, str({"type": "json_object"}): 1}
    assert reply.text == "reply to b" and formats[-1] is None


def test_images_settings_and_seeds_are_sent(server: Loopback) -> None:
    png = b"\x89PNG\r\n\x1a\n rest"
    message = Message("user", "see", (png, b"\xff\xd8\xff jpeg"))
    requests = [Request((Message("system", "s"), message), temperature=0.7, top_p=0.9, sample=i) for i in (0, 1)]
    with client(server, extra_body={"top_k": 50}) as engine:
        list(engine.generate([*requests, ask("greedy", stop=("END",), max_tokens=5)]))
    first = next(p for p in server.payloads if p["temperature"] == 0.7)
    assert first["messages"][0] == {"role": "system", "content": "s"}
    parts = first["messages"][1]["content"]
    assert [part["type"] for part in parts] == ["image_url", "image_url", "text"]
    assert parts[0]["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
    assert parts[1]["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert first["top_k"] == 50 and first["top_p"] == 0.9
    assert len({p["seed"] for p in server.payloads if p["temperature"] == 0.7}) == 2
    greedy = next(p for p in server.payloads if p["temperature"] == 0)
    assert "seed" not in greedy and greedy["stop"] == ["END"] and greedy["max_tokens"] == 5


# ------------------------------------------------------------------------------------------------------------- resume


def test_stored_replies_and_equal_requests_are_not_asked_again(server: Loopback, tmp_path: Path) -> None:
    requests = [ask(f"item {i % 10} | delay=0.02") for i in range(40)]
    with client(server) as engine, ReplyStore(tmp_path) as store:
        first = list(engine.generate(requests, store))
        assert engine.totals.reused == 30
    assert server.asked == {f"item {i}": 1 for i in range(10)}
    changed = [ask(f"item {i} | delay=0.02", temperature=0.5 if i == 3 else 0.0) for i in range(12)]
    with client(server) as engine, ReplyStore(tmp_path) as store:
        assert list(engine.generate(changed, store))[:10] == first[:10]
        assert (engine.totals.num_requests, engine.totals.reused) == (3, 9)  # the changed request and the two new ones
    assert len(list(read_jsonl(tmp_path / "replies.jsonl"))) == 13


def test_a_consumer_that_leaves_early_stops_the_work(server: Loopback, tmp_path: Path) -> None:
    def endless() -> Any:
        i = 0
        while True:
            yield ask(f"item {i} | delay=0.02")
            i += 1

    with client(server, concurrency=4) as engine, ReplyStore(tmp_path) as store:
        stream: Any = engine.generate(endless(), store)
        assert next(stream).text == "reply to item 0"
        stream.close()
    assert sum(server.asked.values()) <= 4 * 4 + 4


WORKER = """
import sys
from scramble.engines import Message, ReplyStore, Request
from scramble.engines.openai_server import OpenAIServer
url, folder = sys.argv[1:]
requests = [
    Request((Message("user", f"item {i} | delay=0.02 | faults={'500' if i % 9 == 0 else ''}"),)) for i in range(300)
]
with OpenAIServer("m", url, concurrency=8, backoff=0.01) as engine, ReplyStore(folder) as store:
    print(len(store), flush=True)
    texts = [reply.text for reply in engine.generate(requests, store)]
assert texts == [f"reply to item {i}" for i in range(300)], texts
print("done", engine.totals.num_requests, flush=True)
"""


def test_a_kill_at_any_moment_loses_at_most_what_is_in_flight(server: Loopback, tmp_path: Path) -> None:
    """A job that is killed several times is completed by the next run. A message is answered twice only if its request
    was in flight when the job was killed."""
    for new in (17, 40, 3, 29, 60):
        before = sum(server.asked.values())
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, server.url, str(tmp_path)], stdout=subprocess.DEVNULL, text=True
        )
        while sum(server.asked.values()) < before + new:
            assert process.poll() is None, "the worker ended before it could be killed"
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
    stored = {row["key"] for row in read_jsonl(tmp_path / "replies.jsonl")}
    assert 0 < len(stored) < 300
    last = subprocess.run([sys.executable, "-c", WORKER, server.url, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert last.returncode == 0
    known, done = last.stdout.splitlines()
    assert int(known) == len(stored) and done == f"done {300 - len(stored)}"
    rows = list(read_jsonl(tmp_path / "replies.jsonl"))
    assert len(rows) == len({row["key"] for row in rows}) == 300
    # Each of the five kills may lose the eight replies in flight; every ninth message has a planned status 500.
    planned = {f"item {i}": 2 if i % 9 == 0 else 1 for i in range(300)}
    extra = sum(server.asked[name] - count for name, count in planned.items())
    assert 0 <= extra <= 5 * 8
