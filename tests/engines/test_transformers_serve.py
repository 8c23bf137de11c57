"""Tests the client with a real server: ``transformers serve`` with a tiny random model."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from scramble.engines import EngineError, Message, ReplyStore, Request
from scramble.engines.openai_server import OpenAIServer
from scramble.engines.transformers_local import TransformersEngine

NEEDED = ("fastapi", "uvicorn")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"`transformers serve` needs {', '.join(MISSING)}: pip install transformers[serving]"
)
START = 180  # maximum number of seconds for the server to start on a busy machine


@pytest.fixture(scope="module")
def url(text_model: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(text_model)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    process = subprocess.Popen(
        command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        deadline = time.monotonic() + START
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except (urllib.error.URLError, OSError):
                if process.poll() is not None or time.monotonic() > deadline:
                    process.kill()
                    output = process.stdout.read() if process.stdout else ""
                    pytest.fail(f"transformers serve did not start:\n{output[-2000:]}")
                time.sleep(0.3)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


def ask(text: str, **settings: object) -> Request:
    return Request((Message("user", text),), max_tokens=6, **settings)  # type: ignore[arg-type]


def test_served_replies_are_the_models_own(url: str, text_model: Path, tmp_path: Path) -> None:
    requests = [ask(text) for text in ("A red circle.", "a small yellow star", "What is above the green triangle?")]
    with OpenAIServer(str(text_model), url, concurrency=2, timeout=60) as engine, ReplyStore(tmp_path) as store:
        served = list(engine.generate(requests, store))
        assert engine.totals.failed == 0 and engine.totals.completion_tokens > 0
        assert list(engine.generate(requests, store)) == served and engine.totals.reused == 3
    own = list(TransformersEngine(text_model).generate(requests))
    assert [reply.text for reply in served] == [reply.text for reply in own]
    assert [reply.prompt_tokens for reply in served] == [reply.prompt_tokens for reply in own]


def test_sampling_and_an_unsupported_schema(url: str, text_model: Path) -> None:
    with OpenAIServer(str(text_model), url, concurrency=2, timeout=60) as engine:
        schema = {"type": "object", "properties": {"caption": {"type": "string", "maxLength": 20}}}
        replies = list(engine.generate([ask("A star.", temperature=0.8, top_p=0.9, sample=i) for i in range(4)]))
        (structured,) = engine.generate([ask("A star.", schema=schema)])
    assert not any(reply.error for reply in replies) and len({reply.text for reply in replies}) > 1
    assert not structured.error


def test_a_wrong_model_name_stops(url: str) -> None:
    engine = OpenAIServer("nobody/nothing", url, timeout=60, attempts=2, backoff=0.1, give_up_after=2)
    with engine, pytest.raises(EngineError, match="nobody/nothing"):
        list(engine.generate([ask(f"item {i}") for i in range(8)]))
