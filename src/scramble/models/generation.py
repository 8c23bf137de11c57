"""Generates answers to several prompts about the same images, or several answers to one prompt.

Common prefixes of the prompts are computed once. The prompts of an image set form one trie in one row, with the layout
and mask that scoring uses. Every step appends one token per prompt. This token attends to the path of its prompt and to
the earlier tokens of its answer, and its position is its depth. The answer to each prompt is therefore the answer that
the model would generate for this prompt alone. Shared tokens, image features and their keys and values are stored once.
Rows of several image sets are batched and padded on the right.

Shape legend: A axes of position ids, B rows, L tokens of the tries, Q prompts of a row, K cached keys, D width,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from scramble.models.family import Prompt
from scramble.models.vlm import VLM
from scramble.trie.backbone import Backbone
from scramble.trie.engine import embed, encode_images
from scramble.trie.head import cap_logits
from scramble.trie.mask import attention_masks, dense_mask
from scramble.trie.pack import TrieBatch, TrieItem, pack
from scramble.trie.recurrent import paths_to, single_tokens

Pick = Callable[[Tensor], Tensor]
"""Function that selects the next tokens (B, Q) of the prompts of each row from their logits (B, Q, V)."""


@torch.no_grad()
def generate_greedy(vlm: VLM, groups: Sequence[Sequence[Prompt]], limits: Sequence[Sequence[int]]) -> list[list[str]]:
    """Generate greedy continuations of prompts that are grouped by image set (one batch row per group).

    For a family without a trie, ``model.generate`` continues each prompt separately.

    Args:
        vlm: the model.
        groups: the prompts of each image set; all prompts of a group have the same ``images`` object.
        limits: maximum number of new tokens of each prompt.

    Returns:
        The decoded answer to each prompt, without special tokens or outer whitespace.
    """
    tokenizer = vlm.processor.tokenizer
    if vlm.family.has_trie:
        ids = generate_ids(vlm, groups, limits)
    else:
        ids = [
            [generate_row(vlm, prompt, limit) for prompt, limit in zip(*row, strict=True)]
            for row in zip(groups, limits, strict=True)
        ]
    return [[tokenizer.decode(new, skip_special_tokens=True).strip() for new in group] for group in ids]


@torch.no_grad()
def generate_ids(
    vlm: VLM, groups: Sequence[Sequence[Prompt]], limits: Sequence[Sequence[int]], pick: Pick | None = None
) -> list[list[list[int]]]:
    """Generate continuations as :func:`generate_greedy` does, but return token ids without the stop token.

    ``pick`` selects the next tokens. By default, the most likely tokens are selected. A group may contain the same
    prompt several times, once per sample. These samples share the prompt's tokens.
    """
    from transformers import DynamicCache

    pick = pick or (lambda logits_BQV: logits_BQV.argmax(-1))
    backbone, stops = vlm.backbone, stop_tokens(vlm)
    batch = _prompt_batch(backbone, groups, min(stops, default=0))
    features = encode_images(backbone, batch.images)
    batch = replace(batch, images=()).to(backbone.head.weight.device)
    masks = attention_masks(batch, backbone.attention_windows, backbone.block_layers)
    cache = DynamicCache()
    # The last node of each prompt predicts the first token of its answer.
    last_Q = batch.rows_R[batch.target_rows_T[batch.token_targets_M]] % batch.input_ids_BL.shape[1]
    last_BQ = pad_sequence(last_Q.split([len(group) for group in groups]), batch_first=True)
    if batch.paths is not None:
        # Recurrent layers have one state per prompt, so there is one path per prompt, even if prompts are equal.
        decoder: Any = backbone.decoder
        cache = DynamicCache(config=decoder.config)
        prompt_rows = torch.arange(len(groups), device=last_BQ.device).repeat_interleave(last_BQ.shape[1])
        masks["linear_attention"] = paths_to(batch.end_BL, last_BQ.flatten(), prompt_rows, align_ends=True)
    embeds_BLD, deep_features = embed(backbone, batch, features)
    hidden_BLD = backbone.decode(embeds_BLD, masks, batch.position_ids_ABL, cache, deep_features, batch.input_ids_BL)

    length, width = hidden_BLD.shape[1:]
    hidden_BQD = hidden_BLD.gather(1, last_BQ[..., None].expand(-1, -1, width))
    # The next token attends to the last node and all its ancestors. The window of a layer is applied at each step.
    seen_BQK = dense_mask(batch.end_BL)[:, 0].gather(1, last_BQ[..., None].expand(-1, -1, length))
    key_depth_BK, depth_BQ = batch.depth_BL, batch.depth_BL.gather(1, last_BQ) + 1
    positions_ABL = batch.position_ids_ABL
    positions_ABQ = positions_ABL.gather(2, last_BQ.expand(len(positions_ABL), -1, -1)) + 1
    own_BQQ = torch.eye(last_BQ.shape[1], dtype=torch.bool, device=last_BQ.device).expand(len(groups), -1, -1)
    new: list[list[list[int]]] = [[[] for _ in group] for group in groups]
    live = [[limit > 0 for limit in group] for group in limits]
    while True:
        token_BQ = pick(cap_logits(backbone.head(hidden_BQD), backbone.logit_softcap))
        _append(token_BQ.tolist(), new, live, limits, stops)
        if not any(map(any, live)):
            return new
        # A new token attends to its own answer and to everything that the end of its prompt attends to. Add one column
        # per prompt.
        seen_BQK = torch.cat([seen_BQK, own_BQQ], dim=2)
        key_depth_BK = torch.cat([key_depth_BK, depth_BQ], dim=1)
        steps_BQK = depth_BQ[:, :, None] - key_depth_BK[:, None, :]
        masks = {
            kind: (seen_BQK if window is None else seen_BQK & (steps_BQK < window))[:, None]
            for kind, window in backbone.attention_windows.items()
        }
        if batch.paths is not None:
            masks["linear_attention"] = single_tokens(last_BQ)
        hidden_BQD = backbone.decode(backbone.embed_tokens(token_BQ), masks, positions_ABQ, cache, input_ids=token_BQ)
        depth_BQ, positions_ABQ = depth_BQ + 1, positions_ABQ + 1


@torch.inference_mode()
def generate_row(vlm: VLM, prompt: Prompt, max_new_tokens: int, logits_processor: Sequence[Any] = ()) -> list[int]:
    """Return the token ids that ``model.generate`` appends to a prompt, without the stop token.

    The most likely token is selected at each step. ``logits_processor`` may change the scores. The repetition penalties
    in the checkpoint's generation config are disabled, as in generation with a trie.
    """
    stops = stop_tokens(vlm)
    ids = vlm.model.generate(
        **vlm.family.generation_inputs(prompt, vlm.model),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        eos_token_id=sorted(stops),
        pad_token_id=padding_id(vlm.processor.tokenizer),
        logits_processor=list(logits_processor),
    )
    new: list[int] = ids[0, len(prompt.input_ids) :].tolist()
    return next((new[:n] for n, token in enumerate(new) if token in stops), new)


def stop_tokens(vlm: VLM) -> frozenset[int]:
    """Return the ids that end an answer.

    They are the end tokens of the generation config, of the tokenizer and of the chat template's turns.
    """
    tokenizer = vlm.processor.tokenizer
    config = getattr(vlm.backbone.model, "generation_config", None)
    eos = getattr(config, "eos_token_id", None)
    stops = set(eos if isinstance(eos, (list, tuple)) else [eos])
    stops.add(tokenizer.eos_token_id)
    answer = vlm.family.encode_completion(vlm.processor, "yes")
    special = set(tokenizer.all_special_ids)
    stops.update(token for token in answer if token in special)
    return frozenset(int(token) for token in stops if token is not None)


def padding_id(tokenizer: Any) -> int:
    """Return the padding id, which is the tokenizer's padding id, else its EOS id, else 0.

    An image placeholder would not be a valid padding id, because image features replace placeholders.
    """
    ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(int(token) for token in ids if token is not None)


def _prompt_batch(backbone: Backbone, groups: Sequence[Sequence[Prompt]], end: int) -> TrieBatch:
    """Return a batch in which each row contains the trie of one group.

    The stop token ``end`` replaces the answers, which are not yet known.
    """
    items = [
        TrieItem(
            [[*prompt.input_ids, end] for prompt in group],
            [[False] * len(prompt.input_ids) + [True] for prompt in group],
            group[0].images,
        )
        for group in groups
    ]
    return pack(items, backbone.token_rules, share_rows=False)


def _append(
    tokens: list[list[int]],
    new: list[list[list[int]]],
    live: list[list[bool]],
    limits: Sequence[Sequence[int]],
    stops: frozenset[int],
) -> None:
    """Append the selected tokens, except stop tokens, to the unfinished answers, and mark the answers that end."""
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
