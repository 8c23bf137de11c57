"""Writes tiny models of families without a trie (PaliGemma and Mllama) in the released file formats."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from scramble.models.tiny.parts import TinyTokenizer, random_model, save

MLLAMA_SPECIALS = [
    "<|begin_of_text|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|finetune_right_pad_id|>",
    "<|image|>",
]
MLLAMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|image|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def lively(model: Any) -> Any:
    """Enlarge the weights of all layers, so that what a model generates depends on image and prompt."""
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed_tokens" not in name:  # in PaliGemma also the head: the last token would be repeated
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=noise))
    return model


def save_tiny_paligemma(folder: Path, texts: Iterable[str], seed: int = 0) -> Path:
    """Write a tiny native PaliGemma and return its folder. 28 px with patches of 7 px result in 16 image tokens."""
    from transformers import (
        PaliGemmaConfig,
        PaliGemmaForConditionalGeneration,
        PaliGemmaProcessor,
        SiglipImageProcessorPil,
    )

    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<image>"]
    tokens = TinyTokenizer(texts, specials, bos="<bos>", eos="<eos>", pad="<pad>", prefix_space=False)
    image_processor: Any = SiglipImageProcessorPil(size={"height": 28, "width": 28})
    image_processor.image_seq_length = 16
    processor = PaliGemmaProcessor(
        image_processor=image_processor,
        tokenizer=tokens.wrapped(image_token="<image>"),
    )
    config = PaliGemmaConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 7,
            "vision_use_head": False,
        },
        text_config={
            "model_type": "gemma",
            "vocab_size": len(processor.tokenizer),  # the processor has added tokens of locations and segments
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "max_position_embeddings": 1024,
            **tokens.special,
        },
        image_token_index=tokens.ids["<image>"],
        projection_dim=32,
        hidden_size=32,
    )
    model = lively(random_model(PaliGemmaForConditionalGeneration, config, seed))
    return save(folder, model, processor, tokens.special)


def save_tiny_mllama(folder: Path, texts: Iterable[str], seed: int = 0) -> Path:
    """Write a tiny native Mllama (Llama 3.2 Vision) and return its folder: up to four tiles of 28 px."""
    from transformers import (
        MllamaConfig,
        MllamaForConditionalGeneration,
        MllamaImageProcessorPil,
        MllamaProcessor,
    )

    named: dict[str, Any] = {"bos": "<|begin_of_text|>", "eos": "<|eot_id|>", "pad": "<|finetune_right_pad_id|>"}
    tokens = TinyTokenizer(texts, MLLAMA_SPECIALS, **named, prefix_space=False)
    config = MllamaConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 2,
            "image_size": 28,
            "patch_size": 7,
            "vision_output_dim": 64,
            "intermediate_layers_indices": [0],
            "max_num_tiles": 4,
            "supported_aspect_ratios": [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]],
        },
        text_config={
            "vocab_size": tokens.size,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "cross_attention_layers": [1],
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 1024,
            **tokens.special,
        },
        image_token_index=tokens.ids["<|image|>"],
    )
    model = lively(random_model(MllamaForConditionalGeneration, config, seed))
    for layer in model.model.language_model.layers:
        for name in ("cross_attn_attn_gate", "cross_attn_mlp_gate"):  # 0 at the start: the image would have no effect
            if hasattr(layer, name):
                getattr(layer, name).data.fill_(1.0)
    tokenizer = tokens.wrapped(image_token="<|image|>")
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    processor = MllamaProcessor(
        image_processor=MllamaImageProcessorPil(size={"height": 28, "width": 28}, max_image_tiles=4),
        tokenizer=tokenizer,
        chat_template=MLLAMA_TEMPLATE,
    )
    return save(folder, model, processor, tokens.special)


MAKERS = {"mllama": save_tiny_mllama, "paligemma": save_tiny_paligemma}
