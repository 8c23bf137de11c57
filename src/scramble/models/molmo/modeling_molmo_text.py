"""Implements Molmo v1's decoder. Parameters have the same names as in the released weights.

Shape suffixes: B batch, L query tokens, D decoder width, H query heads, K key-value heads, h channels of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from ..cache_name import accepts_past_key_values, cache_argument
from .configuration_molmo import MolmoConfig
from .modeling_molmo_vision import MolmoVisionBackbone, at_least_float32, eager_attention


class MolmoEmbedding(nn.Module):
    """Embeds tokens with two tables: ``embedding`` (text vocabulary) and ``new_embedding`` (special tokens)."""

    def __init__(self, config: MolmoConfig) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.zeros(config.embedding_size, config.hidden_size))
        self.new_embedding = nn.Parameter(torch.zeros(config.additional_vocab_size, config.hidden_size))

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return the embeddings (..., D) of ids (...).

        The id -1 marks padding. Its embedding is row 0 of ``embedding``, as in the released code.
        """
        input_ids = torch.where(input_ids == -1, 0, input_ids)
        split = len(self.embedding)
        is_new = input_ids >= split
        # There are two lookups, because concatenating the tables would copy the whole vocabulary in every forward pass.
        text = nn.functional.embedding(torch.where(is_new, 0, input_ids), self.embedding)
        new = nn.functional.embedding(torch.where(is_new, input_ids - split, 0), self.new_embedding)
        return torch.where(is_new.unsqueeze(-1), new, text)


class MolmoRMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, states: Tensor) -> Tensor:
        precise = at_least_float32(states)
        precise = precise * torch.rsqrt(precise.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * precise.to(states.dtype)


def rotary_cos_sin(position_ids: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return the cosine and the sine of the rotary angles, float32 (B, 1, L, h), in the half-rotation layout.

    Source: Su et al., 2021.
    """
    # Compute the angles in every call, because a buffer would lose precision under model.to(bfloat16).
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=position_ids.device) / head_dim
    angles = position_ids[:, None, :, None].float() / theta**exponents
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(states_BHLh: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary position embeddings, which are computed in float32 for states in half precision."""
    states = at_least_float32(states_BHLh)
    first, second = states.chunk(2, dim=-1)
    return (states * cos + torch.cat([-second, first], dim=-1) * sin).to(states_BHLh.dtype)


class MolmoDecoderLayer(GradientCheckpointingLayer):
    """Implements a decoder block with a fused query-key-value projection, grouped-query attention and a gated MLP."""

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

    @accepts_past_key_values
    def forward(
        self,
        hidden_BLD: Tensor,
        attention_mask: Tensor | None,
        cos_sin: tuple[Tensor, Tensor],
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the new hidden states (B, L, D) and, only with eager attention, the attention weights."""
        if self.config.norm_after:
            attended_BLD, weights = self._attend(hidden_BLD, attention_mask, cos_sin, cache, **kwargs)
            hidden_BLD = hidden_BLD + self.attn_norm(attended_BLD)
            return hidden_BLD + self.ff_norm(self._feed_forward(hidden_BLD)), weights
        normed_BLD = self.attn_norm(hidden_BLD)
        attended_BLD, weights = self._attend(normed_BLD, attention_mask, cos_sin, cache, **kwargs)
        hidden_BLD = hidden_BLD + attended_BLD
        return hidden_BLD + self._feed_forward(self.ff_norm(hidden_BLD)), weights

    def _attend(
        self,
        hidden_BLD: Tensor,
        attention_mask: Tensor | None,
        cos_sin: tuple[Tensor, Tensor],
        cache: Cache | None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        query, key, value = self.att_proj(hidden_BLD).split(self.qkv_sizes, dim=-1)
        if self.config.attention_layer_norm:
            query, key = self.q_norm(query), self.k_norm(key)
        query_BHLh, key_BKLh, value_BKLh = (
            states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for states in (query, key, value)
        )
        query_BHLh, key_BKLh = rotate(query_BHLh, *cos_sin), rotate(key_BKLh, *cos_sin)
        if cache is not None:
            key_BKLh, value_BKLh = cache.update(key_BKLh, value_BKLh, self.layer_idx)
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
    input_modalities = ["image", "text"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _no_split_modules = ["MolmoDecoderLayer", "MolmoVisionBlock"]  # noqa: RUF012
    _skip_keys_device_placement = ["cache", "past_key_values"]  # noqa: RUF012
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {  # noqa: RUF012
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
    """Implements the decoder. It contains the head, ``ff_out``, as in the released weights, but does not apply it."""

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

    def set_input_embeddings(self, value: Any) -> None:
        self.wte = value

    @accepts_past_key_values
    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Any = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Return the hidden states (B, L, D) after the final norm.

        Args:
            input_ids: (B, L); pass either ``input_ids`` or ``inputs_embeds`` (B, L, D).
            attention_mask: one of three forms: (B, past + L) with 0 at padding, a full mask (B, 1, L, past + L), which
                is boolean (True allows attention) or additive, or a FlexAttention BlockMask.
            position_ids: (B, L); by default the number of preceding tokens without padding.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.wte(input_ids)
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        length = inputs_embeds.shape[1]
        if position_ids is None:
            position_ids = _positions(attention_mask, cache, length, inputs_embeds.device)

        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            **cache_argument(cache),
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
                position_ids=position_ids,
                use_cache=use_cache,
                **cache_argument(cache),
                **kwargs,
            )
        return BaseModelOutputWithPast(last_hidden_state=self.ln_f(hidden_BLD), **cache_argument(cache))


def _positions(attention_mask: Any, cache: Cache | None, length: int, device: torch.device) -> Tensor:
    """Return the positions (B or 1, L) of the last ``length`` tokens.

    Padding is not counted, so it may be on the left.
    """
    if torch.is_tensor(attention_mask) and attention_mask.ndim == 2:
        return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:].to(device)
    past = cache.get_seq_length() if cache is not None else 0
    return (torch.arange(length, device=device) + past).unsqueeze(0)
