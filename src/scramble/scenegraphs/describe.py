"""Scene graphs from a multimodal model: a prompt, a JSON schema, and the repair of malformed replies.

Prompt and schema were written for this project.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from scramble.engines import Engine, Message, Reply, ReplyStore, Request
from scramble.engines.request import encoded
from scramble.records import ImageFile
from scramble.scenegraphs.graph import GraphError, SceneGraph, read_graph

PROMPT = """\
List what this image shows as a scene graph in JSON.
"objects": up to 20 objects, each with "id" (o1, o2, ...), "name" (a singular noun), "attributes" (colours, materials,
sizes, states that can be seen) and "bbox" ([left, top, right, bottom], each from 0 to 1000 of the image's width or
height).
"relations": what can be seen between them, each with "subject" (an id), "predicate" ("on", "left of", "holding", ...)
and "object" (an id).
Name only what is visible. Reply with the JSON alone."""

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "objects": {
            "type": "array",
            "maxItems": 20,
            "items": {
                "type": "object",
                "properties": {
                    "id": {"type": "string", "maxLength": 8},
                    "name": {"type": "string", "maxLength": 40},
                    "attributes": {"type": "array", "maxItems": 6, "items": {"type": "string", "maxLength": 30}},
                    "bbox": {"type": "array", "minItems": 4, "maxItems": 4, "items": {"type": "number"}},
                },
                "required": ["id", "name", "attributes", "bbox"],
                "additionalProperties": False,
            },
        },
        "relations": {
            "type": "array",
            "maxItems": 40,
            "items": {
                "type": "object",
                "properties": {
                    "subject": {"type": "string", "maxLength": 8},
                    "predicate": {"type": "string", "maxLength": 40},
                    "object": {"type": "string", "maxLength": 8},
                },
                "required": ["subject", "predicate", "object"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["objects", "relations"],
    "additionalProperties": False,
}


def describe(
    images: Iterable[ImageFile],
    engine: Engine,
    store: ReplyStore,
    problems: Counter[str],
    *,
    max_tokens: int = 1500,
    temperature: float = 0.0,
    seed: int = 0,
) -> Iterator[SceneGraph | None]:
    """Yield a model's scene graph of each image, in order, or None (counted in ``problems``) if there is none.

    Replies are stored, so that a resumed run does not repeat requests. Raises EngineError if the server, model or key
    cannot work.
    """
    requests = (
        Request(
            (Message("user", PROMPT, (encoded(image),)),),
            temperature=temperature,
            max_tokens=max_tokens,
            seed=seed,
            schema=SCHEMA,
        )
        for image in images
    )
    for reply in engine.generate(requests, store):
        try:
            yield read_reply(reply, problems)
        except GraphError as error:
            problems[str(error)] += 1
            yield None


def read_reply(reply: Reply, problems: Counter[str]) -> SceneGraph:
    """Parse the graph in a reply. Repaired defects are counted in ``problems``; see :func:`read_graph`.

    Other repairs: text around the JSON, trailing commas, a reply truncated within its lists, objects as a mapping by
    id, and relations between names instead of ids.

    Raises:
        GraphError: the reply has no graph. The message is a reason that can be counted.
    """
    if reply.error:
        raise GraphError(f"no reply: {reply.error.split(' (')[0]}")
    value = _json(reply.text)
    if not isinstance(value, dict):
        raise GraphError("no JSON object in the reply")
    if value.get("objects") in (None, [], {}):
        raise GraphError("no objects in the reply")
    if isinstance(value["objects"], dict):
        value["objects"] = [
            {"id": key, **(thing if isinstance(thing, dict) else {})} for key, thing in value["objects"].items()
        ]
    return read_graph(_by_name(value, problems), problems)


def _by_name(value: dict[str, Any], problems: Counter[str]) -> dict[str, Any]:
    """Replace names by ids in relations, if only one object has the name."""
    objects = [thing for thing in value["objects"] if isinstance(thing, dict)]
    ids = {str(thing.get("id")) for thing in objects}
    named: dict[str, list[str]] = {}
    for thing in objects:
        named.setdefault(str(thing.get("name", "")).lower(), []).append(str(thing.get("id")))
    by_name = {name: matching[0] for name, matching in named.items() if len(matching) == 1}
    links = []
    for link in value.get("relations") or ():
        if isinstance(link, dict):
            ends = {side: str(link.get(side)) for side in ("subject", "object")}
            fixed = {s: end if end in ids else by_name.get(end.lower(), end) for s, end in ends.items()}
            if fixed != ends:
                problems["relation by name"] += 1
            link = {**link, **fixed}
        links.append(link)
    return {**value, "relations": links}


def _json(text: str) -> Any:
    """Return the JSON object in a text, repaired if necessary; None if there is none."""
    start = text.find("{")
    if start < 0:
        return None
    body = text[start:]
    body = body[: body.rfind("}") + 1] or body
    for candidate in (body, re.sub(r",\s*([}\]])", r"\1", body), *_closed(text[start:])):
        try:
            return json.loads(candidate)
        except ValueError:
            continue
    return None


def _closed(text: str) -> Iterator[str]:
    """Yield completions of a truncated text. They close the open lists and objects after an entry, last entry first."""
    ends = [match.end() for match in re.finditer(r"\}", text)]
    for end in reversed(ends[-40:]):
        head, opened, quoted, escaped = text[:end], list[str](), False, False
        for char in head:
            if quoted:
                escaped, quoted = char == "\\" and not escaped, escaped or char != '"'
            elif char == '"':
                quoted = True
            elif char in "{[":
                opened.append("}" if char == "{" else "]")
            elif char in "}]" and opened:
                opened.pop()
        if opened and not quoted:
            yield head + "".join(reversed(opened))
