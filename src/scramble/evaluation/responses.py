"""Store replies as JSONL, one row per query. Rows are written to disk after each chunk of queries. The key of a row is
a hash of everything on which the reply depends.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scramble.evaluation.items import EvaluationError, Query, QueryReply
from scramble.storage.hashing import content_key
from scramble.storage.jsonl import read_jsonl

SCHEMA = 1
PATTERN = "responses*.jsonl"
CONTENT = [field.name for field in dataclasses.fields(Query) if field.name not in ("query_id", "image_ids", "history")]
"""Fields of a query on which the reply depends, in addition to the model, the bytes of the images and the history."""


def query_key(model_key: str, query: Query, image_hashes: Mapping[str, str]) -> str:
    """Return the content key of a reply: a hash of the model and adapter, the prompt, the history, the candidates, the
    settings and the bytes of the images.
    """
    # dataclasses.asdict copies every value, which takes most of the time of a repeated evaluation.
    values = {name: getattr(query, name) for name in CONTENT}
    if query.history:  # replies that were stored before queries had a history keep their keys
        values["history"] = query.history
    return content_key(SCHEMA, model_key, values, [image_hashes[i] for i in query.image_ids])


def row(key: str, query: Query, reply: QueryReply) -> dict[str, Any]:
    """Return the stored row of one query."""
    common: dict[str, Any] = {"key": key, "id": query.query_id, "images": list(query.image_ids), "prompt": query.prompt}
    if query.history:
        common["history"] = [dataclasses.asdict(turn) for turn in query.history]
    if reply.refusal:
        return {**common, "refusal": reply.refusal}
    if query.candidates:
        tokens = {"token_logprobs": _rounded(reply.token_logprobs)} if reply.token_logprobs else {}
        return {**common, "candidates": query.candidates, "logprobs": reply.logprobs, "tokens": reply.tokens, **tokens}
    return {**common, "text": reply.text}


def _rounded(candidates: Sequence[Sequence[tuple[str, float]]]) -> list[list[tuple[str, float]]]:
    return [[(text, round(logprob, 4)) for text, logprob in tokens] for tokens in candidates]


def read(*folders: str | Path) -> dict[str, QueryReply]:
    """Return all replies that are stored in folders (one file per process), by key. If several folders contain a key,
    the reply in the first of these folders is returned.
    """
    replies: dict[str, QueryReply] = {}
    for path in (path for folder in reversed(folders) for path in sorted(Path(folder).glob(PATTERN))):
        for line in read_jsonl(path):
            try:
                if "refusal" in line:
                    replies[line["key"]] = QueryReply(refusal=line["refusal"])
                elif "text" in line:
                    replies[line["key"]] = QueryReply(text=line["text"])
                else:
                    texts = tuple(tuple((t, p) for t, p in tokens) for tokens in line.get("token_logprobs", ()))
                    replies[line["key"]] = QueryReply(
                        tuple(line["logprobs"]), tuple(line["tokens"]), token_logprobs=texts
                    )
            except KeyError as error:
                raise EvaluationError(
                    f"{path}: a row has no field {error}. Another version of SCRAMBLe may have written the file: move "
                    "the file to another folder and repeat the evaluation"
                ) from None
    return replies


def group_by_images(queries: Iterable[Query], image_hashes: Mapping[str, str]) -> list[list[Query]]:
    """Group queries about the same images that have the same kind and history, in order of first appearance.

    Images with equal bytes count as the same image, because many data files repeat an image under a new id for each
    question.
    """
    groups: dict[tuple[Any, ...], list[Query]] = {}
    for number, query in enumerate(queries):
        # Queries without an image cannot share the forward pass of an image, so each of them forms its own group.
        images = tuple(image_hashes[image_id] for image_id in query.image_ids)
        shared = (images, query.image_px, bool(query.candidates), query.history) if images else (number,)
        groups.setdefault(shared, []).append(query)
    return list(groups.values())
