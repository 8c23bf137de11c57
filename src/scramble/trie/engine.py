"""Log-probabilities of every sequence of a batch of tries in one forward pass.

Shape suffixes: B rows, L tokens a row, D width, F image features, R predicting positions, T distinct predictions,
M scored tokens, Q sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from scramble.trie.backbone import Backbone, ImageInputs
from scramble.trie.build import TrieError
from scramble.trie.head import CHUNK_ELEMENTS, head_logprobs
from scramble.trie.last_layer import last_layer, only_predicting
from scramble.trie.mask import block_mask, dense_mask
from scramble.trie.pack import TrieBatch


class NonFiniteError(RuntimeError):
    """A log-probability that is NaN or infinite. The message names the items and what to check."""


@dataclass(frozen=True, slots=True)
class LogProbs:
    """What the model gives to the scored tokens, in nats, float32. Sequences are numbered through the batch.

    Attributes:
        tokens_M: log-probability of each scored token, sequence after sequence.
        sequence_M: the sequence that each belongs to.
        sums_Q: log-probability of each sequence: the sum over its scored tokens.
        counts_Q: scored tokens of each sequence.
        num_sequences: sequences of each item.
        entropy_M, log_sum_squares_M: entropy and log sum p^2 of the distribution that each scored token was drawn from,
            where they were asked for.
    """

    tokens_M: Tensor
    sequence_M: Tensor
    sums_Q: Tensor
    counts_Q: Tensor
    num_sequences: tuple[int, ...]
    entropy_M: Tensor | None = None
    log_sum_squares_M: Tensor | None = None

    @property
    def means_Q(self) -> Tensor:
        """Mean log-probability a scored token of each sequence."""
        return self.sums_Q / self.counts_Q

    def by_item(self) -> list[list[tuple[Tensor, Tensor]]]:
        """For each item, for each of its sequences: the tokens' log-probabilities and their sum."""
        tokens = self.tokens_M.split(self.counts_Q.tolist())
        pairs = list(zip(tokens, self.sums_Q.unbind(), strict=True))
        items, start = [], 0
        for count in self.num_sequences:
            items.append(pairs[start : start + count])
            start += count
        return items


def logprobs(
    backbone: Backbone,
    batch: TrieBatch,
    features: Sequence[Tensor | None] | None = None,
    *,
    chunk_elements: int = CHUNK_ELEMENTS,
    with_statistics: bool = False,
) -> LogProbs:
    """One pass over the tries of ``batch``; differentiable unless called under ``torch.no_grad``.

    Args:
        backbone: the model taken apart.
        batch: from :func:`scramble.trie.pack.pack`; it is moved to the model's device.
        features: image features (F_i, D) of each item, from :func:`encode_images` or a cache; None computes them.
        chunk_elements: logits alive at a time in the output head.
        with_statistics: also entropy and log sum p^2, without gradient.

    Raises:
        TrieError: an item whose image tokens and image features differ in number.
        NonFiniteError: a log-probability is NaN or infinite.
    """
    head = backbone.head
    if features is None:
        features = encode_images(backbone, batch.images)
    batch = replace(batch, images=()).to(head.weight.device)
    embeds_BLD = embed(backbone, batch, features)
    mask = _attention_mask(backbone, batch)
    with only_predicting(backbone.decoder, batch.rows_R):
        hidden_BLD = backbone.decode(embeds_BLD, mask, batch.position_ids_BL)
    hidden_RD = hidden_BLD.flatten(0, 1).index_select(0, batch.rows_R)
    logps_T, entropy_R, log_sum_squares_R = head_logprobs(
        hidden_RD,
        head.weight,
        head.bias,
        batch.row_starts,
        batch.target_rows_T,
        batch.target_ids_T,
        chunk_elements=chunk_elements,
        with_statistics=with_statistics,
    )
    result = _gather(batch, logps_T)
    if entropy_R is not None and log_sum_squares_R is not None:
        rows_M = batch.target_rows_T.index_select(0, batch.token_targets_M)
        result = replace(result, entropy_M=entropy_R[rows_M], log_sum_squares_M=log_sum_squares_R[rows_M])
    if not torch.isfinite(result.sums_Q).all():
        raise NonFiniteError(_describe_non_finite(batch, result.sums_Q))
    return result


