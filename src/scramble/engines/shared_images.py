"""A vision-text model in this process: all requests on one image share its pass and the tokens that they begin with.

Samples of one question are one row ``[prompt | sample 1 | sample 2 | ...]`` of
:func:`scramble.models.generation.generate_ids`: tower, projector and prompt run once, whatever the number of samples.

Shape suffixes: B rows (image sets), Q requests of a row, N requests, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scramble.engines.request import Reply, Request
from scramble.engines.sampling import RowSampler
from scramble.models import Loaded, ModelError, Prompt
from scramble.models.generation import generate_ids, stop_tokens
from scramble.records import ImageFile, RecordError


def takes(request: Request) -> bool:
    """Whether a request is one user turn, perhaps with the beginning of the answer."""
    return [m.role for m in request.messages] in (["user"], ["user", "assistant"])


@torch.inference_mode()
def answer(loaded: Loaded, requests: Sequence[Request]) -> list[Reply]:
    """Replies to requests of which :func:`takes` is true and which share temperature, top-p and top-k."""
    limit = loaded.family.max_length(loaded.backbone.model.config)
    encoder = _Encoder(loaded)
    replies: dict[int, Reply] = {}
    groups: dict[Any, list[int]] = {}
    prompts: dict[int, Prompt] = {}
    for n, request in enumerate(requests):
        try:
            key, prompts[n] = encoder.encode(request)
        except (ModelError, RecordError) as error:  # a control token in the text; a broken image
            replies[n] = Reply("", error=f"refused ({error})")
            continue
        length = len(prompts[n].input_ids)
        if length + request.max_tokens > limit:
            replies[n] = Reply("", error=f"context overflow ({length} + {request.max_tokens} tokens)")
        else:
            groups.setdefault(key, []).append(n)
    rows = list(groups.values())
    if rows:
        grouped = [[prompts[n] for n in row] for row in rows]
        new = generate_ids(
            loaded, grouped, [[requests[n].max_tokens for n in row] for row in rows], _picker(requests, rows)
        )
        for row, answers in zip(rows, new, strict=True):
            for n, ids in zip(row, answers, strict=True):
                replies[n] = reply(loaded.processor.tokenizer, requests[n], ids, len(prompts[n].input_ids))
    return [replies[n] for n in range(len(requests))]


def reply(tokenizer: Any, request: Request, ids: Sequence[int], prompt_tokens: int, ended: bool | None = None) -> Reply:
    """The reply in new token ids without the one that ended them.

    ``ended`` says whether there was one; by default it is told from the number of tokens.
    """
    ended = len(ids) < request.max_tokens if ended is None else ended
    text = tokenizer.decode(list(ids), skip_special_tokens=True).strip()
    if request.continues:  # decoded with what it goes on from, so that a space between them is kept
        begun = list(tokenizer(request.messages[-1].text, add_special_tokens=False)["input_ids"])
        before = tokenizer.decode(begun, skip_special_tokens=True)
        text = tokenizer.decode([*begun, *ids], skip_special_tokens=True)[len(before) :].rstrip()
    cut = min((text.find(word) for word in request.stop if word in text), default=-1)
    if cut >= 0:
        text = text[:cut].rstrip()
    return Reply(text, "stop" if ended or cut >= 0 else "length", prompt_tokens, len(ids) + ended)


class _Encoder:
    """Prompts of a batch: an image set is decoded once, a text on it encoded once."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self._features = loaded.backbone.feature_tokens | loaded.backbone.block_tokens
        self._stops = stop_tokens(loaded)
        self._opened: dict[tuple[bytes, ...], Any] = {}
        self._known: dict[tuple[tuple[bytes, ...], str], Prompt] = {}
        self._tensors: dict[Any, Any] = {}

    def encode(self, request: Request) -> tuple[Any, Prompt]:
        """What the requests of a row have in common, and the prompt with the beginning of the answer."""
        family, processor = self._loaded.family, self._loaded.processor
        user = request.messages[0]
        if (user.images, user.text) not in self._known:
            if user.images not in self._opened:
                self._opened[user.images] = [ImageFile(image).open() for image in user.images]
            self._known[user.images, user.text] = family.encode_prompt(processor, user.text, self._opened[user.images])
        prompt = self._known[user.images, user.text]
        ids = prompt.input_ids
        last = max((n for n, token in enumerate(ids) if token in self._features), default=len(ids) - 1)
        key = (user.images, tuple(ids[: last + 1]))
        tensors = self._tensors.setdefault(key, prompt.images)  # one object a row
        begun: list[int] = []
        if request.continues:
            whole = family.encode_completion(processor, request.messages[1].text)
            begun = whole[: next((n for n, token in enumerate(whole) if token in self._stops), len(whole))]
        return key, Prompt([*ids, *begun], tensors)


def _picker(requests: Sequence[Request], rows: Sequence[Sequence[int]]) -> Any:
    """Logits (B, Q, V) to tokens (B, Q): each request draws from its own generator; None for greedy ones."""
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
