"""Generates a model's answer to a text about images."""

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
    """Return the model's answer to ``text`` about ``images``.

    Args:
        vlm: the model, with or without an adapter.
        text: the user's turn.
        images: images of any mode and size. EXIF rotation is applied.
        max_new_tokens: maximum number of tokens of the answer.
        temperature: 0 selects the most likely token at each step.
        seed: seed for sampling, if ``temperature`` is above 0.

    Raises:
        ModelError: the number of tokens or the temperature is invalid, or ``text`` contains a control token.
    """
    if not isinstance(max_new_tokens, int) or max_new_tokens < 1:
        raise ModelError(f"max_new_tokens must be a whole number of at least 1, not {max_new_tokens}")
    if not isinstance(temperature, (int, float)) or not 0 <= temperature < float("inf"):
        raise ModelError(f"temperature must be 0 (most likely tokens) or a positive number, not {temperature}")
    family, processor = vlm.family, vlm.processor
    inputs = family.generation_inputs(family.encode_prompt(processor, text, images), vlm.model)
    if seed is not None:
        torch.manual_seed(seed)
    sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    ids = vlm.model.generate(**inputs, max_new_tokens=max_new_tokens, **sampling)
    new = ids[0, inputs["input_ids"].shape[1] :]
    return processor.tokenizer.decode(new, skip_special_tokens=True).strip()
