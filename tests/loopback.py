"""Implements a chat-completion server on the loopback address that simulates faults on request.

The last message of a request specifies them: ``name | faults=429:0.2,500,hang | reply=text | delay=0.1``. The n-th
attempt at a message gets the n-th fault; after the last fault the server sends the reply (from ``answer``, if it is
set). The server implements HTTP/1.1 on raw sockets, so that it can also truncate a body or never end it.

Run as a program, it prints its port, and appends the name of each message to the file in its argument, if given.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

STATUS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}


def field(text: str, name: str, default: str) -> str:
    for part in text.split(" | "):
        if part.startswith(f"{name}="):
            return part[len(name) + 1 :]
    return default


def completion(text: str | None, finish_reason: str = "stop", **message: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    content = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    return json.dumps(content).encode()


class Loopback:
    """The server, which runs in a separate thread. ``asked`` counts attempts by message name, and ``most`` is the
    maximum number of concurrent requests.
    """

    def __init__(self, log: Path | None = None, answer: Callable[[str], str] | None = None) -> None:
        self.answer = answer
        self.answer_to: Callable[[dict[str, Any]], str] | None = None  # like answer, but it gets the whole request
        self.asked: Counter[str] = Counter()
        self.payloads: list[dict[str, Any]] = []
        self.times: list[tuple[str, float]] = []
        self.keys: set[str] = set()
        self.most = self._now = 0
        self._log = log
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        ready.wait()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _stop(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _run(self, ready: threading.Event) -> None:
        async def start() -> None:
            server = await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=1024)
            self.port = server.sockets[0].getsockname()[1]
            ready.set()

        self._loop.run_until_complete(start())
        self._loop.run_forever()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = head.split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:]) if k}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        if lines[0].startswith("GET /v1/models"):
            await self._send(writer, 200, json.dumps({"object": "list", "data": [{"id": "m", "object": "model"}]}))
            return True
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            return await self._answer(writer, json.loads(body), headers)
        finally:
            self._now -= 1

    async def _answer(self, writer: asyncio.StreamWriter, payload: dict[str, Any], headers: dict[str, str]) -> bool:
        content = payload["messages"][-1]["content"]
        text = content if isinstance(content, str) else content[-1]["text"]
        name = text.split(" | ")[0]
        faults = [f for f in field(text, "faults", "").split(",") if f]
        attempt = self.asked[name]
        self.asked[name] += 1
        self.payloads.append(payload)
        self.times.append((name, time.monotonic()))
        self.keys.add(headers.get("authorization", ""))
        if self._log is not None:
            with self._log.open("a") as file:
                file.write(name + "\n")
        await asyncio.sleep(float(field(text, "delay", "0")))
        if attempt < len(faults):
            return await self._fault(writer, faults[attempt], headers)
        reply = self.answer(text) if self.answer else field(text, "reply", f"reply to {name}")
        if self.answer_to is not None:
            reply = self.answer_to(payload)
        await self._send(writer, 200, completion(reply))
        return True

    async def _fault(self, writer: asyncio.StreamWriter, fault: str, headers: dict[str, str]) -> bool:
        kind, _, value = fault.partition(":")
        if kind == "429":
            extra = {"Retry-After": value} if value else {}
            await self._send(writer, 429, json.dumps({"error": {"message": "slow down"}}), extra)
        elif kind == "429date":
            await self._send(writer, 429, "{}", {"Retry-After": formatdate(time.time() + float(value), usegmt=True)})
        elif kind == "quota":
            await self._send(writer, 429, json.dumps({"error": {"code": "insufficient_quota", "message": "no money"}}))
        elif kind == "limit":
            extra = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": value}
            await self._send(writer, 200, completion("limited"), extra)
        elif kind in ("500", "503"):
            await self._send(writer, int(kind), "<html>oops</html>")
        elif kind == "hang":
            await asyncio.sleep(3600)
        elif kind == "close":
            return False
        elif kind == "cut":
            whole = completion("a truncated reply")
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(whole)}\r\n\r\n".encode() + whole[:40])
            await writer.drain()
            return False
        elif kind == "endless":
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                writer.write(b"10000\r\n" + b" " * 65536 + b"\r\n")
                await writer.drain()
        elif kind == "trickle":
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                writer.write(b"1\r\n \r\n")
                await writer.drain()
                await asyncio.sleep(0.05)
        elif kind == "malformed":
            await self._send(writer, 200, completion("x")[:-20])
        elif kind == "nochoice":
            await self._send(writer, 200, '{"choices": []}')
        elif kind == "errorbody":
            await self._send(writer, 200, '{"error": {"message": "upstream died"}}')
        elif kind == "empty":
            await self._send(writer, 200, completion(""))
        elif kind == "long":
            await self._send(writer, 200, completion("word " * 50, "length"))
        elif kind == "refusal":
            await self._send(writer, 200, completion(None, refusal="I cannot do that."))
        elif kind == "400":
            await self._send(writer, 400, json.dumps({"error": {"message": value.replace("+", " ")}}))
        elif kind == "401":
            key = headers.get("authorization", "").removeprefix("Bearer ")
            await self._send(writer, 401, json.dumps({"error": {"message": f"Incorrect API key provided: {key}"}}))
        elif kind == "404":
            await self._send(writer, 404, json.dumps({"error": {"message": "The model does not exist"}}))
        else:
            raise ValueError(fault)
        return True

    async def _send(
        self, writer: asyncio.StreamWriter, status: int, body: bytes | str, headers: dict[str, str] | None = None
    ) -> None:
        data = body.encode() if isinstance(body, str) else body
        lines = [f"HTTP/1.1 {status} {STATUS.get(status, 'Error')}", "Content-Type: application/json"]
        lines += [f"Content-Length: {len(data)}", *(f"{k}: {v}" for k, v in (headers or {}).items())]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
        await writer.drain()


if __name__ == "__main__":
    server = Loopback(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    print(server.port, flush=True)
    threading.Event().wait()
