"""The interface between the trie engine and a model.

:mod:`scramble.models` implements it once per model family. The engine itself is independent of tasks, prompts and
files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from torch import Tensor, nn

ImageInputs = Mapping[str, Tensor]
"""The processor's output for the images of one prompt (pixel values, crop positions, ...), without batch axis."""


class Backbone(Protocol):
    """The parts of a vision-language model: tower and projector, embeddings, decoder, head.

    Attributes:
        model: the module with all weights, without DDP or PEFT wrapper (adapters are inside its layers).
        feature_tokens: ids of image placeholders; each placeholder's embedding receives the next image feature.
        combine: whether a feature replaces the token embedding or is added to it (Molmo v1).
        bidirectional_images: whether the tokens of an image block attend to each other bidirectionally (Molmo2).
        block_tokens: token ids of that block (image patches, start and end, columns); empty for causal families.
    """

    model: nn.Module
    feature_tokens: frozenset[int]
    combine: Literal["replace", "add"]
    bidirectional_images: bool
    block_tokens: frozenset[int]

    def encode_images(self, images: Sequence[ImageInputs]) -> list[Tensor]:
        """Run tower and projector once over all images; return each prompt's features (F_i, D) in token order."""
        ...

    def embed_tokens(self, input_ids: Tensor) -> Tensor:
        """Token embeddings (..., D) of ids (...)."""
        ...

    def decode(
        self, inputs_embeds: Tensor, attention_mask: object, position_ids: Tensor, cache: object = None
    ) -> Tensor:
        """Last hidden states (B, L, D), after the final norm and before the head.

        ``attention_mask`` is a boolean (B, 1, L, K) tensor, True where attention is allowed, or a FlexAttention
        BlockMask; ``position_ids`` is (B, L); ``cache`` (a transformers ``Cache``) holds the keys and values of the
        first K - L tokens and receives the new ones.
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
        """Tower and projector (empty for a text-only model)."""
        ...