def encode_images(backbone: Backbone, images: Sequence[ImageInputs | None]) -> list[Tensor | None]:
    """Features (F_i, D) of the images of each item; every distinct image passes tower and projector once.

    Without gradient and in evaluation mode unless something in ``backbone.vision`` is trained. A GPU takes all images
    in one pass; a CPU gains nothing from that, and takes a frozen tower's images one prompt at a time to save memory.
    """
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
        parts = [[image] for image in inputs] if device.type == "cpu" else [inputs]
        with torch.no_grad():
            encoded = [features for part in parts for features in backbone.encode_images(part)]
    by_identity = dict(zip(distinct, encoded, strict=True))
    return [None if image is None else by_identity[id(image)] for image in images]


def vision_is_trained(backbone: Backbone) -> bool:
    """Whether any weight of the tower or the projector takes a gradient."""
    return any(p.requires_grad for module in backbone.vision for p in module.parameters())


def enable_gradient_checkpointing(backbone: Backbone) -> None:
    """Checkpoint the layers of the language model, and nothing else, from now on. Needed once, not once a step.

    The non-reentrant kind needs no gradient on the embeddings, so transformers' hook for it is taken off again. The
    last layer keeps its activations: the backward pass would recompute them first, with all else still in memory, so
    that the peak is the same without.
    """
    decoder: Any = backbone.decoder
    enable = getattr(decoder, "activation_checkpointing_enable", None) or decoder.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    if hasattr(decoder, "disable_input_require_grads"):
        decoder.disable_input_require_grads()
    layer: Any = last_layer(decoder)
    if layer is not None:
        layer.gradient_checkpointing = False


def block_tokens(backbone: Backbone) -> frozenset[int]:
    """Ids of the two-way image block: empty for causal families."""
    return backbone.block_tokens if backbone.bidirectional_images else frozenset()


def embed(backbone: Backbone, batch: TrieBatch, features: Sequence[Tensor | None]) -> Tensor:
    """Embeddings (B, L, D) of a batch with the image features (F_i, D) of each item in their places.

    Raises TrieError for an item whose image tokens and image features differ in number.
    """
    embeds_BLD = backbone.embed_tokens(batch.input_ids_BL)
    for name, wanted, item_features in zip(batch.item_ids, batch.num_features, features, strict=True):
        given = 0 if item_features is None else len(item_features)
        if wanted != given:
            raise TrieError(
                f"item {name!r}: {wanted} image tokens in the prompt, but its images give {given} features; prompt and "
                "images must come from the same processor call"
            )
    parts = [part for part in features if part is not None]
    if not parts:
        return embeds_BLD
    features_FD = torch.cat(parts).to(embeds_BLD).index_select(0, batch.feature_source_F)
    flat = embeds_BLD.flatten(0, 1)
    insert = flat.index_add if backbone.combine == "add" else flat.index_copy
    return insert(0, batch.feature_slots_F, features_FD).view_as(embeds_BLD)


def _attention_mask(backbone: Backbone, batch: TrieBatch) -> object:
    if getattr(backbone.decoder.config, "_attn_implementation", None) == "flex_attention":
        return block_mask(batch.end_BL, batch.block_BL)
    return dense_mask(batch.end_BL, batch.block_BL)


def _gather(batch: TrieBatch, logps_T: Tensor) -> LogProbs:
    tokens_M = logps_T.index_select(0, batch.token_targets_M)
    zeros_Q = tokens_M.new_zeros(sum(batch.num_sequences))
    return LogProbs(
        tokens_M=tokens_M,
        sequence_M=batch.token_sequence_M,
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
        f"{', ...' if len(names) > 5 else ''}; check the learning rate, float16 instead of bfloat16, and the weights "
        "and adapter for NaN"
    )
