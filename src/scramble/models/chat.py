"""Try a model out: one answer about an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from scramble.models.family import ModelError
from scramble.models.vlm import VLM


@torch.inference_mode()
def answer(
    vlm: VLM,
    text: str,
    images: Sequence[Image.Image] = (),
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    seed: int | None = None,
) -> str:
    """The model's answer to ``text`` about ``images``.

    Args:
        vlm: the model, with or without adapter.
        text: the user's turn.
        images: of any mode and size, upright or EXIF-rotated.
        max_new_tokens: most tokens of the answer.
        temperature: 0 takes the likeliest token at each step.
        seed: of the sampling, where ``temperature`` is above 0.

    Raises:
        ModelError: a number of tokens or a temperature that cannot be.
    """
    if not isinstance(max_new_tokens, int) or max_new_tokens < 1:
        raise ModelError(f"max_new_tokens={max_new_tokens}: give a whole number of at least 1")
    if not isinstance(temperature, (int, float)) or not 0 <= temperature < float("inf"):
        raise ModelError(f"temperature={temperature}: give 0 (the likeliest tokens) or a positive number")
    family, processor = vlm.family, vlm.processor
    inputs = family.generation_inputs(family.encode_prompt(processor, text, images), vlm.model)
    if seed is not None:
        torch.manual_seed(seed)
    sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    ids = vlm.model.generate(**inputs, max_new_tokens=max_new_tokens, **sampling)
    new = ids[0, inputs["input_ids"].shape[1] :]
    return processor.tokenizer.decode(new, skip_special_tokens=True).strip()
