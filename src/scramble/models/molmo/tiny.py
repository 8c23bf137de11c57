"""Creates a tiny random Molmo v1 in the released layout, with a tokenizer trained on the given texts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from scramble.models.molmo import MolmoConfig, MolmoForCausalLM, MolmoImageProcessor, MolmoProcessor
from scramble.models.molmo.processing_molmo import IMAGE_TOKENS
from scramble.models.tiny.parts import TinyTokenizer, random_model, save


def save_tiny_molmo(
    folder: str | Path,
    texts: Iterable[str],
    seed: int = 0,
    *,
    image_size: int = 48,
    patch_size: int = 6,
    max_crops: int = 4,
    vision_layers: int = 3,
    vision_width: int = 96,
    layers: int = 4,
    width: int = 128,
    heads: int = 4,
    kv_heads: int = 2,
    vocab_size: int = 1024,
    like_7b_o: bool = False,
    max_shard_size: str = "5GB",
) -> Path:
    """Write a tiny Molmo v1 (about 1.3 M parameters by default) and return its folder.

    A crop of 48 px has 16 features, and crops overlap by a quarter on each side. Image tokens are in the second
    embedding table. ``like_7b_o`` sets the options of Molmo-7B-O. A ``max_shard_size`` below the model's size produces
    shards and an index.
    """
    end = "<|endoftext|>"
    tokens = TinyTokenizer(texts, [end], eos=end, pad=end, vocab_size=vocab_size, roles=("User", "Assistant"))
    tokens.backend.add_special_tokens(list(IMAGE_TOKENS))  # their ids follow the vocabulary (second embedding table)
    names = ("image_start_token", "image_end_token", "image_patch_token", "image_col_token", "image_token")
    tokenizer = tokens.wrapped(**dict(zip(names, IMAGE_TOKENS, strict=True)))
    config = MolmoConfig(
        vocab_size=tokens.size,
        embedding_size=tokens.size,
        hidden_size=width,
        intermediate_size=5 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads if like_7b_o else kv_heads,
        qkv_bias=not like_7b_o,
        attention_layer_norm=like_7b_o,
        norm_after=like_7b_o,
        rope_theta=5e5 if like_7b_o else 1e6,
        vision_config={
            "hidden_size": vision_width,
            "intermediate_size": 2 * vision_width,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": 4,
            "image_size": image_size,
            "patch_size": patch_size,
            "feature_layers": [-2, -3],
        },
    )
    model = random_model(MolmoForCausalLM, config, seed)
    pool = config.vision_config.pooling_size
    margin = image_size // patch_size // 4 // pool * pool
    side = config.vision_config.features_per_side
    processor = MolmoProcessor(
        MolmoImageProcessor(
            max_crops=max_crops,
            overlap_margins=[margin, margin],
            base_image_input_size=[image_size, image_size],
            image_token_length_h=side,
            image_token_length_w=side,
            image_patch_size=patch_size,
        ),
        tokenizer,
    )
    return save(folder, model, processor, tokens.special, max_shard_size=max_shard_size)
