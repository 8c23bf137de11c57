"""LLaVA-1.5 with transformers' native classes (``llava-hf/llava-1.5-7b-hf`` and ``-13b-hf``)."""

from __future__ import annotations

from typing import Any

from scramble.models.family import Family

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. "
)


class Llava(Family):
    """LLaVA-1.5: one view of 336 px with 576 tokens. It was trained on images padded to squares (``square_padding``).

    The prompt has the format of its training: BOS, system message, ``USER:``, image, a line break, text,
    ``ASSISTANT:``, and EOS after the answer. The processor's chat template omits BOS, system message and EOS.
    """

    name = "llava"
    model_types = ("llava",)

    def render_prompt(self, processor: Any, text: str, num_images: int) -> str:
        """The user turn and the start of the assistant's turn as text; image placeholders are not expanded."""
        images = f"{processor.image_token}\n" * num_images
        return f"{processor.tokenizer.bos_token or ''}{SYSTEM}USER: {images}{text} ASSISTANT:"

    def render_completion(self, processor: Any, text: str) -> str:
        """The text and EOS. There is no space before the text, because the tokenizer adds a prefix space itself."""
        return f"{text}{processor.tokenizer.eos_token}"
