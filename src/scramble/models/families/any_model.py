"""Supports models without a family of their own, with transformers' image-text-to-text classes.

A token trie needs properties of a model that only its own family defines. Each sequence is therefore a separate row in
a batch for the model's own ``forward`` (:mod:`scramble.models.rows`). The module paths are read from the model.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from PIL import Image
from torch import Tensor, nn

from scramble.models.family import Family, ModelError, Prompt, check_image_token
from scramble.records import Turn

NOT_INPUTS = ("input_ids", "attention_mask", "labels")  # PaliGemma's processor also returns labels


class AnyModel(Family):
    """Supports a model of ``AutoModelForImageTextToText``, without token tries.

    Args:
        name: the model type; by default the class attribute ``name``.
    """

    has_trie = False

    def __init__(self, name: str = "") -> None:
        super().__init__()
        self.name = name or self.name
        self.model_types = (self.name,)

    def find_parts(self, model: nn.Module) -> None:
        """Set the module paths from the model's own accessors. ``model`` may be on the meta device.

        ``vision`` is set to the paths of all modules outside the language model and the head (towers, projectors), and
        of an image tower inside the language model. ``lora_targets`` matches the layers that PEFT's ``all-linear``
        matches, but only inside the language model.

        Raises:
            ModelError: the model is an encoder-decoder, or has no language model or output head.
        """
        if getattr(model.config, "is_encoder_decoder", False):
            raise ModelError(
                f"{self.name} is an encoder-decoder model, but only decoder-only models can be scored and trained: "
                "choose another model"
            )
        paths = {id(module): path for path, module in model.named_modules()}
        decoder = model.get_decoder()  # type: ignore[operator]
        # In some models (Nemotron) only the language model returns its head.
        head = model.get_output_embeddings() or decoder.get_output_embeddings()  # type: ignore[operator]
        tower = model.get_encoder(modality="image")  # type: ignore[operator]
        if head is None or not paths.get(id(decoder)):
            raise ModelError(f"{self.name} has no language model with an output head: choose another model")
        self.head, self.language_model = paths[id(head)], paths[id(decoder)]
        text = [decoder, head, model.get_input_embeddings()]  # type: ignore[operator]
        vision = [paths[id(module)] for module in _outside(model, text)]
        if paths.get(id(tower), "").startswith(f"{self.language_model}."):
            vision.append(paths[id(tower)])
        self.vision = tuple(vision)
        excluded = {id(m) for path in self.vision for m in model.get_submodule(path).modules()} | {id(head)}
        layers = [
            paths[id(module)]
            for module in decoder.modules()
            if isinstance(module, nn.Linear) and id(module) not in excluded
        ]
        # Use one pattern for all layer indices, so that "model.layers.0.mlp" and "model.layers.1.mlp" have the same
        # pattern.
        patterns = {re.sub(r"(?<=\\\.)\d+(?=\\\.)", r"\\d+", re.escape(path)) for path in layers}
        self.lora_targets = "|".join(sorted(patterns))

    # ---------------------------------------------------------------------------------------------------- loading

    def check_processor(self, processor: Any, config: Any) -> None:
        """Raise ModelError if the processor belongs to another model, or has no chat template."""
        from transformers import PROCESSOR_MAPPING

        if not hasattr(processor, "image_processor"):
            raise ModelError(
                f"the processor of {self.name} is a {type(processor).__name__}, which does not process images: use the "
                "processor saved with the model"
            )
        self.check_template(processor)
        expected = self.feature_tokens(config)
        # In Gemma 3, the processor's ``image_token_id`` marks the start of an image, and the tokenizer's marks an image
        # feature.
        parts = (processor, processor.tokenizer)
        named = {part.image_token_id for part in parts if getattr(part, "image_token_id", None) is not None}
        if expected and named:
            check_image_token(processor, min(expected & named or named), expected)
            return
        native: Any = PROCESSOR_MAPPING.get(type(config), type(processor))
        if not isinstance(processor, native):
            raise ModelError(
                f"the processor is a {type(processor).__name__}, but {self.name} uses a {native.__name__}, so the "
                "processor belongs to another model: use the processor saved with the model"
            )

    def check_template(self, processor: Any) -> None:
        """Raise ModelError if the processor has no chat template."""
        if not getattr(processor, "chat_template", None):
            raise ModelError(
                f"the processor of {self.name} has no chat template, so prompts have no defined format: choose an "
                "instruction-tuned checkpoint, or add a chat_template.jinja to the model's folder"
            )

    def max_length(self, config: Any) -> int:
        """Return the decoder's maximum number of positions, or ``sys.maxsize`` if its config has no maximum."""
        return int(getattr(config.get_text_config(), "max_position_embeddings", None) or sys.maxsize)

    # ---------------------------------------------------------------------------------------------------- prompts

    def encode_prompt(
        self, processor: Any, text: str, images: Sequence[Image.Image] = (), history: Sequence[Turn] = ()
    ) -> Prompt:
        """Return the token ids of a prompt. ``Prompt.images`` holds all other inputs of ``model.forward``.

        Depending on the model, the other inputs include ``token_type_ids`` or ``cross_attention_mask``. Raises
        ModelError as described in :meth:`check_text`.
        """
        self.check_text(processor, text, history)
        batch = processor(
            images=[self.image_options.apply(image) for image in images] or None,
            text=[self.render_prompt(processor, text, len(images), history)],
            return_tensors="pt",
            add_special_tokens=False,
        )
        inputs = {name: value for name, value in batch.items() if isinstance(value, Tensor) and name not in NOT_INPUTS}
        return Prompt(batch["input_ids"][0].tolist(), inputs)

    def num_tokens(
        self, processor: Any, text: str, sizes: Sequence[tuple[int, int]] = (), history: Sequence[Turn] = ()
    ) -> int:
        """Return the length in tokens of a prompt with images of these sizes, by encoding it with blank images."""
        images = [Image.new("RGB", (width, height)) for height, width in sizes]
        return len(self.encode_prompt(processor, text, images, history).input_ids)

    # -------------------------------------------------------------------------------------------- parts of the model

    def feature_tokens(self, config: Any) -> frozenset[int]:
        """Return the id of the image placeholder, or an empty set if the configuration does not contain the id."""
        token = getattr(config, "image_token_id", None)
        token = getattr(config, "image_token_index", None) if token is None else token
        return frozenset() if token is None else frozenset({int(token)})

    def attention_windows(self, config: Any) -> dict[str, int | None]:
        """Return an empty dictionary, because the model's own ``forward`` creates the masks."""
        return {}

    def features(self, *args: object) -> NoReturn:
        """Raise ModelError, because the trie engine does not support this model."""
        raise ModelError(f"{self.name} does not support token tries: train the model with trainer.backend=trl")

    def embed_tokens(self, *args: object) -> NoReturn:
        """Raise ModelError (see :meth:`features`)."""
        self.features()

    def generation_inputs(self, prompt: Prompt, model: Any) -> dict[str, Tensor]:
        """Return the arguments of ``model.generate`` for one prompt, on the model's device and in its dtype."""
        inputs = super().generation_inputs(prompt, model)
        return {
            name: value.to(model.dtype) if torch.is_floating_point(value) else value for name, value in inputs.items()
        }


