"""Measure how much more CPU time the engine needs than the plain client library for the same requests.

    python benchmarks/engine_overhead.py --requests 1000 --concurrency 64

The server runs in a separate process, so only the client's CPU time is measured. "bare" is ``openai.AsyncOpenAI`` with
a semaphore; "engine" adds retries, deadlines, rate limits, ordering and the reply store on disk. Both are measured
alternately, and the median over rounds is reported, because other work on a shared machine affects individual rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scramble.engines import Message, ReplyStore, Request
from scramble.engines.openai_server import OpenAIServer

SERVER = Path(__file__).parents[1] / "tests" / "loopback.py"
CAPTION = "A man in a red coat walks a small dog along the wet street past a row of parked cars. "


def prompts(count: int, length: int) -> list[str]:
    body = (CAPTION * (1 + length // len(CAPTION)))[:length]
    return [f"item {i} {body}" for i in range(count)]


def bare(url: str, texts: list[str], concurrency: int) -> list[str]:
    """Request all replies with the client library alone and return them."""
    import openai

    async def run() -> list[str]:
        slots = asyncio.Semaphore(concurrency)
        async with openai.AsyncOpenAI(api_key="none", base_url=url, max_retries=0) as client:

            async def one(text: str) -> str:
                async with slots:
                    done = await client.chat.completions.create(
                        model="m",
                        messages=[{"role": "user", "content": text}],
                        temperature=0.2,
                        top_p=0.9,
                        max_tokens=800,
                        seed=1,
                    )
                    return done.choices[0].message.content or ""

            return await asyncio.gather(*(one(text) for text in texts))

    return asyncio.run(run())


def engine(url: str, texts: list[str], concurrency: int) -> list[str]:
    """Request all replies through the engine, which stores each reply on disk, and return them."""
    requests = (Request((Message("user", text),), temperature=0.2, top_p=0.9, max_tokens=800) for text in texts)
    with (
        tempfile.TemporaryDirectory() as folder,
        OpenAIServer("m", url, concurrency=concurrency) as client,
        ReplyStore(folder) as store,
    ):
        return [reply.text for reply in client.generate(requests, store)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument(
        "--prompt-chars",
        type=int,
        default=5000,
        help="length of a prompt in characters (the shipped prompt has about 5,000)",
    )
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    texts = prompts(args.requests, args.prompt_chars)
    server = subprocess.Popen([sys.executable, str(SERVER)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        ways = {"bare": bare, "engine": engine}
        for way in ways.values():  # imports and first connections are not counted
            way(url, texts[:64], args.concurrency)
        cpu: dict[str, list[float]] = {name: [] for name in ways}
        wall: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(args.rounds):
            for name, way in ways.items():
                start_cpu, start = time.process_time(), time.perf_counter()
                replies = way(url, texts, args.concurrency)
                cpu[name].append(time.process_time() - start_cpu)
                wall[name].append(time.perf_counter() - start)
                assert len(replies) == args.requests
    finally:
        server.kill()
        server.wait()
    print(f"{args.requests} requests, concurrency {args.concurrency}, {args.prompt_chars} characters per prompt")
    for name in ways:
        seconds = statistics.median(cpu[name])
        print(
            f"{name:>8}: {seconds:.3f} s CPU ({1e3 * seconds / args.requests:.2f} ms per request; "
            f"{min(cpu[name]):.3f} to {max(cpu[name]):.3f}), {statistics.median(wall[name]):.2f} s"
        )
    extra = statistics.median(cpu["engine"]) / statistics.median(cpu["bare"]) - 1
    print(f"overhead of the engine compared with the bare client: {100 * extra:+.1f} % CPU")


if __name__ == "__main__":
    main()
