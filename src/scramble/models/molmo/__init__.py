"""Implements Molmo v1 for transformers 5, without remote code.

Importing this package registers Molmo's classes with transformers' Auto classes.
"""

from __future__ import annotations

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
)

from .configuration_molmo import MolmoConfig, MolmoVisionConfig
from .image_processing_molmo import MolmoImageProcessor
from .modeling_molmo import MolmoForCausalLM, MolmoModel, MolmoPreTrainedModel, MolmoTextModel
from .processing_molmo import MolmoProcessor

AutoConfig.register("molmo", MolmoConfig, exist_ok=True)
AutoModel.register(MolmoConfig, MolmoModel, exist_ok=True)
AutoModelForCausalLM.register(MolmoConfig, MolmoForCausalLM, exist_ok=True)
AutoModelForImageTextToText.register(MolmoConfig, MolmoForCausalLM, exist_ok=True)
# One class is registered for both backends, because it resizes with neither Pillow nor torchvision.
AutoImageProcessor.register(
    MolmoConfig,
    image_processor_classes={"pil": MolmoImageProcessor, "torchvision": MolmoImageProcessor},
    exist_ok=True,
)
AutoProcessor.register(MolmoConfig, MolmoProcessor, exist_ok=True)

__all__ = [
    "MolmoConfig",
    "MolmoForCausalLM",
    "MolmoImageProcessor",
    "MolmoModel",
    "MolmoPreTrainedModel",
    "MolmoProcessor",
    "MolmoTextModel",
    "MolmoVisionConfig",
]
