"""Qwen-VL: tries are refused with a one-line error; chat uses its processor, which needs torchvision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers.utils import is_torchvision_available

from scramble.models import ModelError, load_vlm
from scramble.models.chat import answer
from scramble.models.families.registry import family_named
from scramble.models.tiny.parts import chatml_template, ids_of, make_tokenizer, random_model, wrap_tokenizer

SPECIALS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]


def test_tries_are_refused() -> None:
    with pytest.raises(ModelError, match="three axes"):
        family_named("qwen_vl").backbone(torch.nn.Linear(1, 1))


@pytest.mark.skipif(not is_torchvision_available(), reason="Qwen-VL's processor needs torchvision")
def test_chat(tmp_path: Path) -> None:
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    backend = make_tokenizer(["describe the image", "a red circle"], 400, SPECIALS)
    ids = ids_of(backend, SPECIALS)
    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": backend.get_vocab_size(),
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 1, 1]},
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "depth": 2,
            "num_heads": 2,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [1],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    random_model(Qwen2_5_VLForConditionalGeneration, config, 0).save_pretrained(tmp_path)
    Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=28 * 28 * 16),
        tokenizer=wrap_tokenizer(backend, eos="<|im_end|>", pad="<|endoftext|>"),
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=chatml_template("<|vision_start|><|image_pad|><|vision_end|>"),
    ).save_pretrained(tmp_path)
    vlm = load_vlm(tmp_path)
    image = Image.linear_gradient("L").resize((90, 60))
    first = answer(vlm, "describe the image", [image], max_new_tokens=8)
    vlm.model.generation_config.use_cache = False
    assert answer(vlm, "describe the image", [image], max_new_tokens=8) == first
    prompt = vlm.family.encode_prompt(vlm.processor, "describe the image", [image])
    assert vlm.family.num_tokens(vlm.processor, "describe the image", [(60, 90)]) == len(prompt.input_ids)
