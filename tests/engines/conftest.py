"""Defines the fixtures of the tests of engines."""

from __future__ import annotations

from pathlib import Path

import pytest

TEXTS = ["A red circle is left of a blue square.", "What is above the green triangle?", "a small yellow star"]


@pytest.fixture(scope="session")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny text model with the tiny tokenizer and a chat template."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from scramble.models.tiny.parts import TinyTokenizer, chatml_template, random_model, save

    folder = tmp_path_factory.mktemp("models") / "llama"
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = TinyTokenizer(TEXTS, specials, eos="<|im_end|>", pad="<|endoftext|>", vocab_size=400)
    config = LlamaConfig(
        vocab_size=tokens.size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=256,
        **tokens.special,
    )
    model = random_model(LlamaForCausalLM, config, 0)
    model.generation_config.do_sample = True  # `transformers serve` samples only if the generation config enables it
    tokenizer = tokens.wrapped()
    tokenizer.chat_template = chatml_template("")
    return save(folder, model, tokenizer, tokens.special)


@pytest.fixture(scope="session")
def vision_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny model that takes images."""
    from scramble.models.tiny import save_tiny_internvl

    return save_tiny_internvl(tmp_path_factory.mktemp("models") / "internvl", TEXTS, seed=0)
