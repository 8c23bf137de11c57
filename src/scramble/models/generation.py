"""Generation for several prompts (or samples of one) on the same images, whose shared beginning is read once.

The prompts of an image lie in one row: ``[shared prefix | rest of prompt 1 | rest of prompt 2 | ...]``, and every step
appends one token a prompt. A mask lets a token see the prefix and its own branch, positions count along the branch, so
each prompt gets exactly what it would get alone, while prefix, image features and their keys and values exist once.
Rows of several image sets are batched and padded to the right.

Shape legend: B rows, L prefilled tokens, Q prompts of a row, S steps, K keys so far, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scramble.models.family import ModelError, Prompt
from scramble.models.loading import Loaded

Pick = Callable[[Tensor], Tensor]
"""Logits (B, Q, V) of the prompts of each row -> the token of each (B, Q)."""


@dataclass(frozen=True, slots=True)
class _Row:
    """The prompts of one image set: token ids in a row, their positions, and each token's branch (-1: the prefix)."""

    ids: list[int]
    positions: list[int]
    branches: list[int]
    last: list[int]
    lengths: list[int]


@torch.no_grad()
def generate(loaded: Loaded, groups: Sequence[Sequence[Prompt]], limits: Sequence[Sequence[int]]) -> list[list[str]]:
    """Greedy continuations of prompts, grouped by image set (one batch row a group).

    Args:
        groups: the prompts of each image set; all prompts of a group share one object of image inputs.
        limits: most new tokens of each prompt.

    Returns:
        Decoded text of each prompt, without special tokens and surrounding space.
    """
    tokenizer = loaded.processor.tokenizer
    ids = generate_ids(loaded, groups, limits)
    return [[tokenizer.decode(new, skip_special_tokens=True).strip() for new in group] for group in ids]


@torch.no_grad()
def generate_ids(
    loaded: Loaded, groups: Sequence[Sequence[Prompt]], limits: Sequence[Sequence[int]], pick: Pick | None = None
) -> list[list[list[int]]]:
    """As :func:`generate`, as token ids without the token that ended them; ``pick`` samples, None is greedy.

    A prompt may stand in its group several times, once a sample: the samples part with their first token.
    """
    pick = pick or (lambda logits_BQV: logits_BQV.argmax(-1))
    from transformers import DynamicCache

    backbone, stops = loaded.backbone, stop_tokens(loaded)
    rows = [_layout([prompt.input_ids for prompt in group], backbone.feature_tokens) for group in groups]
    device = backbone.head.weight.device
    branch_BL, mask_BLL = _masks(rows, _image_block(backbone, rows), device)
    embeds_BLD = _embed(backbone, rows, groups, device)
    positions_BL = _padded([row.positions for row in rows], 0, device)
    cache = DynamicCache()
    hidden_BLD = _decode(backbone, embeds_BLD, mask_BLL, positions_BL, cache)

    most = max(len(row.last) for row in rows)
    last_BQ = _padded([row.last for row in rows], 0, device)
    depth_BQ = _padded([row.lengths for row in rows], 1, device)
    hidden_BQD = hidden_BLD.gather(1, last_BQ[..., None].expand(-1, -1, hidden_BLD.shape[-1]))
    new: list[list[list[int]]] = [[[] for _ in row.last] for row in rows]
    live = [[limit > 0 for limit in group] for group in limits]
    branch_BQ = torch.arange(most, device=device).expand(len(rows), most)
    while True:
        token_BQ = pick(backbone.head(hidden_BQD))
        _take(token_BQ.tolist(), new, live, limits, stops)
        if not any(map(any, live)):
            return new
        # The step's tokens see the prefix and their own branch; they join the keys as one more column a branch.
        branch_BL = torch.cat([branch_BL, branch_BQ], dim=1)
        mask_BQK = (branch_BL[:, None] == -1) | (branch_BL[:, None] == branch_BQ[..., None])
        hidden_BQD = _decode(backbone, backbone.embed_tokens(token_BQ), mask_BQK, depth_BQ, cache)
        depth_BQ = depth_BQ + 1


def stop_tokens(loaded: Loaded) -> frozenset[int]:
    """Ids that end an answer: the generation config's, the tokenizer's, and the chat template's end of turn."""
    tokenizer = loaded.processor.tokenizer
    config = getattr(loaded.backbone.model, "generation_config", None)
    given = getattr(config, "eos_token_id", None)
    stops = set(given if isinstance(given, (list, tuple)) else [given])
    stops.add(tokenizer.eos_token_id)
    answer = loaded.family.encode_completion(loaded.processor, "yes")
    special = set(tokenizer.all_special_ids)
    stops.update(token for token in answer if token in special)
    return frozenset(int(token) for token in stops if token is not None)


