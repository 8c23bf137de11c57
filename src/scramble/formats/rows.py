"""Convert between pairs and rows of each format: pure functions from a pair and its image paths to JSON and back.

- TRL: ``prompt`` / ``chosen`` / ``rejected`` as messages, ``images``.
- LLaMA-Factory: sharegpt ranking, ``conversations`` / ``chosen`` / ``rejected`` turns, ``images``.
- ms-swift: ``messages`` with the chosen answer last, ``rejected_response``, ``images``.
- SCRAMBLe: see :mod:`scramble.formats.scramble`.
- MMPR (InternVL's MPO): ``question`` / ``chosen`` / ``rejected``, ``image`` is a path, a list or missing.

Image placeholders are ``<image>``, one per image, before the text; TRL's messages have typed parts instead.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from scramble.formats.provenance import COLUMN, FormatError, pair_from, provenance
from scramble.formats.scramble import IMAGE
from scramble.formats.scramble import pair_to_row as to_scramble
from scramble.records import PreferencePair

Parsed = tuple[tuple[str, str, str], list[Any], Any]  # texts, images, provenance


def to_trl(pair: PreferencePair, images: Sequence[Any]) -> dict[str, Any]:
    """A row of vision data for TRL's DPOTrainer."""
    parts: list[dict[str, str]] = [{"type": "image"} for _ in images]
    return {
        "prompt": [{"role": "user", "content": [*parts, {"type": "text", "text": pair.prompt}]}],
        "chosen": [{"role": "assistant", "content": [{"type": "text", "text": pair.chosen}]}],
        "rejected": [{"role": "assistant", "content": [{"type": "text", "text": pair.rejected}]}],
        "images": list(images),
        COLUMN: provenance(pair),
    }


def from_trl(row: Mapping[str, Any]) -> Parsed:
    """Texts and images of a TRL row: plain strings, or messages with plain or typed content.

    The prompt may be a separate column or the turn before the answers ("implicit prompt").
    """
    parsed = _preference(row, "prompt" if "prompt" in row else "", ("chosen", "rejected"), join_turns=False)
    if "prompt" not in row and isinstance(row["chosen"], str):
        raise FormatError("no prompt")
    return parsed


def from_answers(row: Mapping[str, Any]) -> Parsed:
    """Texts and images of a row for the audit: two answers (:data:`ANSWERS`) and an optional prompt.

    A row without one of :data:`PROMPTS` has an empty prompt; several turns before the answers are joined into one.
    """
    answers = next(pair for pair in ANSWERS if set(pair) <= set(row))
    prompt = next((name for name in PROMPTS if row.get(name) is not None), "")
    texts, images, record = _preference(row, prompt, answers, join_turns=True)
    if not images:
        images = [next((row[name] for name in IMAGE_NAMES if row.get(name) not in (None, "")), "")]
    return texts, images, record


IMAGE_NAMES = ("filename", "image_path", "image_id")  # columns with an image's name, if the row contains no image
ANSWERS = (("chosen", "rejected"), ("response", "rejected_response"), ("caption", "negative_caption"))
PROMPTS = ("prompt", "question", "instruction", "query", "input")


def _preference(row: Mapping[str, Any], prompt: str, answers: tuple[str, str], join_turns: bool) -> Parsed:
    (before, chosen), (others, rejected) = (_answer(_spelled(row[name]), name) for name in answers)
    if prompt:
        turns = _turns(_spelled(row[prompt]), prompt)
    elif before == others:
        turns = before
    else:
        raise FormatError(f"{answers[0]} and {answers[1]} answer different prompts")
    return (_prompt(turns, join_turns, images_of(row)), chosen, rejected), images_of(row), row.get(COLUMN)


def to_llama_factory(pair: PreferencePair, images: Sequence[str]) -> dict[str, Any]:
    """A row of LLaMA-Factory's sharegpt ranking format."""
    return {
        "conversations": [{"from": "human", "value": IMAGE * len(images) + pair.prompt}],
        "chosen": {"from": "gpt", "value": pair.chosen},
        "rejected": {"from": "gpt", "value": pair.rejected},
        "images": list(images),
        COLUMN: provenance(pair),
    }


