"""Implements Molmo v1 (Deitke et al., 2024, arXiv 2409.17146) for transformers 5, with the released weight names.

An image feature is *added* to the embedding of its ``<im_patch>`` token. The ids of image tokens start at
``embedding_size`` and belong to a second embedding table. The head ``transformer.ff_out`` has no rows for these ids.

Shape suffixes: B batch, L tokens, D decoder width, C crops of a batch row, P patches per crop, F features per crop,
V rows of the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from ..cache_name import CACHE, accepts_past_key_values, cache_argument
from .configuration_molmo import MolmoConfig
from .modeling_molmo_text import MolmoPreTrainedModel, MolmoTextModel
from .modeling_molmo_vision import MolmoVisionBackbone

IMAGE_INPUTS = ("images", "image_masks", "image_input_idx")
"""Names of the model's image inputs. Generation with a cache needs these inputs only in its first step."""


@dataclass
class MolmoModelOutputWithPast(BaseModelOutputWithPast):
    """Adds ``image_hidden_states``: features (B, C, F, D) before they are added to embeddings; None without images."""

    image_hidden_states: Tensor | None = None


@dataclass
class MolmoCausalLMOutputWithPast(CausalLMOutputWithPast):
    """Contains ``loss`` (scalar, mean cross-entropy in nats) and ``logits`` (B, selected positions, V)."""

    image_hidden_states: Tensor | None = None