def _layout(prompts: Sequence[list[int]], feature_tokens: frozenset[int]) -> _Row:
    shared = min(len(prompt) for prompt in prompts) - 1
    for prompt in prompts[1:]:
        differs = (k for k in range(shared) if prompt[k] != prompts[0][k])
        shared = next(differs, shared)
    if any(token in feature_tokens for prompt in prompts for token in prompt[shared:]) and len(prompts) > 1:
        raise ModelError("prompts of one image set differ before the end of their images: they cannot share them")
    prefix = prompts[0][:shared]
    row = _Row(list(prefix), list(range(shared)), [-1] * shared, [], [len(prompt) for prompt in prompts])
    for branch, prompt in enumerate(prompts):
        rest = prompt[shared:]
        row.ids.extend(rest)
        row.positions.extend(range(shared, len(prompt)))
        row.branches.extend([branch] * len(rest))
        row.last.append(len(row.ids) - 1)
    return row


PADDING = -2  # branch of padding: seen by itself alone


def _masks(rows: Sequence[_Row], block_BL: Tensor | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """Branches (B, L) and which key each query may see (B, L, L)."""
    branch_BL = _padded([row.branches for row in rows], PADDING, device)
    length = branch_BL.shape[1]
    causal_LL = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    visible = (branch_BL[:, None] == -1) | (branch_BL[:, None] == branch_BL[..., None])
    mask_BLL = causal_LL & visible & (branch_BL[:, None] != PADDING)
    if block_BL is not None:
        mask_BLL |= block_BL[:, None].to(device) & block_BL[..., None].to(device)
    return branch_BL, mask_BLL | torch.eye(length, dtype=torch.bool, device=device)


def _image_block(backbone: Any, rows: Sequence[_Row]) -> Tensor | None:
    """Which tokens (B, L) belong to an image block that attends in both directions; None for causal families."""
    if not backbone.bidirectional_images:
        return None
    members = backbone.block_tokens
    return _padded([[int(token in members) for token in row.ids] for row in rows], 0, torch.device("cpu")).bool()


def _embed(backbone: Any, rows: Sequence[_Row], groups: Sequence[Sequence[Prompt]], device: torch.device) -> Tensor:
    ids_BL = _padded([row.ids for row in rows], 0, device)
    embeds_BLD = backbone.embed_tokens(ids_BL)
    with_images = [k for k, group in enumerate(groups) if group[0].images is not None]
    features = backbone.encode_images([groups[k][0].images for k in with_images])
    for k, features_FD in zip(with_images, features, strict=True):
        slots = [n for n, token in enumerate(rows[k].ids) if token in backbone.feature_tokens]
        if len(slots) != len(features_FD):
            raise ModelError(f"{len(slots)} image tokens in a prompt, but its images give {len(features_FD)} features")
        slots_F = torch.tensor(slots, device=device)
        insert = embeds_BLD[k].index_add if backbone.combine == "add" else embeds_BLD[k].index_copy
        embeds_BLD[k] = insert(0, slots_F, features_FD.to(embeds_BLD))
    return embeds_BLD


def _decode(backbone: Any, embeds_BLD: Tensor, mask_BLK: Tensor, positions_BL: Tensor, cache: Any) -> Tensor:
    decoder = backbone.decoder
    backbone.family.check_window(decoder.config, positions_BL)
    mask = backbone.family.as_model_mask(decoder, mask_BLK[:, None], embeds_BLD.dtype)
    output = decoder(
        inputs_embeds=embeds_BLD, attention_mask=mask, position_ids=positions_BL, past_key_values=cache, use_cache=True
    )
    return output.last_hidden_state


def _take(
    tokens: list[list[int]],
    new: list[list[list[int]]],
    live: list[list[bool]],
    limits: Sequence[Sequence[int]],
    stops: frozenset[int],
) -> None:
    """Keep the step's tokens of the live prompts and mark those that end."""
    for b, row in enumerate(live):
        for q, alive in enumerate(row):
            if not alive:
                continue
            token = tokens[b][q]
            if token in stops:
                row[q] = False
            else:
                new[b][q].append(token)
                row[q] = len(new[b][q]) < limits[b][q]


def _padded(rows: Sequence[Sequence[int]], value: int, device: torch.device) -> Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], device=device)
