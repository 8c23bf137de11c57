"""Score how well captions fit their image with a CLIP or SigLIP model, to select one caption per image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from scramble.records import ImageRecord


def load_similarity(path: str | Path, *, device: str = "cpu") -> Callable[[ImageRecord, Sequence[str]], list[float]]:
    """Load a function that computes cosine similarities of an image and texts with a CLIP-like model."""
    import torch
    from transformers import AutoModel, AutoProcessor

    model = AutoModel.from_pretrained(path).to(device).eval()
    if not hasattr(model, "get_image_features"):
        raise ValueError(
            f"{path} is a {type(model).__name__}: a similarity model needs image and text features (CLIP, SigLIP)"
        )
    processor = AutoProcessor.from_pretrained(path)
    padding = "max_length" if "siglip" in model.config.model_type else True  # SigLIP was only trained on padded texts

    @torch.inference_mode()
    def similarity(image: ImageRecord, texts: Sequence[str]) -> list[float]:
        inputs = processor(
            text=list(texts), images=image.image.open(), padding=padding, truncation=True, return_tensors="pt"
        ).to(device)
        output = model(**inputs)
        picture, words = output.image_embeds.float(), output.text_embeds.float()
        return torch.nn.functional.cosine_similarity(picture, words).tolist()

    return similarity
