"""Score the similarity of texts and images with a CLIP or SigLIP model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from scramble.models.family import ModelError
from scramble.pairs.base import ImageText, Similarity
from scramble.pairs.scoring.text_scorers import load_pretrained
from scramble.records import ImageFile


def load_similarity(
    path: str | Path,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str | None = None,
    batch_size: int = 32,
) -> Similarity:
    """Load a function that computes the cosine similarity of image-text pairs with a CLIP-like model.

    Consecutive texts of the same image share the features of this image. ``batch_size`` is the number of images per
    forward pass. The other arguments are documented in :func:`scramble.pairs.scoring.text_scorers.load_grammar`.

    Raises:
        ModelError: the model cannot be loaded, or does not compute image and text features.
    """
    from transformers import AutoModel, AutoProcessor

    model, processor, at = load_pretrained(AutoModel, AutoProcessor, path, revision, dtype, device)
    if not hasattr(model, "get_image_features"):
        raise ModelError(
            f"{path} is a {type(model).__name__}, which does not compute image and text features: use a CLIP or SigLIP "
            "model"
        )
    padding = "max_length" if "siglip" in model.config.model_type else True  # SigLIP was trained only on padded texts

    @torch.inference_mode()
    def similarity(items: Sequence[ImageText]) -> list[float]:
        values: list[float] = []
        for images, owners, texts in _batches(items, batch_size):
            inputs = processor(
                text=texts,
                images=[image.open() for image in images],
                padding=padding,
                truncation=True,
                return_tensors="pt",
            ).to(at)
            inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
            output = model(**inputs)
            pictures, words = output.image_embeds.float()[owners], output.text_embeds.float()
            values += torch.nn.functional.cosine_similarity(pictures, words).tolist()
        return values

    return similarity


def _batches(items: Sequence[ImageText], count: int) -> list[tuple[list[ImageFile], list[int], list[str]]]:
    """Return batches of at most ``count`` images: the images, the index of the image of each text, and the texts."""
    batches: list[tuple[list[ImageFile], list[int], list[str]]] = []
    previous: ImageFile | None = None
    for image, text in items:
        if image is not previous:
            if not batches or len(batches[-1][0]) == count:
                batches.append(([], [], []))
            batches[-1][0].append(image)
            previous = image
        batches[-1][1].append(len(batches[-1][0]) - 1)
        batches[-1][2].append(text)
    return batches