def from_llama_factory(row: Mapping[str, Any], join_turns: bool = False) -> Parsed:
    """Texts and images of a LLaMA-Factory row.

    ``join_turns`` joins several turns before the answers into one prompt, for the audit, which reads only the answers;
    without it such a row is an error, because a pair has one prompt.
    """
    one = isinstance(row["conversations"], list) and len(row["conversations"]) == 1
    turns = _turns(row["conversations"], "conversations") if one or join_turns else []
    if not join_turns and [turn.role for turn in turns] != ["user"]:
        raise FormatError("only one human turn before the two answers is supported")
    chosen, rejected = (_turn(row[name], name).text for name in ("chosen", "rejected"))
    return (_prompt(turns, join_turns, images_of(row)), chosen, rejected), images_of(row), row.get(COLUMN)


DATASET_INFO = {
    "ranking": True,
    "formatting": "sharegpt",
    "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "images": "images"},
}


def to_ms_swift(pair: PreferencePair, images: Sequence[str]) -> dict[str, Any]:
    """A row of ms-swift's RLHF format."""
    return {
        "messages": [
            {"role": "user", "content": IMAGE * len(images) + pair.prompt},
            {"role": "assistant", "content": pair.chosen},
        ],
        "rejected_response": pair.rejected,
        "images": list(images),
        COLUMN: provenance(pair),
    }


def from_ms_swift(row: Mapping[str, Any], join_turns: bool = False) -> Parsed:
    """Texts and images of an ms-swift row; for ``join_turns`` see :func:`from_llama_factory`."""
    two = isinstance(row["messages"], list) and len(row["messages"]) == 2
    turns = _turns(row["messages"], "messages") if two or join_turns else []
    if (
        not turns
        or turns[-1].role != "assistant"
        or (not join_turns and [turn.role for turn in turns[:-1]] != ["user"])
    ):
        raise FormatError("only one user and one assistant turn are supported")
    if "rejected_messages" in row:
        rejected = _answer(row["rejected_messages"], "rejected_messages")[1]
    else:
        rejected = _plain(row["rejected_response"], "rejected_response")
    return (_prompt(turns[:-1], join_turns, images_of(row)), turns[-1].text, rejected), images_of(row), row.get(COLUMN)


def to_mmpr(pair: PreferencePair, images: Sequence[str]) -> dict[str, Any]:
    """A row of MMPR. One image is a path, several are a list; without an image there is no key."""
    image = {"image": images[0] if len(images) == 1 else list(images)} if images else {}
    question = f"{IMAGE}\n" * len(images) + pair.prompt
    return {**image, "question": question, "chosen": pair.chosen, "rejected": pair.rejected, COLUMN: provenance(pair)}


def from_mmpr(row: Mapping[str, Any]) -> Parsed:
    """Texts and images of a row of MMPR. Placeholders within the text are dropped: images precede it."""
    if row.get("video"):
        raise FormatError("video rows cannot be used")
    images = images_of(row)
    texts = []
    for key in ("question", "chosen", "rejected"):
        texts.append(_plain(row.get(key), key))
        if not row[key].strip():
            raise FormatError(f"empty {key}")
    return (without_placeholders(texts[0], len(images)), texts[1], texts[2]), images, row.get(COLUMN)


def without_placeholders(text: str, images: int) -> str:
    """A question without its image placeholders. Raises FormatError unless it has 0 or ``images`` placeholders."""
    places = text.count(IMAGE)
    if places and places != images:
        raise FormatError(f"{places} image placeholders for {images} images")
    opening = f"{IMAGE}\n" * places
    return text.removeprefix(opening) if text.startswith(opening) else text.replace(IMAGE, "").strip()


def to_scramble_release(pair: PreferencePair, images: Sequence[str]) -> dict[str, Any]:
    """A row of SCRAMBLe's release. Raises FormatError unless the pair has one image, as the format requires."""
    if len(images) != 1:
        raise FormatError(f"pair {pair.pair_id} has {len(images)} images: SCRAMBLe's format has one per row")
    return to_scramble(pair, images[0]) | {COLUMN: provenance(pair)}


def from_scramble_release(row: Mapping[str, Any]) -> Parsed:
    """Texts and image of a row of SCRAMBLe's release."""
    from scramble.formats.scramble import row_to_pair

    image, pair = row_to_pair(dict(row), 0)
    return (pair.prompt, pair.chosen, pair.rejected), [image], row.get(COLUMN)


