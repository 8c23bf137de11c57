"""Computes the log-probabilities of all sequences in a batch of tries with one forward pass.

Shape suffixes: B rows, L tokens per row, D width, F image features, R predicting positions, T distinct predictions,
M scored tokens, Q sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from scramble.trie.backbone import Backbone, DeepFeatures, ImageInputs
from scramble.trie.build import TrieError
from scramble.trie.head import head_logprobs
from scramble.trie.last_layer import last_layer, only_predicting
from scramble.trie.mask import attention_masks
from scramble.trie.pack import TrieBatch
from scramble.trie.router import load_balancing_loss, recorded_router_logits

TOWER_TOKENS = 1 << 15  # patches that a frozen tower encodes at a time on a GPU


class NonFiniteError(RuntimeError):
    """Raised if a log-probability is NaN or infinite. The message names the items and says what to check."""


@dataclass(frozen=True, slots=True)
class LogProbs:
    """Contains the log-probabilities of the scored tokens, in nats.

    Sequences are numbered consecutively over all items.

    Attributes:
        tokens_M: log-probability of each scored token, sequence by sequence.
        sums_Q: log-probability of each sequence, summed over its scored tokens.
        counts_Q: number of scored tokens of each sequence.
        num_sequences: number of sequences of each item.
        entropy_M, log_sum_squares_M: entropy and log sum p^2 of the next-token distribution at each scored token; None
            unless requested.
        router_loss: load-balancing loss of a mixture of experts (scalar); None unless requested.
    """

    tokens_M: Tensor
    sums_Q: Tensor
    counts_Q: Tensor
    num_sequences: tuple[int, ...]
    entropy_M: Tensor | None = None
    log_sum_squares_M: Tensor | None = None
    router_loss: Tensor | None = None


def logprobs(
    backbone: Backbone,
    batch: TrieBatch,
    features: Sequence[Tensor | None] | None = None,
    *,
    with_statistics: bool = False,
    with_router_loss: bool = False,
) -> LogProbs:
    """Run one forward pass over the tries of ``batch``.

    The result is differentiable unless the function is called under ``torch.no_grad``.

    Args:
        backbone: the model's parts.
        batch: result of :func:`scramble.trie.pack.pack`. ``logprobs`` moves the batch to the model's device.
        features: image features (F_i, S D) of each item, from :func:`encode_images` or a cache; None means that they
            are computed.
        with_statistics: also return entropy and log sum p^2, without gradients.
        with_router_loss: also return the load-balancing loss. This loss equals the loss of a batch of whole sequences
            if the tries were built with ``TokenRules.last_tokens``.

    Raises:
        TrieError: the numbers of image tokens and image features of an item differ.
        NonFiniteError: a log-probability is NaN or infinite.
    """
    head = backbone.head
    if features is None:
        features = encode_images(backbone, batch.images)
    batch = replace(batch, images=()).to(head.weight.device)  # do not copy pixels, which are no longer needed
    embeds_BLD, deep_features = embed(backbone, batch, features)
    flex = getattr(backbone.decoder.config, "_attn_implementation", None) == "flex_attention"
    masks = attention_masks(batch, backbone.attention_windows, backbone.block_layers, flex=flex)
    context: AbstractContextManager[list[Tensor] | None]
    if with_router_loss:  # the router of the last layer must then run on all tokens
        context = recorded_router_logits(backbone.decoder)
    else:
        context = only_predicting(backbone.decoder, batch.rows_R)
    with context as router_logits:
        hidden_BLD = backbone.decode(
            embeds_BLD,
            masks,
            batch.position_ids_ABL,
            deep_features=deep_features,
            input_ids=batch.input_ids_BL,
        )
    # The head is the widest matrix of the model, so apply it only at positions that predict a scored token.
    hidden_RD = hidden_BLD.flatten(0, 1).index_select(0, batch.rows_R)
    logps_T, entropy_R, log_sum_squares_R = head_logprobs(
        hidden_RD,
        head.weight,
        head.bias,
        batch.row_starts,
        batch.target_rows_T,
        batch.target_ids_T,
        softcap=backbone.logit_softcap,
        with_statistics=with_statistics,
    )
    result = _gather(batch, logps_T)
    if entropy_R is not None and log_sum_squares_R is not None:
        rows_M = batch.target_rows_T.index_select(0, batch.token_targets_M)
        result = replace(result, entropy_M=entropy_R[rows_M], log_sum_squares_M=log_sum_squares_R[rows_M])
    if router_logits is not None:
        decoder: Any = backbone.decoder
        loss = load_balancing_loss(router_logits, batch.sequences_BL, decoder.config.num_experts_per_tok)
        result = replace(result, router_loss=loss)
    if not torch.isfinite(result.sums_Q).all():
        raise NonFiniteError(_describe_non_finite(batch, result.sums_Q))
    return result


def encode_images(
    backbone: Backbone, images: Sequence[ImageInputs | None], tower_tokens: int | None = TOWER_TOKENS
) -> list[Tensor | None]:
    """Return the features (F_i, S D) of the images of each item. Images that several items share are encoded once.

    The tower and the projector run without gradients and in evaluation mode unless a weight in ``backbone.vision`` is
    trained. On a GPU, a frozen tower encodes the images of several prompts in one pass. A pass has at most
    ``tower_tokens`` patches (None means no limit), unless a single prompt has more. On a CPU, a pass over several
    prompts would not be faster, so a frozen tower encodes the images of one prompt at a time.
    """
    # Compare by identity, because items with the same images share the object and comparing pixels would be too slow.
    distinct: dict[int, ImageInputs] = {id(image): image for image in images if image is not None}
    if not distinct:
        return [None] * len(images)
    device = backbone.head.weight.device
    inputs = [
        {name: tensor.to(device, non_blocking=True) for name, tensor in image.items()} for image in distinct.values()
    ]
    if vision_is_trained(backbone):
        encoded = backbone.encode_images(inputs)
    else:
        for module in backbone.vision:
            if module.training:
                module.eval()
        limit = 1 if device.type == "cpu" else tower_tokens
        parts = in_chunks(inputs, [backbone.num_patches(image) for image in inputs], limit)
        with torch.no_grad():
            encoded = [features for part in parts for features in backbone.encode_images(part)]
    by_identity = dict(zip(distinct, encoded, strict=True))
    return [None if image is None else by_identity[id(image)] for image in images]


def in_chunks(inputs: Sequence[ImageInputs], num_patches: Sequence[int], limit: int | None) -> list[list[ImageInputs]]:
    """Group consecutive inputs into chunks of at most ``limit`` patches. A larger input forms its own chunk."""
    chunks: list[list[ImageInputs]] = []
    used = 0
    for image, count in zip(inputs, num_patches, strict=True):
        if not chunks or (limit is not None and used + count > limit):
            chunks.append([])
            used = 0
        chunks[-1].append(image)
        used += count
    return chunks


def vision_is_trained(backbone: Backbone) -> bool:
    """Return whether any weight of the tower or the projector requires a gradient."""
    return any(p.requires_grad for module in backbone.vision for p in module.parameters())


def enable_gradient_checkpointing(backbone: Backbone) -> None:
    """Enable activation checkpointing for the language model's layers only. Call this function once per model.

    Non-reentrant checkpointing needs no gradient at the embeddings, so transformers' hook that makes the embeddings
    require a gradient is removed. The last layer stores its activations. The backward pass would recompute them first,
    while all other activations are still in memory, so checkpointing this layer would not reduce peak memory.
    """
    decoder: Any = backbone.decoder
    # Older releases of transformers 5 have only gradient_checkpointing_enable.
    enable = getattr(decoder, "activation_checkpointing_enable", None) or decoder.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    if hasattr(decoder, "disable_input_require_grads"):
        decoder.disable_input_require_grads()
    layer: Any = last_layer(decoder)
    if layer is not None:
        layer.gradient_checkpointing = False


def embed(
    backbone: Backbone, batch: TrieBatch, features: Sequence[Tensor | None]
) -> tuple[Tensor, DeepFeatures | None]:
    """Return the embeddings (B, L, D) of a batch with image features inserted, and the features for later layers.

    ``features`` are the image features (F_i, S D) of each item. If S = 1 or there is no image, the features for later
    layers are None.

    Raises TrieError if the numbers of image tokens and image features of an item differ.
    """
    embeds_BLD = backbone.embed_tokens(batch.input_ids_BL)
    for name, num_tokens, item_features in zip(batch.item_ids, batch.num_features, features, strict=True):
        num_features = 0 if item_features is None else len(item_features)
        if num_tokens != num_features:
            raise TrieError(
                f"item {name!r}: the number of image tokens in the prompt is {num_tokens}, but the number of features "
                f"of its images is {num_features}: take the prompt and the images from the same processor call"
            )
    parts = [part for part in features if part is not None]
    if not parts:
        return embeds_BLD, None
    vectors = torch.cat(parts).to(embeds_BLD).index_select(0, batch.feature_source_F)
    first_FD, *later = vectors.split(embeds_BLD.shape[-1], dim=1)
    flat = embeds_BLD.flatten(0, 1)
    insert = flat.index_add if backbone.combine == "add" else flat.index_copy
    embeds_BLD = insert(0, batch.feature_slots_F, first_FD).view_as(embeds_BLD)
    if not later:
        return embeds_BLD, None
    mask_BL = torch.zeros_like(batch.input_ids_BL, dtype=torch.bool)
    mask_BL.view(-1)[batch.feature_slots_F] = True
    order_F = batch.feature_slots_F.argsort()  # decoders address image positions by a mask, in the order of the batch
    return embeds_BLD, DeepFeatures(mask_BL, [features_FD[order_F] for features_FD in later])


def _gather(batch: TrieBatch, logps_T: Tensor) -> LogProbs:
    tokens_M = logps_T.index_select(0, batch.token_targets_M)
    zeros_Q = tokens_M.new_zeros(sum(batch.num_sequences))
    # Sequences share predictions, so one entry of logps_T may be in several sums. Autograd adds the gradients of these
    # sums.
    return LogProbs(
        tokens_M=tokens_M,
        sums_Q=zeros_Q.index_add(0, batch.token_sequence_M, tokens_M),
        counts_Q=zeros_Q.index_add(0, batch.token_sequence_M, torch.ones_like(tokens_M)).long(),
        num_sequences=batch.num_sequences,
    )


def _describe_non_finite(batch: TrieBatch, sums_Q: Tensor) -> str:
    bad = (~torch.isfinite(sums_Q)).tolist()
    items = [name for name, count in zip(batch.item_ids, batch.num_sequences, strict=True) for _ in range(count)]
    names = list(dict.fromkeys(name for name, is_bad in zip(items, bad, strict=True) if is_bad))
    return (
        f"log-probabilities are not finite for {len(names)} of {len(batch.item_ids)} items: {', '.join(names[:5])}"
        f"{', ...' if len(names) > 5 else ''}. Check trainer.learning_rate, model.dtype (float16 overflows), and "
        "whether the weights or the adapter contain NaN"
    )
