"""Implements Molmo v1's vision tower, attention pooling and projector.

Parameters have the same names as in the released weights.

Shape suffixes: N crops of all images, P patches per crop, T = P + 1 tokens per crop (class token first), E channels of
the tower, X channels of the concatenated layers (2 E), F features per crop, S patches pooled into one feature, D
decoder width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel

from .configuration_molmo import MolmoConfig, MolmoVisionConfig


def at_least_float32(states: Tensor) -> Tensor:
    """Convert tensors in half precision to float32. Tensors in float32 and float64 are unchanged."""
    return states.to(torch.promote_types(states.dtype, torch.float32))


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Compute plain softmax attention. The mask is added to the scores.

    The query has the shape (B, H, L, h), and key and value have the shape (B, K, S, h), where K divides H. Return the
    output (B, L, H, h) and the weights (B, H, L, S).
    """
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = at_least_float32(scores).softmax(dim=-1).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class MolmoVisionAttention(nn.Module):
    """Computes multi-head attention of queries over keys and values, without a mask.

    Args:
        input_size: number of channels of the inputs; the output has ``config.hidden_size`` channels.
    """

    def __init__(self, config: MolmoVisionConfig, input_size: int) -> None:
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.wq = nn.Linear(input_size, config.hidden_size)
        self.wk = nn.Linear(input_size, config.hidden_size)
        self.wv = nn.Linear(input_size, config.hidden_size)
        self.wo = nn.Linear(config.hidden_size, config.hidden_size)

    def _split_heads(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def forward(self, queries: Tensor, keys: Tensor, implementation: str) -> Tensor:
        """Attend from queries (N, Q, input_size) to keys (N, S, input_size), and return the output (N, Q, E)."""
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention)
        output, _ = attend(
            self,
            self._split_heads(self.wq(queries)),
            self._split_heads(self.wk(keys)),
            self._split_heads(self.wv(keys)),
            None,
            dropout=0.0,
            scaling=self.scaling,
            is_causal=False,
        )
        return self.wo(output.flatten(-2))


class MolmoVisionMLP(nn.Module):
    def __init__(self, config: MolmoVisionConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.act = ACT2FN[config.hidden_act]
        self.w2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, states: Tensor) -> Tensor:
        return self.w2(self.act(self.w1(states)))


class MolmoVisionBlock(GradientCheckpointingLayer):
    def __init__(self, config: MolmoVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.attention = MolmoVisionAttention(config, config.hidden_size)
        self.feed_forward = MolmoVisionMLP(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.ffn_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, states_NTE: Tensor) -> Tensor:
        # Every token attends to every other token, so FlexAttention could not skip anything and would only cost
        # compilation time.
        chosen = self.config._attn_implementation
        implementation = "sdpa" if chosen == "flex_attention" else chosen
        normed_NTE = self.attention_norm(states_NTE)
        states_NTE = states_NTE + self.attention(normed_NTE, normed_NTE, implementation)
        return states_NTE + self.feed_forward(self.ffn_norm(states_NTE))


class MolmoVisionEncoder(nn.Module):
    def __init__(self, config: MolmoVisionConfig) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList([MolmoVisionBlock(config) for _ in range(config.num_hidden_layers)])


class MolmoVisionTransformer(PreTrainedModel):
    """Implements CLIP's ViT, with the pixels of patches as inputs."""

    config: MolmoVisionConfig
    config_class = MolmoVisionConfig
    main_input_name = "images"
    input_modalities = "image"
    supports_gradient_checkpointing = True
    _no_split_modules = ["MolmoVisionBlock"]  # noqa: RUF012
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: MolmoVisionConfig) -> None:
        super().__init__(config)
        num_patches = config.patches_per_side**2
        self.class_embedding = nn.Parameter(torch.zeros(config.hidden_size))
        self.positional_embedding = nn.Parameter(torch.zeros(num_patches + 1, config.hidden_size))
        pixels = config.num_channels * config.patch_size**2
        self.patch_embedding = nn.Linear(pixels, config.hidden_size, bias=False)
        self.pre_ln = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.transformer = MolmoVisionEncoder(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.patch_embedding

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MolmoVisionTransformer):
            init.normal_(module.class_embedding, mean=0.0, std=self.config.initializer_range)
            init.normal_(module.positional_embedding, mean=0.0, std=self.config.initializer_range)

    def forward(self, images_NPx: Tensor) -> Tensor:
        """Map pixels (N, P, 3 * patch_size**2) to the concatenated patch states of ``feature_layers`` (N, P, X)."""
        expected = (self.positional_embedding.shape[0] - 1, self.patch_embedding.in_features)
        if tuple(images_NPx.shape[1:]) != expected:
            raise ValueError(
                f"a crop must have the shape (patches, pixels) = {expected}, not {tuple(images_NPx.shape[1:])}: "
                "use the processor saved with this model"
            )
        states_NPE = self.patch_embedding(images_NPx)
        class_N1E = self.class_embedding.to(states_NPE.dtype).expand(len(states_NPE), 1, -1)
        states_NTE = torch.cat([class_N1E, states_NPE], dim=1) + self.positional_embedding.to(states_NPE.dtype)
        states_NTE = self.pre_ln(states_NTE)

        depth = len(self.transformer.resblocks)
        layers = [layer % depth for layer in self.config.feature_layers]
        outputs = {}
        for index in range(max(layers) + 1):  # the last block of the released weights is not used
            states_NTE = self.transformer.resblocks[index](states_NTE)
            outputs[index] = states_NTE
        return torch.cat([outputs[index][:, 1:] for index in layers], dim=-1)


