"""Molmo v1 (Deitke et al., 2024, arXiv 2409.17146) for transformers 5, reading the released weights by their own names.

An image feature is *added* to the embedding of its ``<im_patch>`` token. Those ids lie in a second embedding table
behind ``embedding_size``; the head ``transformer.ff_out`` has no row for them.

Shape suffixes: B batch, L query tokens, D decoder width, H query heads, K key-value heads, h channels of a head,
C crops of a batch row, P patches a crop, F features a crop, V rows of the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, ModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_molmo import MolmoConfig
from .modeling_molmo_vision import MolmoVisionBackbone, eager_attention

IMAGE_INPUTS = ("images", "image_masks", "image_input_idx")
"""Model inputs that describe images; used up by the first step of a cached generation."""


@dataclass
class MolmoModelOutputWithPast(BaseModelOutputWithPast):
    """``image_hidden_states``: features (B, C, F, D) before they are placed, None without images."""

    image_hidden_states: Tensor | None = None


@dataclass
class MolmoCausalLMOutputWithPast(ModelOutput):
    """``loss``: scalar, mean cross-entropy in nats; ``logits``: (B, positions kept, V)."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    image_hidden_states: Tensor | None = None


class MolmoEmbedding(nn.Module):
    """Token embeddings in two tables: ``embedding`` (the text vocabulary), then ``new_embedding`` (special tokens)."""

    def __init__(self, config: MolmoConfig) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.zeros(config.embedding_size, config.hidden_size))
        self.new_embedding = nn.Parameter(torch.zeros(config.additional_vocab_size, config.hidden_size))

    def forward(self, input_ids: Tensor) -> Tensor:
        """Embeddings (..., D) of ids (...); id -1 marks batch padding and reads row 0, as in the released code."""
        input_ids = torch.where(input_ids == -1, 0, input_ids)
        split = len(self.embedding)
        is_new = input_ids >= split
        # Two look-ups instead of joining the tables: the join would copy the whole vocabulary in every forward.
        text = nn.functional.embedding(torch.where(is_new, 0, input_ids), self.embedding)
        new = nn.functional.embedding(torch.where(is_new, input_ids - split, 0), self.new_embedding)
        return torch.where(is_new.unsqueeze(-1), new, text)


class MolmoRMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, states: Tensor) -> Tensor:
        states_f32 = states.float()
        states_f32 = states_f32 * torch.rsqrt(states_f32.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * states_f32.to(states.dtype)


def rotary_cos_sin(position_ids: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Rotary angles' cosine and sine, float32 (B, 1, L, h), in the half-rotation layout (Su et al., 2021)."""
    # Computed on the fly: a buffer would lose precision under model.to(bfloat16).
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=position_ids.device) / head_dim
    angles = position_ids[:, None, :, None].float() / theta**exponents
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(states_BHLh: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding, applied in float32 whatever the dtype of the states."""
    states = states_BHLh.float()
    first, second = states.chunk(2, dim=-1)
    return (states * cos + torch.cat([-second, first], dim=-1) * sin).to(states_BHLh.dtype)


class MolmoDecoderLayer(GradientCheckpointingLayer):
    """One decoder block: fused query-key-value projection, grouped-query attention, fused gated MLP."""

    def __init__(self, config: MolmoConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.scaling = config.head_dim**-0.5
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.is_causal = True
        query_size = config.num_attention_heads * config.head_dim
        key_size = config.num_key_value_heads * config.head_dim
        self.qkv_sizes = (query_size, key_size, key_size)

        self.att_proj = nn.Linear(config.hidden_size, sum(self.qkv_sizes), bias=config.qkv_bias)
        self.attn_out = nn.Linear(query_size, config.hidden_size, bias=False)
        self.ff_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.ff_out = nn.Linear(config.intermediate_size // 2, config.hidden_size, bias=False)
        self.attn_norm = MolmoRMSNorm(config.hidden_size, config.layer_norm_eps)
        self.ff_norm = MolmoRMSNorm(config.hidden_size, config.layer_norm_eps)
        if config.attention_layer_norm:
            self.q_norm = MolmoRMSNorm(query_size, config.layer_norm_eps)
            self.k_norm = MolmoRMSNorm(key_size, config.layer_norm_eps)

    def forward(
        self,
        hidden_BLD: Tensor,
        attention_mask: Tensor | None,
        cos_sin: tuple[Tensor, Tensor],
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """New hidden states (B, L, D) and, from the eager kernel only, attention weights."""
        if self.config.norm_after:
            attended_BLD, weights = self._attend(hidden_BLD, attention_mask, cos_sin, past_key_values, **kwargs)
            hidden_BLD = hidden_BLD + self.attn_norm(attended_BLD)
            return hidden_BLD + self.ff_norm(self._feed_forward(hidden_BLD)), weights
        normed_BLD = self.attn_norm(hidden_BLD)
        attended_BLD, weights = self._attend(normed_BLD, attention_mask, cos_sin, past_key_values, **kwargs)
        hidden_BLD = hidden_BLD + attended_BLD
        return hidden_BLD + self._feed_forward(self.ff_norm(hidden_BLD)), weights

    def _attend(
        self,
        hidden_BLD: Tensor,
        attention_mask: Tensor | None,
        cos_sin: tuple[Tensor, Tensor],
        past_key_values: Cache | None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        query, key, value = self.att_proj(hidden_BLD).split(self.qkv_sizes, dim=-1)
        if self.config.attention_layer_norm:
            query, key = self.q_norm(query), self.k_norm(key)
        query_BHLh, key_BKLh, value_BKLh = (
            states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for states in (query, key, value)
        )
        query_BHLh, key_BKLh = rotate(query_BHLh, *cos_sin), rotate(key_BKLh, *cos_sin)
        if past_key_values is not None:
            key_BKLh, value_BKLh = past_key_values.update(key_BKLh, value_BKLh, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        attended, weights = attend(
            self, query_BHLh, key_BKLh, value_BKLh, attention_mask, dropout=0.0, scaling=self.scaling, **kwargs
        )
        return self.attn_out(attended.flatten(-2)), weights

    def _feed_forward(self, hidden_BLD: Tensor) -> Tensor:
        up, gate = self.ff_proj(hidden_BLD).chunk(2, dim=-1)
        return self.ff_out(nn.functional.silu(gate) * up)


class MolmoPreTrainedModel(PreTrainedModel):
    config: MolmoConfig
    config_class = MolmoConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["MolmoDecoderLayer", "MolmoVisionBlock"]
    _skip_keys_device_placement: ClassVar[list[str]] = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs: ClassVar[dict[str, Any]] = {
        "hidden_states": OutputRecorder(MolmoDecoderLayer, index=0),
        "attentions": OutputRecorder(MolmoDecoderLayer, index=1),
    }

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, MolmoEmbedding):
            init.normal_(module.embedding, mean=0.0, std=std)
            init.normal_(module.new_embedding, mean=0.0, std=std)
        elif isinstance(module, MolmoVisionBackbone):
            init.zeros_(module.pad_embed)


class MolmoTextModel(MolmoPreTrainedModel):
    """The decoder. It owns the head ``ff_out`` (the released name), but its forward ends before it."""

    def __init__(self, config: MolmoConfig) -> None:
        super().__init__(config)
        self.wte = MolmoEmbedding(config)
        self.blocks = nn.ModuleList([MolmoDecoderLayer(config, index) for index in range(config.num_hidden_layers)])
        self.ln_f = MolmoRMSNorm(config.hidden_size, config.layer_norm_eps)
        self.ff_out = nn.Linear(config.hidden_size, config.embedding_size, bias=False)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.wte

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.wte = value

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Any = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states (B, L, D) after the final norm.

        Args:
            input_ids: (B, L); either these or ``inputs_embeds`` (B, L, D).
            attention_mask: (B, past + L) with 0 at padding; or a finished mask (B, 1, L, past + L), boolean (True:
                attend) or additive; or a FlexAttention BlockMask.
            position_ids: (B, L); by default the count of real tokens before each token.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.wte(input_ids)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        length = inputs_embeds.shape[1]
        if position_ids is None:
            position_ids = _positions(attention_mask, past_key_values, length, inputs_embeds.device)

        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        if self.config._attn_implementation == "eager" and torch.is_tensor(mask) and mask.dtype == torch.bool:
            lowest = torch.finfo(inputs_embeds.dtype).min
            mask = torch.zeros_like(mask, dtype=inputs_embeds.dtype).masked_fill(~mask, lowest)

        hidden_BLD = inputs_embeds
        cos_sin = rotary_cos_sin(position_ids, self.config.head_dim, self.config.rope_theta)
        for block in self.blocks:
            hidden_BLD, _ = block(
                hidden_BLD,
                attention_mask=mask,
                cos_sin=cos_sin,
                past_key_values=past_key_values,
                position_ids=position_ids,
                use_cache=use_cache,
                **kwargs,
            )
        return BaseModelOutputWithPast(last_hidden_state=self.ln_f(hidden_BLD), past_key_values=past_key_values)


def _positions(attention_mask: Any, cache: Cache | None, length: int, device: torch.device) -> Tensor:
    """Positions (B or 1, L) of the last ``length`` tokens: real tokens before them, so padding on the left is free."""
    if torch.is_tensor(attention_mask) and attention_mask.ndim == 2:
        return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:].to(device)
    past = cache.get_seq_length() if cache is not None else 0
    return (torch.arange(length, device=device) + past).unsqueeze(0)


class MolmoModel(MolmoPreTrainedModel):
    """Vision side and decoder, without the step through the head."""

    def __init__(self, config: MolmoConfig) -> None:
        super().__init__(config)
        self.transformer = MolmoTextModel(config)
        self.vision_backbone = MolmoVisionBackbone(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.transformer.wte

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.transformer.wte = value

    def get_image_features(self, images: Tensor, image_masks: Tensor | None = None) -> Tensor:
        """One pass of tower, pooling and projector: pixels (B, C, P, 588) to features (B, C, F, D).

        ``image_masks`` (B, C, P) is the share of each patch that is image; see :class:`MolmoVisionBackbone`.
        """
        masks_NP = None if image_masks is None else image_masks.flatten(0, 1)
        return self.vision_backbone(images.flatten(0, 1), masks_NP).unflatten(0, images.shape[:2])

    @staticmethod
    def add_image_features(inputs_embeds: Tensor, features_BCFD: Tensor, image_input_idx: Tensor) -> Tensor:
        """Embeddings (B, L, D) with each feature added at its position ``image_input_idx`` (B, C, F).

        Negative positions drop their feature. The embeddings passed in are left untouched.
        """
        features_BCFD = features_BCFD.to(inputs_embeds)
        kept = image_input_idx >= 0
        rows = torch.arange(len(inputs_embeds), device=kept.device).view(-1, 1, 1).expand_as(kept)[kept]
        return inputs_embeds.index_put((rows, image_input_idx[kept]), features_BCFD[kept], accumulate=True)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        images: Tensor | None = None,
        image_masks: Tensor | None = None,
        image_input_idx: Tensor | None = None,
        attention_mask: Any = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> MolmoModelOutputWithPast:
        """As :meth:`MolmoTextModel.forward`, with ``images`` (B, C, P, 588), ``image_masks`` (B, C, P) and
        ``image_input_idx`` (B, C, F): the position of each feature in ``input_ids``, negative where it is dropped.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.transformer.wte(input_ids)
        features_BCFD = None
        if images is not None:
            if image_input_idx is None:
                raise ValueError("images come without image_input_idx, the position of each feature in the text")
            image_input_idx = image_input_idx.to(inputs_embeds.device)
            _check_positions(input_ids, inputs_embeds, image_input_idx, self.config.image_patch_token_id)
            features_BCFD = self.get_image_features(images, image_masks)
            inputs_embeds = self.add_image_features(inputs_embeds, features_BCFD, image_input_idx)
        outputs = self.transformer(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **kwargs,
        )
        return MolmoModelOutputWithPast(**outputs, image_hidden_states=features_BCFD)


def _check_positions(input_ids: Tensor | None, inputs_embeds: Tensor, image_input_idx: Tensor, patch_id: int) -> None:
    """ValueError unless each feature meets an image patch token, and each such token a feature."""
    length = inputs_embeds.shape[1]
    kept = image_input_idx >= 0
    if len(image_input_idx) != len(inputs_embeds) or (image_input_idx >= length).any():
        raise ValueError(
            f"image_input_idx of shape {tuple(image_input_idx.shape)} reaches to {int(image_input_idx.max())}, "
            f"outside {len(inputs_embeds)} rows of {length} tokens: was the text cut after the processor?"
        )
    if input_ids is None:
        return
    features_B, tokens_B = kept.flatten(1).sum(1), (input_ids == patch_id).sum(1)
    placed = input_ids.gather(1, image_input_idx.flatten(1).clamp(min=0))
    misplaced = (kept.flatten(1) & (placed != patch_id)).any()
    if misplaced or not torch.equal(features_B, tokens_B):
        raise ValueError(
            f"image features and image tokens (id {patch_id}) do not match: {features_B.tolist()} features for "
            f"{tokens_B.tolist()} tokens; pass input_ids and image_input_idx from the same processor call"
        )


class MolmoForCausalLM(MolmoPreTrainedModel, GenerationMixin):
    """Molmo v1 with its head."""

    def __init__(self, config: MolmoConfig) -> None:
        super().__init__(config)
        self.model = MolmoModel(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.transformer.wte

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.transformer.wte = value

    def get_output_embeddings(self) -> nn.Linear:
        return self.model.transformer.ff_out

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        self.model.transformer.ff_out = new_embeddings

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Refused: image tokens stand behind the text vocabulary, whose size is part of their ids."""
        raise ValueError("Molmo's embeddings cannot be resized: the ids of its image tokens follow the last row")

    def get_image_features(self, images: Tensor, image_masks: Tensor | None = None) -> Tensor:
        return self.model.get_image_features(images, image_masks)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        images: Tensor | None = None,
        image_masks: Tensor | None = None,
        image_input_idx: Tensor | None = None,
        attention_mask: Any = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> MolmoCausalLMOutputWithPast:
        """Logits (B, L, V), or those of the last ``logits_to_keep`` positions, or at the positions of that tensor.

        ``labels`` (B, L), -100 where there is no target, are shifted here; image tokens cannot be targets
        (ValueError). For the other arguments see :meth:`MolmoModel.forward`.
        """
        if labels is not None and labels.max() >= self.config.embedding_size:
            raise ValueError(
                f"labels hold id {int(labels.max())}, but the head ends at {self.config.embedding_size - 1}: image "
                "tokens cannot be targets, set their labels to -100"
            )
        outputs = self.model(
            input_ids=input_ids,
            images=images,
            image_masks=image_masks,
            image_input_idx=image_input_idx,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits_BLV = self.model.transformer.ff_out(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits_BLV, labels=labels, vocab_size=self.config.embedding_size, **kwargs)
        return MolmoCausalLMOutputWithPast(
            loss=loss,
            logits=logits_BLV,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=outputs.image_hidden_states,
        )

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, use_cache: bool = True, is_first_iteration: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        inputs = super().prepare_inputs_for_generation(
            input_ids, use_cache=use_cache, is_first_iteration=is_first_iteration, **kwargs
        )
        if use_cache and not is_first_iteration:
            for name in IMAGE_INPUTS:
                inputs.pop(name, None)
        return inputs


__all__ = ["MolmoForCausalLM", "MolmoModel", "MolmoPreTrainedModel", "MolmoTextModel"]
