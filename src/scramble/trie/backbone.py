"""What the trie engine needs from a model: four functions and three facts.

:mod:`scramble.models` implements this once per model family. The trie never sees a task, a prompt or a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from torch import Tensor, nn

ImageInputs = Mapping[str, Tensor]
"""What a family's processor yields for the images of one prompt (pixel values, crop positions, ...), unbatched."""


class Backbone(Protocol):
    """A vision-language model taken apart: tower and projector, embeddings, decoder, head.

    Attributes:
        model: the module that owns all weights, unwrapped (no DDP, no PEFT wrapper; adapters live inside its layers).
        feature_tokens: token ids whose embedding receives an image feature, in order of appearance.
        combine: whether a feature takes the place of the token embedding or is added to it (Molmo v1).
        bidirectional_images: whether the tokens of an image block attend to each other in both directions (Molmo2).
        block_tokens: ids of that block (image patches, start and end, columns); empty for causal families.
    """

    model: nn.Module
    feature_tokens: frozenset[int]
    combine: Literal["replace", "add"]
    bidirectional_images: bool
    block_tokens: frozenset[int]

    def encode_images(self, images: Sequence[ImageInputs]) -> list[Tensor]:
        """One tower and projector pass over all images; for each prompt its features (F_i, D) in token order."""
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
        """The language model: the only part that gradient checkpointing touches."""
        ...

    @property
    def vision(self) -> Sequence[nn.Module]:
        """Tower and projector (empty for a text-only model)."""
        ...
