"""SCRAMBLe: synthetic preference data and preference tuning for multimodal language models."""

__version__ = "0.1.0"