def parsed_pair(parsed: Parsed, image_ids: tuple[str, ...]) -> PreferencePair:
    """The pair of a parsed row, with its images by id. Raises FormatError if the texts cannot form a pair."""
    (prompt, chosen, rejected), _, record = parsed
    for name, text in (("prompt", prompt), ("chosen", chosen), ("rejected", rejected)):
        try:
            _plain(text, name).encode()
        except UnicodeEncodeError as error:
            raise FormatError(f"{name} contains a lone surrogate, which is not valid Unicode") from error
        if name != "prompt" and not text.strip():
            raise FormatError(f"empty {name}")
    return pair_from(prompt, chosen, rejected, record, image_ids)


def images_of(row: Mapping[str, Any]) -> list[Any]:
    """The images of a row in ``images`` or ``image``: paths, mappings with ``bytes`` or ``path``, or ids."""
    images: Any = next((row[key] for key in ("images", "image") if row.get(key) not in (None, "", [])), [])
    if isinstance(images, (str, bytes, Mapping, int)) and not isinstance(images, bool):
        return [images]
    if not isinstance(images, list):
        raise FormatError("image is neither a path nor a list of paths")
    return list(images)


ROLES = {"human": "user", "gpt": "assistant"}


@dataclass(frozen=True, slots=True)
class _Turn:
    """One message of a conversation. ``typed``: the content was a list of typed parts, without placeholders.

    ``places`` is the number of its images: placeholders or typed parts.
    """

    role: str
    text: str
    typed: bool = False
    places: int = 0


def _spelled(value: Any) -> Any:
    """Parse a conversation that a table stores as a string (JSON or Python syntax); other values are unchanged."""
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
        raise FormatError("a conversation stored as a string cannot be parsed")
    return parsed


_CONVERSATION = re.compile(r"""\s*\[?\s*\{\s*["'](role|content|from|value)["']\s*:""")


def _answer(value: Any, what: str) -> tuple[list[_Turn], str]:
    """The turns before an answer, and its text, from a plain string, a message, or a conversation that ends with it."""
    if isinstance(value, str):
        return [], value.strip()
    *before, last = _turns(value, what)
    if before and last.role != "assistant":
        raise FormatError(f"{what} ends with a turn by {last.role}, not by the assistant")
    return before, last.text if last.typed else last.text.strip()


def _turns(value: Any, what: str) -> list[_Turn]:
    """The turns of a conversation; a plain string is a turn of the user."""
    if isinstance(value, str):
        return [_Turn("user", value, places=value.count(IMAGE))]
    values = [value] if isinstance(value, Mapping) else value
    if not isinstance(values, list) or not values:
        raise FormatError(f"{what} is not a string")
    return [_turn(one, what) for one in values]


def _turn(value: Any, what: str) -> _Turn:
    """One message, with OpenAI's keys (``role``, ``content``) or ShareGPT's (``from``, ``value``)."""
    if not isinstance(value, Mapping):
        raise FormatError(f"{what} is not a string")
    keys = ("from", "value") if "from" in value else ("role", "content")
    role, content = (value.get(key) for key in keys)
    if not isinstance(role, str):
        raise FormatError(f"{what}: a turn has neither role nor from")
    role = ROLES.get(role, role)
    if not isinstance(content, list):
        text = _plain(content, what)
        return _Turn(role, text, places=text.count(IMAGE))
    if not all(isinstance(part, Mapping) for part in content):
        raise FormatError(f"{what} is not a string")
    # Arrow fills missing fields of a part with None.
    texts = [_plain(part.get("text") or "", what) for part in content if part.get("type") == "text"]
    places = sum(part.get("type") in ("image", "image_url") for part in content)
    return _Turn(role, "".join(texts), typed=True, places=places)


def _prompt(turns: Sequence[_Turn], join_turns: bool, images: Sequence[Any]) -> str:
    places = sum(turn.places for turn in turns)
    if places and places != len(images) and not join_turns:  # the audit, which joins turns, does not use images
        raise FormatError(f"{places} image placeholders for {len(images)} images")
    texts = [turn.text if turn.typed else turn.text.replace(IMAGE, "").strip() for turn in turns]
    if len(turns) <= 1:
        return "".join(texts)
    if not join_turns:
        raise FormatError("only one message in each of prompt, chosen and rejected is supported")
    return "\n".join(f"{turn.role}: {text}" for turn, text in zip(turns, texts, strict=True))


def _plain(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise FormatError(f"{what} is not a string")
    return value
