"""What is asked of a model and what comes back: requests, replies, and the content key that ties them."""

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
    """Asking on is pointless (no server, wrong key, wrong model, ...). The message says what to do."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. ``images`` are encoded images (PNG, JPEG, WebP, GIF bytes) that come before the text."""

    role: str
    text: str
    images: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt with its sampling settings.

    A last message by the assistant is the beginning of the answer: the reply is what follows it. ``temperature`` 0 is
    greedy; ``top_k`` 0 samples from all tokens. ``schema`` is a JSON schema that the reply must follow, where the
    engine can enforce it; cap every string (``maxLength``) and array (``maxItems``) in it, or a model may fill the
    reply with either. ``sample`` numbers repeated samples of one prompt.
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
        """Content key of this request to ``model``: everything that the reply depends on, images by their hash."""
        messages = [(m.role, m.text, [hashlib.sha256(i).hexdigest() for i in m.images]) for m in self.messages]
        settings = [self.temperature, self.top_p, self.max_tokens, self.seed, self.sample, self.stop]
        settings += [self.top_k] if self.top_k else []  # replies stored before there was one keep their key
        return content_key(model, messages, settings, self.schema)

    @property
    def continues(self) -> bool:
        """Whether the reply goes on from an answer that has been begun."""
        return self.messages[-1].role == "assistant"

    @property
    def sampling_seed(self) -> int:
        """A 31-bit seed that differs between prompts, images and samples."""
        images = [hashlib.sha256(image).hexdigest() for m in self.messages for image in m.images]
        texts = [m.text for m in self.messages]
        return int(content_key(self.seed, self.sample, texts, *images), 16) % (1 << 31)


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's answer, or why there is none.

    ``finish_reason`` is ``stop`` for a finished answer and ``length`` for one cut at ``max_tokens``; ``error`` is
    empty, or says in a few words why this request got no answer (such a reply is not stored: the next run asks
    again). Token counts are the engine's own; 0 where it gives none.
    """

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str = ""

    @property
    def finished(self) -> bool:
        """Whether the text is a whole answer."""
        return not self.error and self.finish_reason == "stop"


def reply_to_row(key: str, model: str, reply: Reply) -> dict[str, Any]:
    """The reply as one JSON line of the reply store."""
    return {"key": key, "model": model, **dataclasses.asdict(reply)}


def row_to_reply(row: Mapping[str, Any]) -> Reply:
    """The reply in one JSON line of the reply store."""
    return Reply(**{f.name: row[f.name] for f in dataclasses.fields(Reply)})


MEDIA_TYPES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif", b"RIFF": "image/webp"}


def encoded(image: ImageFile) -> bytes:
    """The image's bytes as they are sent: the file itself where every decoder makes the same pixels of it, else PNG.

    Servers drop transparency and clip deep greys, each in its own way; :mod:`scramble.pixels` says what is made of them
    here. Raises RecordError for a file in no format of theirs that cannot be decoded.
    """
    from PIL import Image, UnidentifiedImageError

    data = image.read()
    if data.startswith(tuple(MEDIA_TYPES)):
        try:
            with Image.open(io.BytesIO(data)) as opened:
                if is_plain(opened):
                    return data
        except (OSError, UnidentifiedImageError):
            return data  # the server has the last word on a file that Pillow does not know
    return png_bytes(image.open())


def data_url(image: bytes) -> str:
    """An encoded image as a ``data:`` URL. Raises ValueError if the format is none that servers take."""
    for magic, media_type in MEDIA_TYPES.items():
        if image.startswith(magic):
            return f"data:{media_type};base64,{base64.b64encode(image).decode()}"
    raise ValueError("image is neither PNG, JPEG, GIF nor WebP: convert it before it is sent")


def chat_messages(request: Request) -> list[dict[str, Any]]:
    """The messages in OpenAI's form; a turn without images is plain text (text-only servers take no lists)."""
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
