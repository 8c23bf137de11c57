"""Creates a tiny Gemma 4.

Images keep their aspect ratio, heads of sliding and full attention have different sizes, and logits are soft-capped.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scramble.models.families.registry import family_named
from scramble.models.tiny.parts import TinyTokenizer, random_model, save, small_decoder

SPECIALS = [
    "<pad>",
    "<eos>",
    "<bos>",
    "<|turn>",
    "<turn|>",
    "<|image>",
    "<|image|>",
    "<image|>",
    "<|audio>",
    "<|audio|>",
    "<audio|>",
    "<|video|>",
]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|image|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] | trim }}{% endif %}"
    "{% endfor %}<turn|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn>model\n{% endif %}"
)


def save_tiny_gemma4(
    folder: str | Path,
    texts: Iterable[str],
    seed: int = 0,
    *,
    sliding_window: int = 24,
    experts: int = 0,
    per_layer_width: int = 0,
) -> Path:
    """Write a tiny native Gemma 4 and return its folder. An image is encoded as up to 70 tokens, each of which
    represents 8 x 8 px.

    Args:
        folder, texts, seed: see :func:`scramble.models.tiny.save_tiny`.
        sliding_window: number of tokens that a token attends to in layers with a sliding window.
        experts: number of experts of each layer, of which two are active; 0 for a dense decoder.
        per_layer_width: width of the per-layer token embeddings. With these embeddings, the model resembles E2B: image
            tokens attend causally, and the last layers use the keys and values of earlier layers. 0 disables
            these embeddings.
    """
    from transformers import Gemma4Config, Gemma4ForConditionalGeneration, Gemma4ImageProcessorPil

    tokens = TinyTokenizer(
        texts, SPECIALS, bos="<bos>", eos="<turn|>", pad="<pad>", roles=("user", "model"), prefix_space=False
    )
    decoder = small_decoder(
        vocab_size=tokens.size,
        vocab_size_per_layer_input=tokens.size,
        num_hidden_layers=5 if per_layer_width else 4,
        num_global_key_value_heads=1,
        head_dim=16,
        global_head_dim=32,
        attention_k_eq_v=not per_layer_width,
        layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        sliding_window=sliding_window,
        final_logit_softcapping=3.0,  # close to the largest logits, so that the bound has an effect
        initializer_range=0.1,  # with the default, 0.02, gradients in float32 have large rounding errors
        hidden_size_per_layer_input=per_layer_width,
        use_bidirectional_attention="vision",
        **tokens.special,
    )
    if per_layer_width:
        decoder |= {
            "layer_types": [*decoder["layer_types"], "full_attention"],
            "num_kv_shared_layers": 3,
            "use_double_wide_mlp": True,
            "use_bidirectional_attention": None,
        }
    if experts:
        decoder |= {
            "enable_moe_block": True,
            "num_experts": experts,
            "top_k_experts": 2,
            "moe_intermediate_size": 32,
        }
    config = Gemma4Config(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 8,
            "patch_size": 4,
            "pooling_kernel_size": 2,
            "position_embedding_size": 512,
        },
        text_config=decoder,
        audio_config=None,
        boi_token_id=tokens.ids["<|image>"],
        image_token_id=tokens.ids["<|image|>"],
        eoi_token_id=tokens.ids["<image|>"],
        boa_token_id=tokens.ids["<|audio>"],
        audio_token_id=tokens.ids["<|audio|>"],
        eoa_token_index=tokens.ids["<audio|>"],
        video_token_id=tokens.ids["<|video|>"],
    )
    model = random_model(Gemma4ForConditionalGeneration, config, seed)
    processor = family_named("gemma4").processor_class(
        image_processor=Gemma4ImageProcessorPil(patch_size=4, pooling_kernel_size=2, max_soft_tokens=70),
        tokenizer=tokens.wrapped(
            eos="<eos>",
            boi_token="<|image>",
            image_token="<|image|>",
            eoi_token="<image|>",
            boa_token="<|audio>",
            audio_token="<|audio|>",
            eoa_token="<audio|>",
        ),
        image_seq_length=70,
        chat_template=TEMPLATE,
        **_native_parts(),
    )
    return save(folder, model, processor, tokens.special)


def _native_parts() -> dict[str, Any]:
    """Return the video and audio parts of the native processor, which is used if torchvision is installed."""
    from transformers.utils import is_torchvision_available

    if not is_torchvision_available():
        return {}
    from transformers import Gemma4AudioFeatureExtractor, Gemma4VideoProcessor

    return {"video_processor": Gemma4VideoProcessor(), "feature_extractor": Gemma4AudioFeatureExtractor()}
