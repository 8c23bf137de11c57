"""Generates text with an OpenAI-compatible server, vLLM or transformers, and stores the replies.

from scramble import engines

with engines.open_engine("openai", model="...", base_url="http://localhost:8000/v1") as engine:
    with engines.ReplyStore(folder) as store:
        for reply in engine.generate(requests, store): ...
"""

from __future__ import annotations

from typing import Any

from scramble.engines.asking import ask_each
from scramble.engines.engine import Engine, Totals
from scramble.engines.replies import ReplyStore, in_shard
from scramble.engines.request import EngineError, Message, Reply, Request

ENGINE_KINDS = ("openai", "transformers", "vllm")

__all__ = [
    "ENGINE_KINDS",
    "Engine",
    "EngineError",
    "Message",
    "Reply",
    "ReplyStore",
    "Request",
    "Totals",
    "ask_each",
    "in_shard",
    "open_engine",
]


def open_engine(kind: str, **options: Any) -> Engine:
    """Create an engine of the given kind with the arguments of its class.

    Raises:
        EngineError: the kind is unknown, or the engine cannot work with these arguments.
    """
    if kind == "openai":
        from scramble.engines.openai_server import OpenAIServer

        return OpenAIServer(**options)
    if kind == "transformers":
        from scramble.engines.transformers_local import TransformersEngine

        return TransformersEngine(**options)
    if kind == "vllm":
        from scramble.engines.vllm_local import VLLMEngine

        return VLLMEngine(**options)
    raise EngineError(f"unknown engine {kind!r}: choose one of {', '.join(ENGINE_KINDS)}")
