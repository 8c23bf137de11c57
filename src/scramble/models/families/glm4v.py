"""Supports GLM-4.1V, GLM-4.5V and GLM-4.6V with transformers' native classes (``zai-org/...``)."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from transformers import Glm4vConfig, Glm4vMoeConfig, Glm4vProcessor, Glm46VConfig

from scramble.models.families.image_only import ImageOnly, choose_processor
from scramble.models.families.qwen_vl import QwenVL


class Glm4vImageProcessor(ImageOnly, Glm4vProcessor):
    """Provides the native processor without its video part. GLM-4.6V's processor treats images in the same way."""

    video_processor_type = "Glm4vVideoProcessor"


class Glm4v(QwenVL):
    """Supports GLM-4.1V and GLM-4.6V-Flash, whose images and positions are encoded as in Qwen-VL.

    If the chat template has a format for answers without thinking, prompts have this format. GLM-4.1V-Thinking always
    thinks. An answer ends with ``<|user|>``, which the models generate at the end of a turn. The chat template itself
    adds no token after a finished turn.
    """

    name = "glm4v"
    model_types: tuple[str, ...] = ("glm4v", "glm46v")
    lora_targets = r"model\.language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate_up|down)_proj)"
    # With torchvision, None selects the class that the checkpoint names, because GLM-4.6V has its own processor class.
    processor_class = choose_processor(Glm4vConfig, None, Glm4vImageProcessor)
    counts_frames = True
    template_options = MappingProxyType({"enable_thinking": False})
    end_of_turn = "<|user|>"

    def answer_content(self, text: str) -> str:
        """Return the text itself, because GLM-4.1V's template accepts an answer only as a string."""
        return text

    def render_completion(self, processor: Any, text: str) -> str:
        """Return what the chat template appends to the prompt for the answer ``text``, followed by the end of turn."""
        return super().render_completion(processor, text) + self.end_of_turn


class Glm4vMoe(Glm4v):
    """Supports GLM-4.5V and GLM-4.6V, which are mixtures of experts.

    LoRA adapts only the attention layers. The other linear layers belong to the shared experts and to the first layer's
    MLP. They are excluded, because PEFT interprets their names as the fused weights of the routed experts for this
    model type.
    """

    name = "glm4v_moe"
    model_types = ("glm4v_moe",)
    lora_targets = r"model\.language_model\.layers\.\d+\.self_attn\.(q|k|v|o)_proj"
    processor_class = choose_processor(Glm4vMoeConfig, None, Glm4vImageProcessor)


choose_processor(Glm46VConfig, None, Glm4vImageProcessor)
