"""Implements :class:`scramble.trie.backbone.Backbone` for all families."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from scramble.models.cache_name import cache_argument
from scramble.models.family import Family, ModelError
from scramble.trie.backbone import DeepFeatures, ImageInputs, TokenRules
from scramble.trie.recurrent import run_along_paths


def unwrap(model: Any) -> Any:
    """Return the transformers model inside any stack of DDP, torch.compile and PEFT wrappers."""
    while True:
        if hasattr(model, "get_base_model"):  # a PEFT wrapper; the adapters are inside the base model's layers
            model = model.get_base_model()
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod
        elif isinstance(getattr(model, "module", None), nn.Module):
            model = model.module
        else:
            return model


class FamilyBackbone:
    """Implements the trie engine's interface for a model, which may be wrapped.

    :class:`scramble.trie.backbone.Backbone` documents the attributes.
    """

    def __init__(self, family: Family, model: nn.Module) -> None:
        self.family = family
        self.model: nn.Module = unwrap(model)
        config: Any = self.model.config
        self.token_rules = TokenRules(
            features=family.feature_tokens(config),
            block=family.block_tokens(config),
            block_per_run=family.block_per_run,
            positions=family.positions(config),
            recurrent=bool(family.recurrent),
        )
        if family.recurrent:
            for name, module in self.decoder.named_modules():
                if name.endswith(f".{family.recurrent}"):
                    run_along_paths(module)
        self.combine: Literal["replace", "add"] = family.combine
        self.vectors_per_feature = family.vectors_per_feature(config)
        self.attention_windows: Mapping[str, int | None] = family.attention_windows(config)
        self.block_layers: frozenset[str] | None = family.block_layers
        self.logit_softcap = family.logit_softcap(config)

    def encode_images(self, images: Sequence[ImageInputs]) -> list[Tensor]:
        """Run the tower once over all images. Return each prompt's projected features (F_i, S D) in token order."""
        device = next(self.vision[0].parameters()).device
        moved: list[Mapping[str, Tensor]] = [{k: v.to(device) for k, v in inputs.items()} for inputs in images]
        return self.family.features(self.model, moved)

    def num_patches(self, images: ImageInputs) -> int:
        """Return the number of patches that the tower encodes for the images of a prompt."""
        return self.family.num_patches(self.model.config, images)

    def embed_tokens(self, input_ids: Tensor) -> Tensor:
        """Return the token embeddings (..., D) of ids (...)."""
        return self.family.embed_tokens(self.model, input_ids)

    def decode(
        self,
        inputs_embeds: Tensor,
        attention_masks: Mapping[str, object],
        position_ids: Tensor,
        cache: object = None,
        deep_features: DeepFeatures | None = None,
        input_ids: Tensor | None = None,
    ) -> Tensor:
        """Return the last hidden states (B, L, D), after the final norm and before the head."""
        decoder: Any = self.decoder
        masks = {kind: as_model_mask(decoder, mask, inputs_embeds.dtype) for kind, mask in attention_masks.items()}
        extra = self.family.decoder_inputs(self.model, input_ids)
        if deep_features is not None:
            extra |= {
                "visual_pos_masks": deep_features.mask_BL,
                "deepstack_visual_embeds": deep_features.features,
            }
        output = decoder(
            inputs_embeds=inputs_embeds,
            # Decoders with several types of layers expect one mask per type.
            attention_mask=masks if len(masks) > 1 else next(iter(masks.values())),
            position_ids=position_ids[0] if len(position_ids) == 1 else position_ids,
            use_cache=cache is not None,
            **cache_argument(cache),
            **extra,
        )
        return output.last_hidden_state

    @property
    def head(self) -> nn.Linear:
        """The output projection (V, D)."""
        return self.model.get_submodule(self.family.head)  # type: ignore[return-value]

    @property
    def decoder(self) -> nn.Module:
        """The language model."""
        return self.model.get_submodule(self.family.language_model)

    @property
    def vision(self) -> Sequence[nn.Module]:
        """The tower and the projector."""
        return [self.model.get_submodule(path) for path in self.family.vision]


def as_model_mask(decoder: Any, attention_mask: object, dtype: torch.dtype) -> object:
    """Convert a mask to the form that the attention implementation needs.

    Eager attention adds the mask to the scores. All other implementations need a Boolean mask or a BlockMask.

    Raises:
        ModelError: the implementation is FlashAttention, which does not support the mask of a trie.
    """
    if decoder.config._attn_implementation.startswith("flash_attention"):
        raise ModelError(
            "FlashAttention does not support the attention mask of a trie: set model.attn_implementation to sdpa, or "
            "to flex_attention on a GPU"
        )
    if decoder.config._attn_implementation == "eager" and isinstance(attention_mask, Tensor):
        forbidden = torch.finfo(dtype).min
        return torch.zeros_like(attention_mask, dtype=dtype).masked_fill(~attention_mask, forbidden)
    return attention_mask
