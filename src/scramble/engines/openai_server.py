"""Implements a client for servers with OpenAI's chat completions API, such as vLLM, SGLang, TGI, Ollama and OpenAI."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any
from urllib.parse import urlsplit

from scramble.engines.engine import Engine, Keep
from scramble.engines.rate_limits import Gate, retry_after, seconds_until_reset
from scramble.engines.request import EngineError, Reply, Request, chat_messages

log = logging.getLogger(__name__)

MAX_REPLY_BYTES = 16 << 20
MAX_MESSAGE = 300  # maximum number of characters quoted from a server's error message
WEAKER = {"json_schema": "json_object", "json_object": "none"}


class _Transient(Exception):
    """Raised after a failure that may be temporary. The request is then retried."""

    def __init__(self, reason: str, *, wait: float | None = None, limited: bool = False, no_server: bool = False):
        super().__init__(reason)
        self.wait = wait
        self.limited = limited
        self.no_server = no_server


class _Refused(Exception):
    """Raised if the server will never answer a request. The request is then not retried."""


class _NoStructure(Exception):
    """Raised if the server does not support a ``response_format``."""


class OpenAIServer(Engine):
    """Sends requests to a server with OpenAI's chat completions API.

    One thread runs the event loop. The number of concurrent requests is bounded, and the server's rate limits are
    respected. Transient failures (connection errors, timeouts, statuses 408, 409, 429 and 5xx, and truncated or
    malformed replies) are retried after a pause, which is random unless the server specifies its length. A request that
    the server rejects, for example because the context overflows, results in an error reply. EngineError is raised if
    the key or the model is wrong, if the server is unreachable, or if ``give_up_after`` consecutive requests fail.
    """

    def __init__(
        self,
        model: str,
        base_url: str,
        *,
        api_key_env: str | None = None,
        concurrency: int = 64,
        timeout: float = 300.0,
        attempts: int = 6,
        backoff: float = 1.0,
        max_backoff: float = 60.0,
        patience: float = 3600.0,
        give_up_after: int = 16,
        structured: str = "json_schema",
        extra_body: Mapping[str, Any] | None = None,
        price_prompt: float = 0.0,
        price_completion: float = 0.0,
    ) -> None:
        """
        Args:
            base_url: the server's address up to and including ``/v1``.
            api_key_env: name of the environment variable that contains the key; None if the server needs no key.
            concurrency: maximum number of requests in flight.
            timeout: seconds for one attempt, from sending to the last byte.
            attempts: maximum number of attempts per request, not counting attempts that were rate-limited.
            backoff: maximum of the first pause in seconds. The maximum doubles with each attempt up to ``max_backoff``,
                and each pause is drawn uniformly between 0 and this maximum (full jitter).
            patience: seconds of rate limiting after which the client gives up on a request.
            structured: form in which a request's schema is sent (``json_schema``, ``json_object`` or ``none``). If the
                server rejects a form, the next weaker form is used.
            extra_body: fields to add to each request, for example fields that are not in OpenAI's API.
            price_prompt, price_completion: prices per million tokens, for the totals.

        Raises:
            EngineError: the environment variable is unset or empty, or ``base_url`` is not a URL or contains a user
                name or a password.
        """
        super().__init__(price_prompt=price_prompt, price_completion=price_completion)
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise EngineError("base_url must be a URL like http://localhost:8000/v1")
        if parts.username or parts.password:
            raise EngineError(
                "base_url contains a user name or a password: remove them, and set api_key_env to the name of an "
                "environment variable that contains the key"
            )
        key = "none" if api_key_env is None else os.environ.get(api_key_env, "")
        if not key:
            raise EngineError(f"the environment variable {api_key_env} is unset or empty: set it to the API key")
        self.model = model
        self.base_url = base_url
        self.window = 4 * concurrency
        self._key, self._key_env = key, api_key_env
        self._timeout, self._attempts, self._patience = timeout, attempts, patience
        self._backoff, self._max_backoff = backoff, max_backoff
        self._give_up_after, self._failed_in_a_row = give_up_after, 0
        self._structured, self._extra_body = structured, dict(extra_body or {})
        self._fatal: EngineError | None = None
        self._gate = Gate()
        self._slots = asyncio.Semaphore(concurrency)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="openai-server", daemon=True)
        self._thread.start()
        self._client = asyncio.run_coroutine_threadsafe(self._connect(), self._loop).result()

    def __repr__(self) -> str:
        return f"OpenAIServer({self.model!r}, {self.base_url!r})"

    async def _connect(self) -> Any:
        import openai

        timeout = openai.Timeout(self._timeout, connect=min(10.0, self._timeout))
        return openai.AsyncOpenAI(api_key=self._key, base_url=self.base_url, max_retries=0, timeout=timeout)

    def submit(self, request: Request, keep: Keep | None = None) -> Future[Reply]:
        return asyncio.run_coroutine_threadsafe(self._answer(request, keep), self._loop)

    def close(self) -> None:
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _shut_down(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.close()

    async def _answer(self, request: Request, keep: Keep | None) -> Reply:
        async with self._slots:
            try:
                reply = await self._ask_until_answered(request)
            except _Refused as error:
                reply = Reply("", error=str(error))
            except _Transient as error:
                if error.no_server:
                    self._fatal = EngineError(
                        f"there is no server at {self.base_url} ({error}): start the server, or correct base_url. "
                        "The answers received so far are stored"
                    )
                reply = Reply("", error=str(error))
            except EngineError as error:
                self._fatal = error
            if self._fatal is not None:
                raise self._fatal
            self._failed_in_a_row = self._failed_in_a_row + 1 if reply.error else 0
            if self._failed_in_a_row >= self._give_up_after:
                self._fatal = EngineError(
                    f"{self._failed_in_a_row} consecutive requests failed at {self.base_url}. Last error: "
                    f"{reply.error}. Fix the cause and run the command again: it resumes from the stored answers"
                )
                raise self._fatal
            if keep is not None:
                keep(reply)
            return reply

    async def _ask_until_answered(self, request: Request) -> Reply:
        import tenacity

        jittered = tenacity.wait_random_exponential(multiplier=self._backoff, max=self._max_backoff)
        failures = 0

        def stop(state: tenacity.RetryCallState) -> bool:
            nonlocal failures
            error = state.outcome.exception() if state.outcome else None
            if isinstance(error, _Transient) and error.limited:
                return (state.seconds_since_start or 0.0) > self._patience
            failures += 1
            return failures >= self._attempts

        def wait(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            requested = error.wait if isinstance(error, _Transient) else None
            return jittered(state) if requested is None else requested

        def count(_: tenacity.RetryCallState) -> None:
            self.totals.retries += 1

        retrying = tenacity.AsyncRetrying(
            stop=stop, wait=wait, before_sleep=count, reraise=True, retry=tenacity.retry_if_exception_type(_Transient)
        )
        return await retrying(self._ask, request)

    async def _ask(self, request: Request) -> Reply:
        """Send a request once."""
        import openai

        await self._gate.wait()
        if self._fatal is not None:
            raise self._fatal
        structured = self._structured if request.schema is not None else "none"
        try:
            async with asyncio.timeout(self._timeout):
                headers, body = await self._exchange(self._payload(request, structured))
        except (TimeoutError, openai.APITimeoutError) as error:
            raise _Transient(f"no answer within {self._timeout:g} s") from error
        except openai.APIStatusError as error:
            failure = await self._classified(error, structured)
            if isinstance(failure, _NoStructure):
                if self._structured == structured:
                    self._structured = WEAKER[structured]
                    log.warning(
                        "%s does not support response_format %s, so %s is used", self, structured, self._structured
                    )
                return await self._ask(request)
            raise failure from error
        except openai.APIConnectionError as error:
            cause = str(error.__cause__ or error)
            raise _Transient(self._scrubbed(f"connection failed: {cause}"), no_server=_is_refusal(error)) from error
        except _transport_errors() as error:
            raise _Transient(self._scrubbed(f"reply truncated: {error}")) from error
        self._gate.hold(min(seconds_until_reset(headers), self._patience))
        return parse_reply(body)

    async def _exchange(self, payload: dict[str, Any]) -> tuple[Mapping[str, str], bytes]:
        """Return the headers and body of a response. The body is read in chunks, up to a size limit."""
        create = self._client.chat.completions.with_streaming_response.create
        async with create(**payload) as response:
            pieces, size = [], 0
            async for piece in response.iter_bytes():
                pieces.append(piece)
                size += len(piece)
                if size > MAX_REPLY_BYTES:
                    raise _Transient(f"endless reply: over {MAX_REPLY_BYTES >> 20} MiB")
            return response.headers, b"".join(pieces)

    def _payload(self, request: Request, structured: str) -> dict[str, Any]:
        body: dict[str, Any] = {
            "messages": chat_messages(request),
            "temperature": request.temperature,
            "top_p": request.top_p,
            "max_tokens": request.max_tokens,
        }
        if request.temperature > 0:
            body["seed"] = request.sampling_seed
        if request.top_k:
            body["top_k"] = request.top_k  # supported by vLLM, SGLang and others, but not by OpenAI
        if request.continues:
            body |= {"add_generation_prompt": False, "continue_final_message": True}  # not supported by OpenAI either
        if request.stop:
            body["stop"] = list(request.stop)
        if structured == "json_schema":
            schema = {"name": "reply", "schema": request.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif structured == "json_object":
            body["response_format"] = {"type": "json_object"}
        # All fields except the model are sent as extra fields, because the library traverses all other fields to no
        # effect, which takes a tenth of its total time.
        return {"model": self.model, "messages": [], "extra_body": body | self._extra_body}

    async def _classified(self, error: Any, structured: str) -> Exception:
        """Return the exception to raise for a response with an error status."""
        status = error.status_code
        message = self._scrubbed(_message(error))
        what = f"status {status}: {message}"
        if status in (401, 403):
            if self._key_env:
                return EngineError(f"{self.base_url} rejects the key in {self._key_env} ({what}): correct the key")
            return EngineError(
                f"{self.base_url} rejects requests without a key ({what}): set api_key_env to the name of an "
                "environment variable that contains the key"
            )
        if status == 404:
            return EngineError(f"{self.base_url} has no model {self.model} ({what}){await self._offered()}")
        if status == 429 and "insufficient_quota" in message:
            return EngineError(f"the account at {self.base_url} has no quota left ({message}): raise the quota")
        if status in (408, 409, 429) or status >= 500:
            wait = retry_after(error.response.headers)
            if wait is None and status == 429:
                wait = seconds_until_reset(error.response.headers) or None
            if wait is not None and wait > self._patience:
                return EngineError(
                    f"{self.base_url} asks to retry after {wait:.0f} s ({what}): run the command again later, or raise "
                    f"patience, which is {self._patience:g} s"
                )
            if wait is not None:
                self._gate.hold(wait)
            return _Transient(what, wait=wait, limited=status == 429)
        lowered = message.lower()
        if structured != "none" and ("response_format" in lowered or "json_schema" in lowered):
            return _NoStructure(what)
        if "context" in lowered and ("length" in lowered or "token" in lowered or "window" in lowered):
            return _Refused(f"context overflow ({what})")
        return _Refused(f"refused ({what})")

    async def _offered(self) -> str:
        import openai

        try:
            async with asyncio.timeout(10):
                models = [model.id async for model in self._client.models.list()]
        except (TimeoutError, openai.OpenAIError):
            models = []
        return f": choose one of {', '.join(models[:20])}" if models else ": correct the name of the model"

    def _scrubbed(self, text: str) -> str:
        if self._key_env is not None:
            text = text.replace(self._key, "***")
        return text if len(text) <= MAX_MESSAGE else text[:MAX_MESSAGE] + " ..."


def parse_reply(body: bytes) -> Reply:
    """Return the reply in the body of a chat completion. Raises _Transient if the body is malformed."""
    try:
        content = json.loads(body)
        choice = content["choices"][0]
        message = choice["message"]
        usage = content.get("usage") or {}
        text, reason = message.get("content"), choice.get("finish_reason") or "stop"
        if text is None and message.get("refusal"):
            text, reason = message["refusal"], "refusal"
        # Unpaired surrogates cannot be encoded as UTF-8.
        text = "" if text is None else text.encode(errors="replace").decode()
        prompt_tokens, completion_tokens = (int(usage.get(f"{what}_tokens") or 0) for what in ("prompt", "completion"))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise _Transient(f"malformed reply ({type(error).__name__}): {body[:80]!r}") from error
    return Reply(text, reason, prompt_tokens, completion_tokens)


def _message(error: Any) -> str:
    body = error.body
    if isinstance(body, Mapping):
        inner = body.get("error", body)
        if isinstance(inner, Mapping):
            return " ".join(str(inner[k]) for k in ("code", "message", "detail") if inner.get(k)) or str(dict(inner))
        return str(inner)
    return str(body or error)


def _is_refusal(error: BaseException | None) -> bool:
    """Return whether an error means that no connection was made (connection refused, unknown host name, ...)."""
    import socket

    while error is not None:
        if isinstance(error, ConnectionRefusedError | socket.gaierror) or type(error).__name__ == "ConnectError":
            return True
        error = error.__cause__ or error.__context__
    return False


def _transport_errors() -> tuple[type[BaseException], ...]:
    """Return the errors of the client's HTTP library: httpx2 for openai 3 or later, otherwise httpx."""
    try:
        import httpx2

        return (httpx2.HTTPError, httpx2.StreamError)
    except ImportError:
        import httpx

        return (httpx.HTTPError, httpx.StreamError)
