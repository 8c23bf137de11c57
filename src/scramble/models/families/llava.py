"""Supports LLaVA-1.5, LLaVA-Interleave, LLaVA-NeXT and LLaVA-OneVision with transformers' native classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlavaOnevisionConfig, LlavaOnevisionProcessor

from scramble.models.families.image_only import ImageOnly, choose_processor
from scramble.models.family import Family, ModelError, by_prompt
from scramble.records import Turn, conversation
from scramble.trie.backbone import ImageInputs

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. "
)


class LlavaOnevisionImageProcessor(ImageOnly, LlavaOnevisionProcessor):
    """Provides the native processor of LLaVA-OneVision without its video part."""

    video_processor_type = "LlavaOnevisionVideoProcessor"

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        num_image_tokens: int | None = None,
        vision_feature_select_strategy: str | None = None,
        chat_template: str | None = None,
        image_token: str = "<image>",
        video_token: str = "<video>",
        vision_aspect_ratio: str = "anyres_max_9",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            image_processor,
            tokenizer,
            num_image_tokens=num_image_tokens,
            vision_feature_select_strategy=vision_feature_select_strategy,
            chat_template=chat_template,
            image_token=image_token,
            video_token=video_token,
            vision_aspect_ratio=vision_aspect_ratio,
            **kwargs,
        )


class Llava(Family):
    """Supports LLaVA-1.5 (336 px, 576 tokens) and LLaVA-Interleave (384 px, 729 tokens), with one view per image.

    LLaVA-1.5 was trained on images padded to squares (``square_padding``). Its prompt has the format used in training:
    BOS, system message, ``USER:``, image, a line break, text and ``ASSISTANT:``. EOS follows the answer.

    Several chat templates differ from the format used in training. Templates with Vicuna's roles omit BOS, system
    message and EOS. The template of LLaVA-v1.6-Mistral omits BOS and ends an answer with the characters ``<\\s>``. The
    template of LLaVA-OneVision has a space after ``<|im_start|>assistant`` in a finished turn, but not in the
    generation prompt. This class adds the missing parts and always places an answer directly after the generation
    prompt.
    """

    name = "llava"
    model_types = ("llava",)

    def render_prompt(self, processor: Any, text: str, num_images: int, history: Sequence[Turn] = ()) -> str:
        """Return the conversation and the start of the assistant's turn as text.

        Image placeholders are not expanded.
        """
        bos = processor.tokenizer.bos_token or ""
        if not super().render_prompt(processor, text, num_images).removeprefix(bos).startswith("USER:"):
            rendered = super().render_prompt(processor, text, num_images, history)
            for turn in history:
                if turn.role == "assistant":
                    rendered = rendered.replace(f"{turn.text}<\\s>", f"{turn.text}{processor.tokenizer.eos_token}")
            return rendered
        turns = conversation(text, num_images, history)
        system = next((f"{turn.text} " for turn in turns if turn.role == "system"), SYSTEM)
        rendered = f"{bos}{system}"
        for turn in turns:
            images = f"{processor.image_token}\n" * turn.num_images
            if turn.role == "user":
                rendered += f"USER: {images}{turn.text} ASSISTANT:"
            elif turn.role == "assistant":
                rendered += f" {self.render_completion(processor, turn.text)}"
        return rendered

    def render_completion(self, processor: Any, text: str) -> str:
        """Return the text and the end of turn, which is EOS if the chat template has no token for it.

        There is no space before the text, because the generation prompt ends with a line break or the tokenizer adds a
        prefix space itself.
        """
        answer = {"role": "assistant", "content": self.answer_content(text)}
        whole = processor.apply_chat_template([*self.messages("", 0), answer], tokenize=False)
        end = whole[whole.rindex(text) + len(text) :]
        if end.strip().startswith(tuple(processor.tokenizer.all_special_tokens)):
            return text + end
        return f"{text}{processor.tokenizer.eos_token}"


class LlavaNext(Llava):
    """Supports LLaVA-NeXT (v1.6), with a view of 336 px (576 tokens) and up to 4 tiles whose padding is removed.

    The features of the tiles form one grid with the image's aspect ratio. A learned vector, ``image_newline``, ends
    each row of the grid. The number of tokens therefore depends on the size of the image.
    """

    name = "llava_next"
    model_types = ("llava_next",)

    def check_processor(self, processor: Any, config: Any) -> None:
        """Raise ModelError if the processor belongs to another model or has different grids of tiles."""
        super().check_processor(processor, config)
        grids = sorted(map(list, processor.image_processor.image_grid_pinpoints))
        if grids != (expected := sorted(map(list, config.image_grid_pinpoints))):
            raise ModelError(
                f"the processor has {len(grids)} grids of tiles (image_grid_pinpoints) from {grids[0]} to "
                f"{grids[-1]}, but the model has {len(expected)} from {expected[0]} to {expected[-1]}: use the "
                "processor saved with the model"
            )

    def set_max_tiles(self, processor: Any, max_tiles: int) -> None:
        """Raise ModelError, because the processor must use the grids of tiles in the model's configuration."""
        raise ModelError(
            f"{self.name} has fixed grids of tiles (image_grid_pinpoints of the model): remove "
            f"model.max_tiles={max_tiles}. To reduce the number of tokens per image, set model.resize=336"
        )

    def features(self, model: Any, images: Sequence[ImageInputs]) -> list[Tensor]:
        """Compute the features (F_i, D) of each prompt's images in token order, in one tower pass over all images."""
        most = max(inputs["pixel_values"].shape[1] for inputs in images)
        batch = {key: torch.cat([inputs[key] for inputs in images]) for key in images[0] if key != "pixel_values"}
        # Pad every image to the largest number of tiles, as the processor does. The model removes this padding.
        batch["pixel_values"] = torch.cat(
            [nn.functional.pad(t, (0,) * 6 + (0, most - t.shape[1])) for t in (i["pixel_values"] for i in images)]
        )
        per_image = model.get_image_features(**batch, return_dict=True).pooler_output
        return by_prompt(per_image, [len(inputs["pixel_values"]) for inputs in images])


class LlavaOnevision(LlavaNext):
    """Supports LLaVA-OneVision, which differs from LLaVA-NeXT by views of 384 px (729 tokens) and up to 36 tiles.

    A feature grid that is larger than 9 tiles is downscaled to the size of 9 tiles. In a prompt with several images,
    each image has one view, which is padded to a square.
    """

    name = "llava_onevision"
    model_types = ("llava_onevision",)
    processor_class = choose_processor(LlavaOnevisionConfig, LlavaOnevisionProcessor, LlavaOnevisionImageProcessor)

    def image_lengths(self, processor: Any, sizes: Sequence[tuple[int, int]]) -> list[int]:
        """Return the number of tokens of each image, including the tokens at the ends of rows."""
        if len(sizes) > 1:  # transformers' method supports only prompts with one image
            return [processor.num_image_tokens + 1] * len(sizes)
        return super().image_lengths(processor, sizes)
