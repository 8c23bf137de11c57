"""Defines the interface between the trie engine and a model.

:mod:`scramble.models` implements this interface once per model family. The engine itself is independent of tasks,
prompts and files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

ImageInputs = Mapping[str, Tensor]
"""The processor's output for the images of one prompt (pixel values, crop positions, ...), without a batch axis."""

Positions = Callable[[Sequence[int], ImageInputs | None], NDArray[np.int64]]
"""Function from the n token ids of a sequence and its image inputs to its position ids (A, n) on A axes."""


@dataclass(frozen=True, slots=True)
class TokenRules:
    """Describes the properties of a model's tokens that a trie depends on.

    Instances can be pickled and passed to worker processes.

    Attributes:
        features: ids of image placeholders; the n-th placeholder of a sequence receives the n-th image feature.
        block: ids of tokens that attend to each other bidirectionally; empty for causal models.
        block_per_run: whether every run of ``block`` tokens is a separate block (Gemma 3). Otherwise all ``block``
            tokens of a prompt are one block (Molmo2).
        positions: function that returns position ids on several axes (Qwen-VL); None if the position of a token is its
            index.
        last_tokens: whether the last token of a sequence is a node. No score depends on this token, but the
            load-balancing loss of the routers includes it.
        recurrent: whether the decoder has recurrent layers, which run along the paths of a trie (Qwen3.5).
    """

    features: frozenset[int] = frozenset()
    block: frozenset[int] = frozenset()
    block_per_run: bool = False
    positions: Positions | None = None
    last_tokens: bool = False
    recurrent: bool = False

    @property
    def image_tokens(self) -> frozenset[int]:
        """The ids of all tokens that represent images."""
        return self.features | self.block


class DeepFeatures(NamedTuple):
    """Contains features to add to the hidden states after the first decoder layers (DeepStack, arXiv 2406.04334).

    Attributes:
        mask_BL: True at the positions of image tokens.
        features: for each of the first layers, the features (F, D) of the image tokens in order.
    """

    mask_BL: Tensor
    features: list[Tensor]


class Backbone(Protocol):
    """Provides the parts of a vision-language model: the tower and projector, the embeddings, the decoder and the head.

    Attributes:
        model: the module with all weights, without a DDP or PEFT wrapper (adapters are inside its layers).
        token_rules: properties of the model's tokens that a trie depends on.
        combine: whether a feature replaces the token embedding or is added to it (Molmo, Molmo2).
        vectors_per_feature: number S of vectors of width D in an image feature. The first vector is part of the
            embeddings. The other vectors are added to the hidden states after decoder layers 0 to S - 2 (Qwen3-VL).
        attention_windows: number of tokens that a token attends to, including itself, for each type of decoder layer
            with attention (``layer_types``); None means full attention.
        block_layers: types of layers in which the tokens of a block attend to each other; None means all types.
        logit_softcap: bound of the logits, see :func:`scramble.trie.head.cap_logits`; None means unbounded.
    """

    model: nn.Module
    token_rules: TokenRules
    combine: Literal["replace", "add"]
    vectors_per_feature: int
    attention_windows: Mapping[str, int | None]
    block_layers: frozenset[str] | None
    logit_softcap: float | None

    def encode_images(self, images: Sequence[ImageInputs]) -> list[Tensor]:
        """Run the tower once over all images. Return each prompt's projected features (F_i, S D) in token order."""
        ...

    def num_patches(self, images: ImageInputs) -> int:
        """Return the number of patches that the tower encodes for the images of a prompt."""
        ...

    def embed_tokens(self, input_ids: Tensor) -> Tensor:
        """Return the token embeddings (..., D) of ids (...)."""
        ...

    def decode(
        self,
        inputs_embeds: Tensor,
        attention_masks: Mapping[str, object],
        position_ids: Tensor,
        cache: object = None,
        deep_features: DeepFeatures | None = None,
        input_ids: Tensor | None = None,
    ) -> Tensor:
        """Return the last hidden states (B, L, D), after the final norm and before the head.

        ``attention_masks`` contains a mask for each type of layer in ``attention_windows``. A mask is a FlexAttention
        BlockMask or a boolean tensor (B, 1, L, K), which is True where attention is allowed. Recurrent layers receive
        :class:`scramble.trie.recurrent.Paths` under ``linear_attention``. ``position_ids`` has the shape (A, B, L).
        ``cache`` (a transformers ``Cache``) contains the keys and values of the first K - L tokens. The keys and values
        of the L new tokens are added to the cache. Decoders with per-layer embeddings (Gemma 4) need the token ids
        ``input_ids`` (B, L).
        """
        ...

    @property
    def head(self) -> nn.Linear:
        """The output projection (V, D)."""
        ...

    @property
    def decoder(self) -> nn.Module:
        """The language model, which is the only part with gradient checkpointing."""
        ...

    @property
    def vision(self) -> Sequence[nn.Module]:
        """The tower and the projector, or no modules for a text-only model."""
        ...
