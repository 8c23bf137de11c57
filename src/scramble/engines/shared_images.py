"""Generates with a vision-text model in the calling process. Requests about the same image share the image features.

For model families that support the token trie, all requests about the same image form one row of
:func:`scramble.models.generation.generate_ids`, so the vision tower and the projector run once per image, and a prompt
is processed once for any number of samples. Without an image, the samples of one question form a row. Models of other
families answer each request separately, with ``model.generate``.

Shape suffixes: B rows (image sets), Q requests of a row, N requests, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from scramble.engines.request import Reply, Request
from scramble.engines.sampling import RowSampler
from scramble.models import VLM, ModelError, Prompt
from scramble.models.generation import generate_ids, generate_row, stop_tokens
from scramble.models.prompts import PromptEncoder
from scramble.models.rows import extend
from scramble.records import ImageFile, RecordError


def takes(request: Request) -> bool:
    """Return whether a request is one user turn, optionally followed by the beginning of the answer."""
    return [m.role for m in request.messages] in (["user"], ["user", "assistant"])


@torch.inference_mode()
def answer(vlm: VLM, requests: Sequence[Request]) -> list[Reply]:
    """Reply to requests for which :func:`takes` is true and which share temperature, top-p and top-k."""
    limit = vlm.family.max_length(vlm.backbone.model.config)
    image_tokens = vlm.backbone.token_rules.image_tokens
    prompts: dict[int, Prompt] = {}
    replies: dict[int, Reply] = {}
    groups: dict[tuple[object, ...], list[int]] = {}
    for n, prompt in sorted(_encode(vlm, requests).items()):
        if isinstance(prompt, str):
            replies[n] = Reply("", error=f"refused ({prompt})")
        elif (length := len(prompt.input_ids)) + requests[n].max_tokens > limit:
            sizes = f"{length} prompt tokens + max_tokens={requests[n].max_tokens} exceed the limit of {limit}"
            replies[n] = Reply("", error=f"context overflow ({sizes}: lower max_tokens)")
        else:
            prompts[n] = prompt
            # A row is a trie whose prompts share their images. Without images, only samples of a question share a row.
            user, ids = requests[n].messages[0], prompt.input_ids
            image_end = max((k for k, token in enumerate(ids, 1) if token in image_tokens), default=0)
            groups.setdefault((user.images or user.text, *ids[:image_end]), []).append(n)
    rows = list(groups.values())
    if rows and not vlm.family.has_trie:
        for n, prompt in prompts.items():
            ids = generate_row(vlm, prompt, requests[n].max_tokens, _row_sampler(requests[n]))
            replies[n] = reply(vlm.processor.tokenizer, requests[n], ids, len(prompt.input_ids))
    elif rows:
        grouped = [[prompts[n] for n in row] for row in rows]
        new = generate_ids(
            vlm, grouped, [[requests[n].max_tokens for n in row] for row in rows], _picker(requests, rows)
        )
        for row, answers in zip(rows, new, strict=True):
            for n, ids in zip(row, answers, strict=True):
                replies[n] = reply(vlm.processor.tokenizer, requests[n], ids, len(prompts[n].input_ids))
    return [replies[n] for n in range(len(requests))]


def reply(tokenizer: Any, request: Request, ids: Sequence[int], prompt_tokens: int, ended: bool | None = None) -> Reply:
    """Return the reply that is decoded from the generated token ids. The ids do not include the stop token.

    ``ended`` says whether a stop token was generated. By default, a stop token is assumed if ``ids`` has fewer than
    ``max_tokens`` tokens.
    """
    ended = len(ids) < request.max_tokens if ended is None else ended
    text = tokenizer.decode(list(ids), skip_special_tokens=True).strip()
    if request.continues:  # decode the ids together with the text before them, to keep a space between the two
        begun = list(tokenizer(request.messages[-1].text, add_special_tokens=False)["input_ids"])
        before = tokenizer.decode(begun, skip_special_tokens=True)
        text = tokenizer.decode([*begun, *ids], skip_special_tokens=True)[len(before) :].rstrip()
    stop = min((text.find(word) for word in request.stop if word in text), default=-1)
    if stop >= 0:
        text = text[:stop].rstrip()
    return Reply(text, "stop" if ended or stop >= 0 else "length", prompt_tokens, len(ids) + ended)


def _encode(vlm: VLM, requests: Sequence[Request]) -> dict[int, Prompt | str]:
    """Return each request's prompt with the beginning of the answer, or the reason why it cannot be encoded."""
    encoder, stops = PromptEncoder(vlm.family, vlm.processor), stop_tokens(vlm)
    by_images: dict[tuple[bytes, ...], list[int]] = {}
    for n, request in enumerate(requests):
        by_images.setdefault(request.messages[0].images, []).append(n)
    prompts: dict[int, Prompt | str] = {}
    for images, members in by_images.items():
        try:
            opened = [ImageFile(image).open() for image in images]
            encoded = encoder.prompts([requests[n].messages[0].text for n in members], opened)
        except (ModelError, RecordError) as error:
            prompts.update(dict.fromkeys(members, str(error)))
            continue
        for n, prompt in zip(members, encoded, strict=True):
            prompts[n] = prompt
            if requests[n].continues:
                begun = list(takewhile(lambda id: id not in stops, encoder.completion(requests[n].messages[1].text)))
                if vlm.family.has_trie:
                    prompts[n] = replace(prompt, input_ids=[*prompt.input_ids, *begun])
                else:
                    prompts[n] = extend(vlm.family, prompt, begun)
    return prompts


def _row_sampler(request: Request) -> list[RowSampler]:
    """Return the logits processors of ``model.generate`` for one request. The list is empty for a greedy request."""
    if request.temperature <= 0:
        return []
    return [RowSampler([request.sampling_seed], request.temperature, request.top_p, request.top_k)]


def _picker(requests: Sequence[Request], rows: Sequence[Sequence[int]]) -> Any:
    """Return a function that samples tokens (B, Q) from logits (B, Q, V), or None for greedy requests.

    Each request has its own random generator.
    """
    first = requests[0]
    if first.temperature <= 0:
        return None
    places = [(b, q) for b, row in enumerate(rows) for q in range(len(row))]
    index_N2 = torch.tensor(places)
    sampler = RowSampler(
        [requests[n].sampling_seed for row in rows for n in row], first.temperature, first.top_p, first.top_k
    )

    def pick(logits_BQV: Tensor) -> Tensor:
        token_BQ = logits_BQV.new_zeros(logits_BQV.shape[:2], dtype=torch.long)
        rows_N, columns_N = index_N2.to(logits_BQV.device).unbind(-1)
        token_BQ[rows_N, columns_N] = sampler(None, logits_BQV[rows_N, columns_N]).argmax(-1)
        return token_BQ

    return pick
