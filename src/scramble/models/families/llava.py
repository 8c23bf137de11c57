"""LLaVA-1.5 with transformers' native classes (``llava-hf/llava-1.5-7b-hf`` and ``-13b-hf``)."""

from __future__ import annotations

from typing import Any

from scramble.models.family import Family

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. "
)


class Llava(Family):
    """LLaVA-1.5: one view of 336 px, 576 tokens; its training padded images to squares (``square_padding``).

    The prompt is the one it was trained with: BOS, system message, ``USER:``, image, a line break, text,
    ``ASSISTANT:``; EOS after the answer. The processor's chat template leaves BOS, system message and EOS out.
    """

    name = "llava"
    model_types = ("llava",)

    def render_prompt(self, processor: Any, text: str, num_images: int) -> str:
        """The user turn and the opening of the assistant's turn, image placeholders not yet expanded."""
        images = f"{processor.image_token}\n" * num_images
        return f"{processor.tokenizer.bos_token or ''}{SYSTEM}USER: {images}{text} ASSISTANT:"

    def render_completion(self, processor: Any, text: str) -> str:
        """Text and EOS. No space before the text: tokenised apart, it gets the tokenizer's own prefix space."""
        return f"{text}{processor.tokenizer.eos_token}"