class MolmoImageProjector(nn.Module):
    """Computes the gated MLP w2(silu(w1 x) * w3 x), whose output has the decoder's width."""

    def __init__(self, config: MolmoConfig) -> None:
        super().__init__()
        width, hidden = config.vision_config.hidden_size, config.intermediate_size // 2
        self.w1 = nn.Linear(width, hidden, bias=False)
        self.w2 = nn.Linear(hidden, config.hidden_size, bias=False)
        self.w3 = nn.Linear(width, hidden, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        return self.w2(nn.functional.silu(self.w1(states)) * self.w3(states))


class MolmoVisionBackbone(nn.Module):
    """Maps crops to features of the decoder's width.

    The tower, the padding embedding, the attention pooling and the projector are applied in this order.
    """

    def __init__(self, config: MolmoConfig) -> None:
        super().__init__()
        vision = config.vision_config
        channels = vision.hidden_size * len(vision.feature_layers)
        self.config = vision
        self.image_vit = MolmoVisionTransformer(vision)
        self.pad_embed = nn.Parameter(torch.zeros(2, channels))
        self.image_pooling_2d = MolmoVisionAttention(vision, channels)
        self.image_projector = MolmoImageProjector(config)

    def forward(self, images_NPx: Tensor, image_masks_NP: Tensor | None = None) -> Tensor:
        """Return the features (N, F, D), row by row within each crop.

        Args:
            images_NPx: normalised pixels of the patches, (N, P, 3 * patch_size**2). Crops in which all values are -1
                are padding. The tower skips these crops, and their patch states are zero.
            image_masks_NP: fraction of each patch that is not padding, or -1 in a crop without a mask; None adds no
                padding embedding.
        """
        dtype = self.pad_embed.dtype
        is_crop_N = ~(images_NPx == -1).all(dim=-1).all(dim=-1)
        crops_NPX = self.image_vit(images_NPx[is_crop_N].to(dtype))
        states_NPX = crops_NPX.new_zeros(*images_NPx.shape[:2], crops_NPX.shape[-1])
        states_NPX = states_NPX.index_put((is_crop_N,), crops_NPX)

        if image_masks_NP is not None:
            padding_NP = image_masks_NP == 0
            partial_NP = (image_masks_NP < 1) & ~padding_NP
            for row, where_NP in enumerate((padding_NP, partial_NP)):
                states_NPX = states_NPX + self.pad_embed[row] * where_NP.unsqueeze(-1).to(dtype)
        return self.image_projector(self._pool(states_NPX))

    def _pool(self, states_NPX: Tensor) -> Tensor:
        """Pool each square of ``pooling_size``**2 patches by attention with their mean as query, and return (N, F, E).

        If the grid's side is not a multiple of ``pooling_size``, rows and columns of zeros are added at the bottom and
        on the right. The mean and the attention include these zeros, as in Ai2's code (allenai/molmo at 793fa38,
        olmo/model.py, MolmoVisionBackbone.forward), because weights for such grids were trained with these zeros.
        """
        patches, side, pool = self.config.patches_per_side, self.config.features_per_side, self.config.pooling_size
        if missing := side * pool - patches:
            grid = states_NPX.unflatten(1, (patches, patches))
            states_NPX = nn.functional.pad(grid, (0, 0, 0, missing, 0, missing)).flatten(1, 2)
        windows = states_NPX.unflatten(1, (side, pool, side, pool)).transpose(2, 3)  # (N, side, side, pool, pool, X)
        windows_WSX = windows.reshape(-1, pool * pool, states_NPX.shape[-1])
        query_W1X = windows_WSX.mean(dim=1, keepdim=True)
        # With four keys per query, fused kernels are not faster than plain matrix products.
        pooled_W1E = self.image_pooling_2d(query_W1X, windows_WSX, "eager")
        return pooled_W1E.view(len(states_NPX), side * side, -1)
