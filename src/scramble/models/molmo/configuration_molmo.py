"""Defines the configuration of Molmo v1 (Deitke et al., 2024, arXiv 2409.17146), as in the released ``config.json``."""

from __future__ import annotations

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec


@strict
class MolmoVisionConfig(PreTrainedConfig):
    """Configures the vision tower (CLIP ViT-L/14 at 336 px without its last block) and the pooling after it.

    The released checkpoints do not contain these values, because all of them use the defaults.

    Args:
        feature_layers: indices of the blocks whose outputs are concatenated. Index -1 is the last block.
        pooling_size: side of the square of patches that is pooled to one feature. If a grid's side is not a multiple of
            ``pooling_size``, the grid is padded with zeros on the right and at the bottom.
    """

    model_type = "molmo_vision"
    base_config_key = "vision_config"

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 23
    num_attention_heads: int = 16
    num_channels: int = 3
    image_size: int = 336
    patch_size: int = 14
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    feature_layers: Any = None  # list[int] after construction
    pooling_size: int = 2
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        if self.feature_layers is None:
            self.feature_layers = [-2, -9]
        super().__post_init__(**kwargs)

    @property
    def patches_per_side(self) -> int:
        return self.image_size // self.patch_size

    @property
    def features_per_side(self) -> int:
        return -(-self.patches_per_side // self.pooling_size)

    def validate_architecture(self) -> None:
        """Raise ValueError if sizes are inconsistent."""
        super().validate_architecture()
        if self.image_size % self.patch_size:
            raise ValueError(
                f"vision_config.image_size={self.image_size} must be a multiple of patch_size={self.patch_size}"
            )
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"vision_config.hidden_size={self.hidden_size} must be a multiple of "
                f"num_attention_heads={self.num_attention_heads}"
            )
        for layer in self.feature_layers:
            if not -self.num_hidden_layers <= layer < self.num_hidden_layers:
                raise ValueError(
                    f"vision_config.feature_layers contains {layer}, but the tower has {self.num_hidden_layers} "
                    f"blocks: use indices from {-self.num_hidden_layers} to {self.num_hidden_layers - 1}"
                )


@strict
class MolmoConfig(PreTrainedConfig):
    """Configures Molmo v1 with the names of the released ``config.json``. The defaults are those of Molmo-7B-D-0924.

    Args:
        vocab_size: number of tokens of the tokenizer before the special image tokens.
        embedding_size: rows of the embedding table and of the head, at least ``vocab_size``; None means ``vocab_size``.
        additional_vocab_size: rows of the second embedding table. The ids of its rows start at ``embedding_size`` and
            are never predicted, because the head has no rows for them.
        intermediate_size: width of the fused gate and up projection, twice the input width of ``ff_out``.
        qkv_bias: whether the fused query, key and value projection has a bias.
        attention_layer_norm: whether an RMS norm is applied to all query and key channels before they are split into
            heads (7B-O).
        norm_after: whether norms are applied to the outputs of attention and MLP instead of their inputs (7B-O).
        image_patch_token_id: id of the token to whose embedding features are added; None means the third additional id.
    """

    model_type = "molmo"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["cache", "past_key_values"]
    attribute_map: ClassVar[dict[str, str]] = {"image_token_id": "image_patch_token_id"}
    sub_configs_defaults: ClassVar[dict[str, Any]] = {"vision_config": SubConfigSpec(MolmoVisionConfig)}

    vocab_size: int = 152064
    embedding_size: Any = 152064  # int after construction, like all fields of type Any below
    additional_vocab_size: int = 128
    hidden_size: int = 3584
    intermediate_size: int = 37888
    num_hidden_layers: int = 28
    num_attention_heads: int = 28
    num_key_value_heads: Any = 4
    max_position_embeddings: int = 4096
    rope_theta: float = 1_000_000.0
    layer_norm_eps: float = 1e-6
    layer_norm_type: str = "rms"
    qkv_bias: bool = True
    attention_layer_norm: bool = False
    norm_after: bool = False
    clip_qkv: float | None = None
    weight_tying: bool = False
    tie_word_embeddings: bool = False
    use_position_ids: bool = True
    use_cache: bool = True
    initializer_range: float = 0.02
    image_patch_token_id: Any = None
    vision_config: Any = None  # MolmoVisionConfig after construction

    def __post_init__(self, **kwargs: Any) -> None:
        if kwargs.get("moe_num_experts"):
            raise ValueError(
                "the model is a mixture of experts (MolmoE-1B), which is not supported: use Molmo-7B-D-0924, "
                "Molmo-7B-O-0924 or Molmo-72B-0924"
            )
        if self.embedding_size is None:
            self.embedding_size = self.vocab_size
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.image_patch_token_id is None:
            self.image_patch_token_id = self.embedding_size + 2
        super().__post_init__(**kwargs)

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    def validate_token_ids(self) -> None:
        """Raise ValueError unless the image token is in the second embedding table, outside the vocabulary."""
        last = self.embedding_size + self.additional_vocab_size - 1
        if not self.embedding_size <= self.image_patch_token_id <= last:
            raise ValueError(
                f"image_patch_token_id must be an additional id ({self.embedding_size} to {last}), not "
                f"{self.image_patch_token_id}"
            )

    def validate_architecture(self) -> None:
        """Raise ValueError if sizes are inconsistent, or if an option has a value that no released model uses."""
        super().validate_architecture()
        if self.embedding_size < self.vocab_size:
            raise ValueError(f"embedding_size must be at least vocab_size={self.vocab_size}, not {self.embedding_size}")
        if self.hidden_size % self.num_attention_heads or self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads} must divide hidden_size={self.hidden_size} and be a "
                f"multiple of num_key_value_heads={self.num_key_value_heads}"
            )
        fixed = {"layer_norm_type": "rms", "clip_qkv": None, "weight_tying": False, "tie_word_embeddings": False}
        for name, value in fixed.items():
            if getattr(self, name) != value:
                raise ValueError(
                    f"{name} must be {value!r}, as in the released Molmo v1 models, not {getattr(self, name)!r}"
                )


__all__ = ["MolmoConfig", "MolmoVisionConfig"]