class MolmoModel(MolmoPreTrainedModel):
    """Combines the vision tower, the projector and the decoder. Its output is not passed through the head."""

    def __init__(self, config: MolmoConfig) -> None:
        super().__init__(config)
        self.transformer = MolmoTextModel(config)
        self.vision_backbone = MolmoVisionBackbone(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.transformer.wte

    def set_input_embeddings(self, value: Any) -> None:
        self.transformer.wte = value

    def get_image_features(self, images: Tensor, image_masks: Tensor | None = None) -> Tensor:
        """Run the tower, the pooling and the projector on pixels (B, C, P, 588), and return features (B, C, F, D).

        ``image_masks`` (B, C, P) contains the fraction of each patch that is not padding; see
        :class:`MolmoVisionBackbone`.
        """
        masks_NP = None if image_masks is None else image_masks.flatten(0, 1)
        return self.vision_backbone(images.flatten(0, 1), masks_NP).unflatten(0, images.shape[:2])

    @staticmethod
    def add_image_features(inputs_embeds: Tensor, features_BCFD: Tensor, image_input_idx: Tensor) -> Tensor:
        """Return the embeddings (B, L, D) with each feature added at its position ``image_input_idx`` (B, C, F).

        Features with negative positions are dropped. The input embeddings are not modified.
        """
        features_BCFD = features_BCFD.to(inputs_embeds)
        has_position = image_input_idx >= 0
        rows = has_position.nonzero()[:, 0]
        return inputs_embeds.index_put(
            (rows, image_input_idx[has_position]), features_BCFD[has_position], accumulate=True
        )

    @accepts_past_key_values
    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        images: Tensor | None = None,
        image_masks: Tensor | None = None,
        image_input_idx: Tensor | None = None,
        attention_mask: Any = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> MolmoModelOutputWithPast:
        """Add image features to the embeddings and run the decoder (see :meth:`MolmoTextModel.forward`).

        The shapes are (B, C, P, 588) for ``images``, (B, C, P) for ``image_masks``, and (B, C, F) for
        ``image_input_idx``, the position of each feature in ``input_ids`` (negative for dropped features).
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.transformer.wte(input_ids)
        features_BCFD = None
        if images is not None:
            if image_input_idx is None:
                raise ValueError("images need the positions of their features in the text: pass image_input_idx")
            image_input_idx = image_input_idx.to(inputs_embeds.device)
            _check_positions(input_ids, inputs_embeds, image_input_idx, self.config.image_patch_token_id)
            features_BCFD = self.get_image_features(images, image_masks)
            inputs_embeds = self.add_image_features(inputs_embeds, features_BCFD, image_input_idx)
        outputs = self.transformer(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            use_cache=use_cache,
            **kwargs,
        )
        return MolmoModelOutputWithPast(**outputs, image_hidden_states=features_BCFD)


def _check_positions(input_ids: Tensor | None, inputs_embeds: Tensor, image_input_idx: Tensor, patch_id: int) -> None:
    """Raise ValueError if a position is not in the text, or if image features do not match the image tokens."""
    length = inputs_embeds.shape[1]
    has_position = image_input_idx >= 0
    if len(image_input_idx) != len(inputs_embeds) or (image_input_idx >= length).any():
        raise ValueError(
            f"image_input_idx of shape {tuple(image_input_idx.shape)} contains {int(image_input_idx.max())}, but "
            f"there are {len(inputs_embeds)} rows of {length} tokens: do not truncate the processor's output"
        )
    if input_ids is None:
        return
    features_B, tokens_B = has_position.flatten(1).sum(1), (input_ids == patch_id).sum(1)
    placed = input_ids.gather(1, image_input_idx.flatten(1).clamp(min=0))
    misplaced = (has_position.flatten(1) & (placed != patch_id)).any()
    if misplaced or not torch.equal(features_B, tokens_B):
        raise ValueError(
            f"the rows have {features_B.tolist()} image features and {tokens_B.tolist()} image tokens (id {patch_id}), "
            "which do not match: pass input_ids and image_input_idx from the same processor call"
        )


class MolmoForCausalLM(MolmoPreTrainedModel, GenerationMixin):
    """Implements Molmo v1 with its language-model head."""

    def __init__(self, config: MolmoConfig) -> None:
        super().__init__(config)
        self.model = MolmoModel(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.transformer.wte

    def set_input_embeddings(self, value: Any) -> None:
        self.model.transformer.wte = value

    def get_output_embeddings(self) -> nn.Linear:
        return self.model.transformer.ff_out

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        self.model.transformer.ff_out = new_embeddings

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """Raise ValueError, because the ids of image tokens follow the text vocabulary and would change."""
        raise ValueError(
            "Molmo's embeddings cannot be resized, because the ids of its image tokens follow the text vocabulary "
            "and would change: use a tokenizer without new tokens"
        )

    def get_image_features(self, images: Tensor, image_masks: Tensor | None = None) -> Tensor:
        return self.model.get_image_features(images, image_masks)

    @accepts_past_key_values
    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        images: Tensor | None = None,
        image_masks: Tensor | None = None,
        image_input_idx: Tensor | None = None,
        attention_mask: Any = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> MolmoCausalLMOutputWithPast:
        """Return the logits (B, L, V), or only the logits of the positions that ``logits_to_keep`` selects.

        ``logits_to_keep`` is a number of last positions or a tensor of positions. ``labels`` (B, L), with -100 for
        positions without a target, are shifted by this method. Raises ValueError if an image token is a target.
        :meth:`MolmoModel.forward` describes all other arguments.
        """
        if labels is not None and labels.max() >= self.config.embedding_size:
            raise ValueError(
                f"labels contain the id {int(labels.max())}, but the last id of the head is "
                f"{self.config.embedding_size - 1}: set the labels of image tokens to -100"
            )
        outputs = self.model(
            input_ids=input_ids,
            images=images,
            image_masks=image_masks,
            image_input_idx=image_input_idx,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        positions = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits_BLV = self.model.transformer.ff_out(outputs.last_hidden_state[:, positions])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits_BLV, labels=labels, vocab_size=self.config.embedding_size, **kwargs)
        return MolmoCausalLMOutputWithPast(
            loss=loss,
            logits=logits_BLV,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=outputs.image_hidden_states,
            **cache_argument(getattr(outputs, CACHE)),
        )

    def prepare_inputs_for_generation(  # type: ignore[override]
        self,
        input_ids: Any,
        inputs_embeds: Any = None,
        use_cache: bool = True,
        is_first_iteration: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Pass images only in the first step if generation uses a cache.

        Without a cache, pass images in every step, because each step then processes the whole prompt.
        """
        inputs = super().prepare_inputs_for_generation(  # type: ignore[misc]
            input_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )
        if use_cache and not is_first_iteration:
            for name in IMAGE_INPUTS:
                inputs.pop(name, None)
        return inputs


__all__ = ["MolmoForCausalLM", "MolmoModel", "MolmoPreTrainedModel", "MolmoTextModel"]