class PaliGemma(AnyModel):
    """Supports PaliGemma and PaliGemma 2. A sequence consists of image, BOS, text, line break, answer and EOS.

    There is no chat template, and the processor adds BOS and the line break. A prompt needs an image. The prompt's
    tokens (``token_type_ids`` 0) attend to each other bidirectionally, and the answer's tokens (1) attend causally.
    """

    name = "paligemma"
    model_types = ("paligemma",)
    answer_token_type = 1

    def check_template(self, processor: Any) -> None:
        """Accept a processor without a chat template, because PaliGemma's prompts are not chats."""

    def render_prompt(self, processor: Any, text: str, num_images: int, history: Sequence[Turn] = ()) -> str:
        """Return the image placeholders and the text. The processor adds BOS and a line break."""
        if history:
            raise ModelError(
                f"{self.name} does not support conversations: remove the turns before the prompt {text[:80]!r}"
            )
        if not num_images:
            raise ModelError(f"{self.name} supports only prompts with an image: add an image to {text[:80]!r}")
        return processor.image_token * num_images + text

    def render_completion(self, processor: Any, text: str) -> str:
        """Return the text and EOS."""
        return f"{text}{processor.tokenizer.eos_token}"


def _outside(module: nn.Module, text: Sequence[nn.Module]) -> list[nn.Module]:
    """Return the largest modules that have parameters, are outside ``text`` and contain no module of ``text``."""
    modules = []
    for child in module.children():
        if any(child is part for part in text):
            continue
        inside = {id(m) for m in child.modules()}
        if any(id(part) in inside for part in text):
            modules += _outside(child, text)
        elif any(True for _ in child.parameters()):
            modules.append(child)
    return modules
