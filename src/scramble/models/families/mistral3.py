"""Supports Mistral Small 3.1 and 3.2 and Ministral 3 with transformers' native classes (Pixtral's tower)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from scramble.models.family import Family, ModelError, by_prompt
from scramble.records import Turn, conversation
from scramble.trie.backbone import ImageInputs


class Mistral3(Family):
    """Supports Mistral 3. An image keeps its aspect ratio, with one token per 28 px square and a marker after each row.

    A prompt consists of BOS, ``[INST]``, images, text and ``[/INST]``, and EOS follows the answer. The saved chat
    templates are not used, because they add a long system message with the current date, so the same prompt would
    differ every day.
    """

    name = "mistral3"
    model_types = ("mistral3",)
    needs_torchvision = True

    def render_prompt(self, processor: Any, text: str, num_images: int, history: Sequence[Turn] = ()) -> str:
        """Return the conversation as text. Image placeholders are not expanded."""
        rendered = str(processor.tokenizer.bos_token)
        for turn in conversation(text, num_images, history):
            content = processor.image_token * turn.num_images + turn.text
            if turn.role == "assistant":
                rendered += self.render_completion(processor, content)
            else:
                tag = "INST" if turn.role == "user" else "SYSTEM_PROMPT"
                rendered += f"[{tag}]{content}[/{tag}]"
        return rendered

    def render_completion(self, processor: Any, text: str) -> str:
        """Return the text and EOS."""
        return f"{text}{processor.tokenizer.eos_token}"

    def check_size(self, processor: Any, size: tuple[int, int]) -> None:
        """Raise ModelError for an image with fewer than two squares.

        Transformers fails on an image with one square. A narrow image has no square if resizing its longer side reduces
        the shorter side to zero pixels.
        """
        side = processor.patch_size * processor.spatial_merge_size
        resized = self.image_options.size(size)
        ratio = max(1.0, max(resized) / processor.image_processor.size["longest_edge"])
        squares = math.prod(math.ceil(int(pixels / ratio) / side) for pixels in resized)
        if squares < 2:
            height, width = size
            raise ModelError(
                f"an image of {width} x {height} px is too small or too narrow for {self.name}, which needs at "
                f"least 2 squares of {side} px per image, not {squares}: remove the image, or set "
                "model.square_padding=true for narrow images"
            )

    def features(self, model: Any, images: Sequence[ImageInputs]) -> list[Tensor]:
        """Compute the features (F_i, D) of each prompt's images in token order, in one tower pass over all images."""
        pixels = [inputs["pixel_values"] for inputs in images]
        height, width = (max(tensor.shape[axis] for tensor in pixels) for axis in (-2, -1))
        # Pad all images to the size of the largest one, as the processor does. The tower removes this padding.
        padded = [nn.functional.pad(t, (0, width - t.shape[-1], 0, height - t.shape[-2])) for t in pixels]
        sizes = torch.cat([inputs["image_sizes"] for inputs in images])
        per_image = model.get_image_features(torch.cat(padded), sizes, return_dict=True).pooler_output
        return by_prompt(per_image, [len(tensor) for tensor in pixels])
