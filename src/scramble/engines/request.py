"""Defines requests to a model, the replies, and the content key under which a reply is stored."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from scramble.pixels import is_plain, png_bytes
from scramble.records import ImageFile
from scramble.storage.hashing import content_key


class EngineError(RuntimeError):
    """Raised if no further request can succeed because of the server, model or key. The message says what to change."""


@dataclass(frozen=True, slots=True)
class Message:
    """Represents a turn of a conversation. ``images`` are the bytes of image files, which precede the text."""

    role: str
    text: str
    images: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """Represents a prompt with its sampling settings.

    If the last message is the assistant's, this message is the beginning of the answer, and the reply continues it.
    ``temperature=0`` means greedy decoding, and ``top_k=0`` means sampling from all tokens. ``schema`` is a JSON schema
    for the reply. The schema is enforced if the engine supports schemas. Limit the length of every string
    (``maxLength``) and array (``maxItems``) in the schema, because a model may otherwise generate an endless string or
    array. ``sample`` distinguishes repeated samples of the same prompt.
    """

    messages: tuple[Message, ...]
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 256
    seed: int = 0
    sample: int = 0
    stop: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = field(default=None, hash=False)

    def key(self, model: str) -> str:
        """Return the content key of this request to ``model``: a hash of everything that the reply depends on."""
        messages = [(m.role, m.text, [hashlib.sha256(i).hexdigest() for i in m.images]) for m in self.messages]
        settings = [self.temperature, self.top_p, self.max_tokens, self.seed, self.sample, self.stop]
        settings += [self.top_k] if self.top_k else []  # so that older stored replies keep their keys
        return content_key(model, messages, settings, self.schema)

    @property
    def continues(self) -> bool:
        """Whether the reply continues the beginning of an answer."""
        return self.messages[-1].role == "assistant"

    @property
    def sampling_seed(self) -> int:
        """A 31-bit seed that differs between prompts, images and samples."""
        images = [hashlib.sha256(image).hexdigest() for m in self.messages for image in m.images]
        texts = [m.text for m in self.messages]
        return int(content_key(self.seed, self.sample, texts, *images), 16) % (1 << 31)


@dataclass(frozen=True, slots=True)
class Reply:
    """Holds a model's answer, or the reason why there is no answer.

    ``finish_reason`` is ``stop`` for a complete answer and ``length`` for an answer truncated at ``max_tokens``.
    ``error`` is empty or the reason why there is no answer. A reply with an error is not stored, so that the next run
    repeats the request. The engine reports the token counts; a count that it does not report is 0.
    """

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str = ""

    @property
    def fault(self) -> str:
        """The reason why the text is not a complete answer, or "" if it is one."""
        if self.error:
            return f"no reply: {self.error.split(' (')[0]}"
        if self.finish_reason == "length":
            return "reply truncated at the token limit"
        if self.finish_reason != "stop":
            return f"reply ended by {self.finish_reason}"
        return "" if self.text.strip() else "empty reply"


def reply_to_row(key: str, model: str, reply: Reply) -> dict[str, Any]:
    """Convert a reply to a JSON row of the reply store."""
    return {"key": key, "model": model, **dataclasses.asdict(reply)}


def row_to_reply(row: Mapping[str, Any]) -> Reply:
    """Convert a JSON row of the reply store to a reply."""
    return Reply(**{f.name: row[f.name] for f in dataclasses.fields(Reply)})


MEDIA_TYPES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif", b"RIFF": "image/webp"}


def encoded(image: ImageFile) -> bytes:
    """Return the bytes to send for an image: the unchanged file if all decoders agree on its pixels, otherwise a PNG.

    Servers convert transparency and 16-bit greys in different ways, so images with these properties are converted by
    :mod:`scramble.pixels` before they are sent. Raises RecordError if the file must be converted but cannot
    be decoded.
    """
    from PIL import Image, UnidentifiedImageError

    data = image.read()
    if data.startswith(tuple(MEDIA_TYPES)):
        try:
            with Image.open(io.BytesIO(data)) as opened:
                if is_plain(opened):
                    return data
        except (OSError, UnidentifiedImageError):
            return data  # the server may support a file that Pillow cannot decode
    return png_bytes(image.open())


def data_url(image: bytes) -> str:
    """Return an encoded image as a ``data:`` URL. Raises ValueError if servers do not accept its format."""
    for magic, media_type in MEDIA_TYPES.items():
        if image.startswith(magic):
            return f"data:{media_type};base64,{base64.b64encode(image).decode()}"
    raise ValueError("the image is not a PNG, JPEG, GIF or WebP file: convert it to one of these formats")


def chat_messages(request: Request) -> list[dict[str, Any]]:
    """Return the messages in OpenAI's format.

    The content of a turn without images is a string, because text-only servers reject lists.
    """
    turns: list[dict[str, Any]] = []
    for message in request.messages:
        if not message.images:
            turns.append({"role": message.role, "content": message.text})
            continue
        parts: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": data_url(image)}} for image in message.images
        ]
        turns.append({"role": message.role, "content": [*parts, {"type": "text", "text": message.text}]})
    return turns
