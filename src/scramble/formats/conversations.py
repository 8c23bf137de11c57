"""Parses conversations in rows of other projects. The messages have the keys of OpenAI or ShareGPT.

A message is ``{role, content}`` or ``{from, value}``. The content is a text, in which ``<image>`` marks the position of
an image, or a list of typed parts (``{"type": "image"}``, ``{"type": "text", "text": ...}``). A part of type
``image_url`` contains the data URL or the path of an image.
"""

from __future__ import annotations

import ast
import base64
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from scramble.console import counted
from scramble.formats.bad_rows import FormatError
from scramble.records import Turn

IMAGE = "<image>"
# ShareGPT's names, and OpenAI's newer name of the system prompt. All other roles have the names of chat templates.
ROLES = {"human": "user", "gpt": "assistant", "developer": "system"}


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """Represents one message of a conversation.

    Attributes:
        text: the text. Image placeholders are removed, except from messages of the assistant and from typed parts.
        num_places: number of image placeholders, or of typed parts that are images.
        images: the images that typed parts contain; most formats store images in a separate column instead.
    """

    role: str
    text: str
    num_places: int = 0
    images: tuple[Any, ...] = ()


def messages_of(value: Any, what: str) -> list[ChatMessage]:
    """Return the messages of a conversation. A plain string is returned as one message of the user.

    Raises FormatError if the value is not a conversation. The error message refers to the value as ``what``.
    """
    value = _parsed(value)
    if isinstance(value, str):
        return [_plain_message("user", value)]
    values = [value] if isinstance(value, Mapping) else value
    if not isinstance(values, list) or not values:
        raise FormatError(f"{what} is not a string")
    return [_message(one, what) for one in values]


def answer_of(value: Any, what: str) -> tuple[list[ChatMessage], str]:
    """Return the messages before an answer, and the text of the answer.

    ``value`` is a plain string, a message, or a conversation that ends with the answer. Raises FormatError if the
    conversation does not end with a turn by the assistant.
    """
    value = _parsed(value)
    if isinstance(value, str):
        return [], value.strip()
    *before, last = messages_of(value, what)
    if last.role != "assistant":
        raise FormatError(f"{what} ends with a turn by {last.role}, not by the assistant")
    return before, last.text


def answers_of(value: Any, what: str) -> tuple[list[ChatMessage], tuple[str, ...]]:
    """Return the messages before one or several answers, and the texts of the answers.

    A list of strings contains several answers. Any other value contains one answer (see :func:`answer_of`).
    """
    if isinstance(value, list) and value and all(isinstance(text, str) for text in value):
        return [], tuple(dict.fromkeys(text.strip() for text in value))
    before, text = answer_of(value, what)
    return before, (text,)


def same_conversation(first: Sequence[ChatMessage], second: Sequence[ChatMessage]) -> bool:
    """Return whether two conversations have the same roles and texts. Image placeholders are not compared."""
    return [(one.role, one.text.strip()) for one in first] == [(one.role, one.text.strip()) for one in second]


def history_and_prompt(messages: Sequence[ChatMessage], num_images: int) -> tuple[tuple[Turn, ...], str]:
    """Return the turns before the prompt, each with its number of images, and the prompt, which is the text of the last
    message.

    Without placeholders, all images are assigned to the first message of the user.

    Raises:
        FormatError: the last message is not the user's, or the number of placeholders is neither 0 nor
            ``num_images``.
    """
    if not messages:
        return (), ""
    *before, last = messages
    if last.role != "user":
        raise FormatError(f"the prompt ends with a turn by {last.role}, not by the user")
    places = [message.num_places for message in messages]
    if sum(places) != num_images:
        if sum(places):
            raise FormatError(f"{counted(sum(places), 'image placeholders')} for {counted(num_images, 'images')}")
        places = [0] * len(messages)
        first = next(number for number, message in enumerate(messages) if message.role == "user")
        places[first] = num_images
    turns = [Turn(message.role, message.text, count) for message, count in zip(before, places, strict=False)]
    return tuple(turns), last.text


def require_string(value: Any, what: str) -> str:
    """Return the value if it is a string.

    Raises FormatError for any other value. The error message refers to the value as ``what``.
    """
    if not isinstance(value, str):
        raise FormatError(f"{what} is not a string")
    return value


def _parsed(value: Any) -> Any:
    """Parse a conversation that is stored as a string (JSON or Python syntax). Other values are returned unchanged."""
    if not isinstance(value, str) or not _CONVERSATION.match(value):
        return value
    parsed = None
    with suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        try:
            parsed = json.loads(value, strict=False)
        except ValueError:
            parsed = ast.literal_eval(value.strip())
    turns = [parsed] if isinstance(parsed, Mapping) else parsed
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        raise FormatError("a conversation stored as a string cannot be parsed (write it as JSON)")
    return parsed


# The possessive quantifiers (*+) keep the time linear in the number of leading blanks.
_CONVERSATION = re.compile(r"""\s*+\[?\s*+\{\s*+["'](role|content|from|value)["']\s*:""")


def _plain_message(role: str, text: str) -> ChatMessage:
    if role == "assistant":  # only the user sends images, so a placeholder here is text, which training rejects
        return ChatMessage(role, text.strip())
    return ChatMessage(role, text.replace(IMAGE, "").strip(), text.count(IMAGE))


def _message(value: Any, what: str) -> ChatMessage:
    if not isinstance(value, Mapping):
        raise FormatError(f"{what} is not a string")
    keys = ("from", "value") if "from" in value else ("role", "content")
    role, content = (value.get(key) for key in keys)
    if not isinstance(role, str):
        raise FormatError(f"{what}: a turn has neither the key 'role' nor the key 'from'")
    if value.get("tool_calls"):
        raise FormatError("tool calls are not supported: remove rows with tool_calls")
    role = ROLES.get(role, role)
    if not isinstance(content, list):
        return _plain_message(role, require_string(content, what))
    if not all(isinstance(part, Mapping) for part in content):
        raise FormatError(f"{what} is not a string")
    # Arrow fills missing fields of a part with None.
    texts = [require_string(part.get("text") or "", what) for part in content if part.get("type") == "text"]
    places = [part for part in content if part.get("type") in ("image", "image_url")]
    images = tuple(image for part in places if (image := _image(part)) not in (None, ""))
    return ChatMessage(role, "".join(texts), len(places), images)


def _image(part: Mapping[str, Any]) -> Any:
    """Return the image that a typed part contains, or None."""
    image = part.get("image")
    if image in (None, "") and part.get("image_url"):
        image = part["image_url"]
        image = image.get("url") if isinstance(image, Mapping) else image
    return decoded_image(image)


def decoded_image(image: Any) -> Any:
    """Return the bytes of an image in a data URL (``data:image/png;base64,...``), or any other value unchanged."""
    if not isinstance(image, str) or not image.startswith("data:"):
        return image
    try:
        return base64.b64decode("".join(image.partition(";base64,")[2].split()), validate=True)
    except ValueError as error:
        raise FormatError("the data URL of an image is not valid Base64") from error
